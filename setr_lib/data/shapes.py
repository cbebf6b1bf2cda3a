"""`shapes`: made-up scenes without end, each from its number alone. No files, no download.

A scene has a sky, a field, a path, houses, trees, balls, fences and poles, near and far. Colours
overlap between classes, so texture and surroundings must help; fences and poles are one to three
pixels thin; near things hide what is behind them. A decoder that keeps detail has something to
gain here.
"""

# H W scene rows and columns

import numpy as np
from PIL import Image, ImageDraw

from ..geometry import Size

CLASSES = ("sky", "field", "path", "house", "tree", "ball", "fence", "pole")
PALETTE = (  # Okabe and Ito's colours: distinct for colour-blind readers too
    (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0),
    (0, 114, 178), (204, 121, 167), (230, 159, 0), (0, 0, 0),
)  # fmt: skip
SKY, FIELD, PATH, HOUSE, TREE, BALL, FENCE, POLE = range(8)
Colour = tuple[int, int, int]


def make_scene(rng: np.random.Generator, size: Size = (128, 128)) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image `(H,W,3)` uint8 and label `(H,W)` uint8, both decided by `rng` alone."""
    height, width = size
    horizon = int(height * rng.uniform(0.25, 0.5))
    canvas = _Canvas(size)
    blue, green = _colour(rng, (120, 160, 210), 35), _colour(rng, (110, 140, 70), 35)
    canvas.paint(SKY, blue, lambda d, c: d.rectangle((0, 0, width, height), c))
    canvas.paint(FIELD, green, lambda d, c: d.rectangle((0, horizon, width, height), c))
    if rng.random() < 0.8:
        _path(canvas, rng, horizon)
    # What stands on the ground, far things first: near ones hide them and are larger.
    feet = np.sort(rng.uniform(0.02, 1.0, rng.integers(7, 14)))
    for near in feet:
        foot = horizon + near * (height - horizon)
        draw = _THINGS[rng.choice(len(_THINGS), p=_SHARES)]
        draw(canvas, rng, float(foot), (0.25 + 0.75 * float(near)) * height)
    return canvas.finish(rng)


class _Canvas:
    """An image and its label, drawn by the same strokes."""

    def __init__(self, size: Size) -> None:
        self.height, self.width = size
        self.image = Image.new("RGB", (self.width, self.height))
        self.label = Image.new("L", (self.width, self.height))
        self._draw = ImageDraw.Draw(self.image), ImageDraw.Draw(self.label)

    def paint(self, kind: int, colour: Colour, stroke) -> None:
        """Call `stroke(draw, fill)` for the image with the colour, for the label with the class."""
        stroke(self._draw[0], colour)
        stroke(self._draw[1], kind)

    def finish(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Lay each class's texture and the scene's light over the flat colours."""
        label = np.asarray(self.label)
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        noise = rng.standard_normal((self.height, self.width)).astype(np.float32)
        smooth = sum(  # slow waves: clouds, and the field's rise and fall
            np.sin(a * x + b * y + c) for a, b, c in rng.uniform(-0.12, 0.12, (3, 3)) * (1, 1, 50)
        )
        bricks = ((y % 6 < 1) | ((x + 5 * (y // 6 % 2)) % 10 < 1)).astype(np.float32)
        texture = np.stack(
            [
                10 * smooth + 2 * noise,  # sky
                6 * smooth + 14 * noise * (x % 3 < 1),  # field: upright blades
                9 * noise,  # path: gravel
                -45 * bricks + 4 * noise,  # house: bricks
                24 * np.sin(x * 1.3 + 2 * smooth) * np.sin(y * 1.1) + 9 * noise,  # tree: leaves
                4 * noise,  # ball
                6 * noise,  # fence
                6 * noise,  # pole
            ]
        )
        light = 12 * np.sin(x / self.width * np.pi * rng.uniform(0.5, 2) + rng.uniform(0, 6))
        shade = np.take_along_axis(texture, label[None].astype(np.int64), 0)[0] + light
        image = np.asarray(self.image, dtype=np.float32) + shade[..., None]
        return np.clip(image, 0, 255).astype(np.uint8), label.copy()


def _path(canvas: _Canvas, rng: np.random.Generator, horizon: int) -> None:
    top, left, right = rng.uniform(0.2, 0.8), *np.sort(rng.uniform(0.0, 1.0, 2))
    right = max(right, left + 0.15)
    corners = [(top, horizon), (top + 0.02, horizon), (right, canvas.height), (left, canvas.height)]
    points = [(x * canvas.width, y) for x, y in corners]
    canvas.paint(PATH, _colour(rng, (150, 135, 115), 30), lambda d, c: d.polygon(points, c))


def _house(canvas: _Canvas, rng: np.random.Generator, foot: float, scale: float) -> None:
    wide, tall = scale * rng.uniform(0.2, 0.45), scale * rng.uniform(0.2, 0.4)
    x = rng.uniform(-0.1, 1.0) * canvas.width
    wall, roof = _colour(rng, (165, 110, 90), 45), _colour(rng, (110, 70, 65), 35)
    canvas.paint(HOUSE, wall, lambda d, c: d.rectangle((x, foot - tall, x + wide, foot), c))
    eaves, ridge = foot - tall, (x + wide / 2, foot - 1.5 * tall)
    gable = [(x - 0.08 * wide, eaves), ridge, (x + 1.08 * wide, eaves)]
    canvas.paint(HOUSE, roof, lambda d, c: d.polygon(gable, c))
    for column in (0.2, 0.6):  # windows are part of the house, whatever their colour
        left, right = x + column * wide, x + (column + 0.2) * wide
        pane, glass = (left, foot - 0.75 * tall, right, foot - 0.45 * tall), (120, 160, 210)
        canvas.paint(HOUSE, _colour(rng, glass, 35), lambda d, c, p=pane: d.rectangle(p, c))


def _tree(canvas: _Canvas, rng: np.random.Generator, foot: float, scale: float) -> None:
    x, tall = rng.uniform(0, 1) * canvas.width, scale * rng.uniform(0.25, 0.5)
    trunk = (x - 0.03 * tall, foot - 0.5 * tall, x + 0.03 * tall, foot)
    canvas.paint(TREE, _colour(rng, (95, 75, 55), 20), lambda d, c: d.rectangle(trunk, c))
    leaves = _colour(rng, (80, 120, 60), 40)
    for dx, dy, r in rng.uniform((-0.2, 0.45, 0.15), (0.2, 0.85, 0.28), (4, 3)) * tall:
        blob = (x + dx - r, foot - dy - r, x + dx + r, foot - dy + r)
        canvas.paint(TREE, leaves, lambda d, c, b=blob: d.ellipse(b, c))


def _ball(canvas: _Canvas, rng: np.random.Generator, foot: float, scale: float) -> None:
    x, r = rng.uniform(0, 1) * canvas.width, scale * rng.uniform(0.03, 0.1)
    colour = _colour(rng, (170, 120, 120), 80)
    canvas.paint(BALL, colour, lambda d, c: d.ellipse((x - r, foot - 2 * r, x + r, foot), c))
    bright = min(255, colour[0] + 50), min(255, colour[1] + 50), min(255, colour[2] + 50)
    shine = (x - 0.5 * r, foot - 1.7 * r, x + 0.1 * r, foot - 1.1 * r)
    canvas.paint(BALL, bright, lambda d, c: d.ellipse(shine, c))


def _fence(canvas: _Canvas, rng: np.random.Generator, foot: float, scale: float) -> None:
    left, wide = rng.uniform(-0.2, 0.8) * canvas.width, scale * rng.uniform(0.4, 0.9)
    tall, gap = scale * rng.uniform(0.08, 0.14), max(4.0, scale * 0.05)
    thick = 1 if scale < 0.6 * canvas.height else 2
    wood = _colour(rng, (175, 160, 130), 35)
    rails = [
        ((left, foot - share * tall), (left + wide, foot - share * tall)) for share in (0.4, 0.8)
    ]
    posts = [((x, foot - tall), (x, foot)) for x in np.arange(left, left + wide, gap)]
    for line in rails + posts:
        canvas.paint(FENCE, wood, lambda d, c, at=line: d.line(at, c, thick))


def _pole(canvas: _Canvas, rng: np.random.Generator, foot: float, scale: float) -> None:
    x, tall = rng.uniform(0, 1) * canvas.width, scale * rng.uniform(0.5, 0.9)
    thick = 1 + int(scale > 0.5 * canvas.height) + int(scale > 0.85 * canvas.height)
    metal, arm = _colour(rng, (110, 110, 115), 35), tall * rng.uniform(-0.2, 0.2)
    for end in ((x, foot), (x + arm, foot - tall)):
        line = ((x, foot - tall), end)
        canvas.paint(POLE, metal, lambda d, c, at=line: d.line(at, c, thick))


_THINGS = (_house, _tree, _ball, _fence, _pole)
_SHARES = (0.2, 0.25, 0.2, 0.15, 0.2)


def _colour(rng: np.random.Generator, base: Colour, spread: int) -> Colour:
    shift = rng.integers(-spread, spread + 1, 3)
    red, green, blue = np.clip(np.array(base) + shift, 0, 255).tolist()
    return red, green, blue
