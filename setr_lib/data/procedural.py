"""Pictures from formulas, with labels: dead leaves, and a street in CamVid's classes.

Made by tensor operations where the network is, a whole batch at a time, so that a GPU makes them
as fast as it reads them. A picture is painted from far to near: what comes later hides what was
there. Both are seen by the network as normalised images.
"""

# n pictures, h w their rows and columns; numbers per picture are (n,1,1), colours (n,3,1,1)

import math
from typing import Any

import torch
from torch import Tensor

from ..geometry import Size
from ..images import MEAN, STD

Made = tuple[Tensor, Tensor]  # images (n,3,h,w) normalised, labels (n,h,w) int64
CONTOURS, TEXTURES, LEAVES = 6, 4, 20
LEAF_CLASSES = 1 + CONTOURS * TEXTURES  # and the ground behind them


class Canvas:
    """A batch of pictures and their labels, painted by the same strokes."""

    def __init__(self, n: int, size: Size, device: torch.device) -> None:
        self.n, self.device = n, device
        self.y = torch.arange(size[0], device=device).view(1, -1, 1).float()
        self.x = torch.arange(size[1], device=device).view(1, 1, -1).float()
        self.image = torch.zeros(n, 3, *size, device=device)
        self.label = torch.zeros(n, *size, dtype=torch.int64, device=device)

    def draw(self, low: float, high: float) -> Tensor:
        """A number `(n,1,1)` for each picture, uniform."""
        return torch.empty(self.n, 1, 1, device=self.device).uniform_(low, high)

    def colour(self, low: float = 0.0, high: float = 255.0) -> Tensor:
        """`(n,3,1,1)`."""
        return torch.empty(self.n, 3, 1, 1, device=self.device).uniform_(low, high)

    def choice(self, count: int) -> Tensor:
        """One of `count` for each picture, `(n,1,1)`."""
        return torch.randint(count, (self.n, 1, 1), device=self.device)

    def paint(self, inside: Tensor, kind: Any, colour: Tensor, shade: Tensor) -> None:
        """Where `inside` `(n,h,w)`: the class `kind`, and the colour with `shade` `(n,h,w)`."""
        self.image = torch.where(inside[:, None], colour + shade[:, None], self.image)
        self.label = torch.where(inside, torch.as_tensor(kind, device=self.device), self.label)

    def finish(self) -> Made:
        """With the noise of a camera, in 0 to 255, normalised."""
        noise = torch.randn_like(self.image) * self.draw(0, 8)[:, None]
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (MEAN, STD))
        return ((self.image + noise).clamp(0, 255) - mean) / std, self.label

    def texture(self, kind: Tensor) -> Tensor:
        """Flat, stripes, checks or grain `(n,h,w)` by `kind` `(n,1,1)`, about -1 to 1."""
        turn, pace = self.draw(0, math.pi), self.draw(0.25, 1.2)
        along = torch.sin(pace * (self.x * turn.cos() + self.y * turn.sin()))
        across = torch.sin(pace * (self.y * turn.cos() - self.x * turn.sin()))
        grain = torch.randn(self.label.shape, device=self.device)
        faces = torch.stack([torch.zeros_like(along), along, 1.5 * along * across, grain])
        return faces.gather(0, kind[None].expand(1, *self.label.shape))[0]


def leaves(n: int, size: Size, device: torch.device) -> Made:
    """Dead leaves: closed curves over one another. A class is a contour and a texture.

    The idea of SegRCDB (Shinoda et al., ICCV 2023), shapes with classes from a formula, with
    filled contours of 0 to 6 waves instead of its drawn polygons: they need a few operations.
    """
    c, (h, w) = Canvas(n, size, device), size
    c.image += c.colour() + (c.x / w * c.draw(-120, 120))[:, None]
    for _ in range(LEAVES):
        radius = c.draw(math.log(6), math.log(max(7.0, h / 2.5))).exp()
        dx, dy = c.x - c.draw(0, w), (c.y - c.draw(0, h)) * c.draw(0.6, 1.7)
        angle, contour, texture = torch.atan2(dy, dx), c.choice(CONTOURS), c.choice(TEXTURES)
        deep = 0.35 * (contour > 0)  # 0: a disc; else so many waves and one
        wave = deep * torch.cos((contour + 1) * angle + c.draw(0, 6.3))
        wave = wave + 0.05 * torch.cos((2 * contour + 3) * angle + c.draw(0, 6.3))
        inside = dx.hypot(dy) < radius * (1 + wave)
        kind = 1 + contour * TEXTURES + texture
        c.paint(inside, kind, c.colour(), c.texture(texture) * c.draw(20, 70))
    return c.finish()


SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PERSON, RIDER = range(11)
# What stands in a street, in metres: half width, half height, height of its middle above the
# ground, how square it is (2: an ellipse), how wavy; and where: metres from the road's middle.
THINGS = {
    TREE: (2.0, 2.2, 4.5, 2.0, 0.3, 5.0, 12.0), POLE: (0.08, 3.0, 3.0, 8.0, 0.0, 4.0, 7.0),
    SIGN: (0.4, 0.4, 2.6, 5.0, 0.0, 4.0, 7.0), FENCE: (3.0, 0.5, 0.5, 8.0, 0.0, 4.5, 8.0),
    CAR: (0.9, 0.7, 0.7, 4.0, 0.0, 0.0, 4.0), PERSON: (0.25, 0.85, 0.85, 2.5, 0.0, 2.0, 7.0),
    RIDER: (0.35, 0.9, 0.9, 2.0, 0.15, 0.0, 5.0),
}  # fmt: skip
COUNT = 24  # things in a picture
TEXTURE = (0, 2, 0, 3, 2, 3, 0, 1, 0, 0, 0)  # of each class, as in `Canvas.texture`


def street(n: int, size: Size, device: torch.device) -> Made:
    """A street in CamVid's 11 classes, seen from a car: planes that meet in a vanishing point.

    The ground is flat, the camera 1.5 metres above it: what stands `z` metres ahead has its foot
    1.5 f / z rows under the horizon, and a metre has f / z pixels there.
    """
    c, (h, w) = Canvas(n, size, device), size
    row, column = h * c.draw(0.35, 0.55), w * c.draw(0.3, 0.7)  # of the vanishing point
    focal = h * c.draw(0.9, 1.5)
    c.image += c.colour(150, 255) + ((c.y / h) * c.draw(-60, 60))[:, None]  # the sky, class 0
    down = (c.y - row).clamp(min=1e-3)
    metres = (c.x - column) * 1.5 / down  # to the right, on the ground
    ground, kerb, wall = c.y > row, c.draw(3, 5), c.draw(6, 14)
    _paint(c, ground, PAVEMENT, c.colour(60, 190))
    _paint(c, ground & (metres.abs() < kerb), ROAD, c.colour(40, 140))
    for left in (-1, 1):  # a row of houses on each, whose front is a plane
        ahead = wall * focal / (left * (c.x - column)).clamp(min=1e-3)
        house = (ahead / c.draw(8, 25)).floor().clamp(0, 40)
        tall = 4 + 9 * torch.frac(torch.sin(house * c.draw(1, 9)) * 43.7).abs()
        foot, roof = row + 1.5 * focal / ahead, row - (tall - 1.5) * focal / ahead
        front = (left * (c.x - column) > 0) & (c.y < foot) & (c.y > roof)
        _paint(c, front & (torch.frac(house * 0.37 + c.draw(0, 1)) > 0.25), BUILDING, c.colour())
    far_first = torch.rand(COUNT, n, 1, 1, device=device).sort(0).values
    kinds = [*THINGS, TREE, TREE]  # trees are as common as cars and people together
    table = torch.tensor([THINGS[kind] for kind in kinds], device=device)
    for near in far_first:
        ahead = 40 * (4 / 40) ** near  # 40 to 4 metres, in equal ratios
        pixels = focal / ahead
        which = c.choice(len(kinds))
        wide, high, up, square, wavy, least, most = table[which].unbind(-1)
        grown = c.draw(0.7, 1.3)
        side = torch.where(c.draw(-1, 1) > 0, 1.0, -1.0)
        at = column + side * (least + (most - least) * c.draw(0, 1)) * pixels
        dx = (c.x - at) / (wide * grown * pixels).clamp(min=0.5)
        dy = (c.y - (row + (1.5 - up * grown) * pixels)) / (high * grown * pixels).clamp(min=0.5)
        edge = 1 + wavy * torch.cos(5 * torch.atan2(dy, dx) + c.draw(0, 6.3))
        inside = dx.abs() ** square + dy.abs() ** square < edge
        _paint(c, inside, torch.tensor(kinds, device=device)[which], c.colour(0, 230))
    return c.finish()


def _paint(c: Canvas, inside: Tensor, kind: Any, colour: Tensor) -> None:
    """With the texture of the class; trees are greener than they are red or blue."""
    kinds = torch.as_tensor(kind, device=c.device).expand(c.n, 1, 1)
    green = torch.tensor([-25.0, 25.0, -25.0], device=c.device).view(3, 1, 1)
    texture = torch.tensor(TEXTURE, device=c.device)[kinds]
    colour = torch.where((kinds == TREE)[:, None], colour / 2 + 40 + green, colour)
    c.paint(inside, kinds, colour, c.texture(texture) * c.draw(10, 40))
