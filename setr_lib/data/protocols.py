"""How an image is looked at when a network is scored: its size, its windows, its views."""

# H W image rows and columns

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

from ..files import unknown
from ..geometry import Size, as_size
from ..images import fit_inside

RULES = ("original", "fit", "short")
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # paper, section 4.2


@dataclass(frozen=True)
class TestProtocol:
    """Sizes, windows and views of an evaluation.

    Args:
        window: rows and columns of the window that slides; None: whole images.
        stride: between windows; None: the window.
        base: (long side, short side) that a ratio multiplies.
        rule: what becomes of an image at a ratio, always with its aspect kept.
            `"original"`: the image's own size times the ratio, as mmsegmentation 1.x does in its
            multi-scale test (both sides are rounded, then the image is fitted into them); it has
            no base. `"fit"`: as large as fits inside base times the
            ratio. `"short"`: the short side becomes that of base times the ratio, but not less
            than the window's short side; the long side may be anything (the authors' multi-scale
            test since their commit 9a473bc, and the enlarging that the paper's section 4.2 asks
            for).
        scales: the ratios; the probabilities of all views are averaged.
        flip: whether each ratio is read mirrored too.

    Raises:
        ValueError: for a value outside its range; the message names it and what is possible.
    """

    __test__ = False  # for pytest, which collects classes that are called Test...

    window: Size | None = None
    stride: Size | None = None
    base: tuple[int, int] | None = None
    rule: str = "original"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(unknown("rule", self.rule, RULES))
        if (self.base is None) != (self.rule == "original"):
            raise ValueError(
                f"rule is {self.rule!r} and base {self.base}; 'original' has no base, "
                "'fit' and 'short' need one"
            )
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales are {self.scales}; name at least one, all above 0")
        if self.window is None and self.stride is not None:
            raise ValueError(f"stride is {self.stride} without a window; name the window too")
        if self.window is not None:
            window = as_size(self.window, "window")
            stride = as_size(self.stride or window, "stride")
            check_stride(window, stride)
            object.__setattr__(self, "window", window)
            object.__setattr__(self, "stride", stride)

    def view_size(self, size: Size, ratio: float) -> Size:
        """The rows and columns at which an image of `size` is read at a ratio."""
        if self.rule == "original" or self.base is None:
            box = [max(1, int(ratio * side + 0.5)) for side in size]
            return fit_inside(size, (max(box), min(box)))
        long, short = (int(ratio * side) for side in (max(self.base), min(self.base)))
        if self.rule == "fit":
            return fit_inside(size, (long, short))
        return fit_inside(size, (inf, max(short, min(self.window or (1,)))))

    def views(self) -> list[tuple[float, bool]]:
        """All (ratio, mirrored)."""
        return [(ratio, side) for ratio in self.scales for side in (False, True)[: 1 + self.flip]]

    def multi_scale(self, rule: str | None = None) -> "TestProtocol":
        """This protocol with the paper's six ratios and their mirror images."""
        rule = rule or ("short" if self.window and self.base else self.rule)
        base = None if rule == "original" else self.base
        return dataclasses.replace(self, base=base, rule=rule, scales=SCALES, flip=True)


def make_protocol(
    protocol: TestProtocol | None,
    scales: Sequence[float],
    flip: bool,
    base: tuple[int, int] | None,
    window: int | Size | None,
    stride: int | Size | None,
) -> TestProtocol:
    """A protocol that is given whole, or by its parts.

    Raises:
        ValueError: if both are given.
    """
    sides = [as_size(side, "window") if side else None for side in (window, stride)]
    rule = "fit" if base else "original"
    parts = TestProtocol(sides[0], sides[1], base, rule, tuple(scales), flip)
    if protocol is None:
        return parts
    if parts != TestProtocol():
        raise ValueError(
            "a protocol says scales, flip, base, window and stride; give it alone, or change it "
            "with dataclasses.replace"
        )
    return protocol


def find_protocol(name: str) -> TestProtocol:
    """A protocol by name; an unknown one is an error that lists them all."""
    if name not in PROTOCOLS:
        raise ValueError(unknown("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def check_stride(window: Size, stride: Size) -> None:
    """A stride larger than the window would leave pixels out: an error that names both."""
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"stride {stride[0]}x{stride[1]} is larger than the window {window[0]}x{window[1]}: "
            "pixels would be left out"
        )


# Windows, strides and bases of the authors' configurations. Pascal Context: their first release
# made the short side 520 without a limit for the long one; later their test pipeline is broken.
_SINGLE = {
    "ade20k": TestProtocol((512, 512), (341, 341), (2048, 512), "fit"),
    "cityscapes": TestProtocol((768, 768), (512, 512), (2049, 1025), "fit"),
    "pascal_context": TestProtocol((480, 480), (320, 320), (520, 520), "short"),
}
# NAME: the paper's single scale; NAME_ms: its multi-scale test; NAME_ms_mmseg: that of
# mmsegmentation 1.x, which multiplies the image's own size and gives other numbers.
PROTOCOLS = MappingProxyType(
    {
        **_SINGLE,
        **{f"{name}_ms": single.multi_scale("short") for name, single in _SINGLE.items()},
        **{f"{name}_ms_mmseg": single.multi_scale("original") for name, single in _SINGLE.items()},
    }
)
