"""A made-up street, drawn: something to begin with where no photograph may be shown.

It looks enough like one that the network trained on streets knows its way (tests/test_live.py).
"""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (240, 180)  # width, height


def street() -> np.ndarray:
    """`(180,240,3)` uint8: sky, houses, trees, a road with cars, pavements on both sides."""
    rng = np.random.default_rng(3)
    image = Image.new("RGB", SIZE)
    draw = ImageDraw.Draw(image)
    for row in range(SIZE[1]):
        draw.line((0, row, SIZE[0], row), (225 - row // 4, 232 - row // 5, 240 - row // 8))
    houses = [(0, 18, 62, "#b39a86"), (50, 44, 96, "#c4b8a6"), (150, 52, 190, "#a89c92"),
              (182, 8, 240, "#b5a496")]  # fmt: skip
    for left, top, right, colour in houses:
        draw.rectangle((left, top, right, 120), colour)
        for y in range(top + 8, 106, 16):
            for x in range(left + 6, right - 8, 13):
                draw.rectangle((x, y, x + 5, y + 8), "#3c4047")
    draw.polygon([(0, 180), (0, 128), (104, 100), (136, 100), (240, 126), (240, 180)], "#8f8b88")
    draw.polygon([(20, 180), (110, 100), (130, 100), (222, 180)], "#5b5a5e")
    draw.polygon([(119, 180), (119.5, 104), (120.5, 104), (124, 180)], "#a9a8a4")
    for x, y, size in ((84, 82, 17), (97, 90, 11), (158, 88, 13)):
        draw.rectangle((x - 1, y, x + 1, y + 26), "#3d3128")
        for _ in range(60):
            a, b = rng.normal(0, size / 2.2, 2)
            green = int(rng.integers(45, 85))
            draw.ellipse(
                (x + a - 3, y + b - 3, x + a + 3, y + b + 3), (green - 10, green, green // 2)
            )
    for x, y, wide, colour in (
        (44, 118, 34, "#24303f"),
        (168, 112, 30, "#5a1f1f"),
        (138, 102, 14, "#c9c9cc"),
    ):
        tall = wide * 0.62
        draw.rectangle((x, y, x + wide, y + tall), colour)
        draw.rectangle((x + wide * 0.14, y - tall * 0.4, x + wide * 0.86, y + 2), colour)
        draw.rectangle((x + wide * 0.2, y - tall * 0.3, x + wide * 0.8, y), "#1b2026")
        draw.rectangle((x + 2, y + tall - 2, x + wide * 0.25, y + tall + 3), "#15161a")
        draw.rectangle((x + wide * 0.75, y + tall - 2, x + wide - 2, y + tall + 3), "#15161a")
    draw.line((28, 132, 28, 60), "#55565a", 2)
    draw.line((212, 132, 212, 40), "#55565a", 2)
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    return (soft + rng.normal(0, 5, (SIZE[1], SIZE[0], 1))).clip(0, 255).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """A PNG of pixels `(H,W,3)`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
