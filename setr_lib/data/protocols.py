"""The published protocols by the name of their data set, and the one that a checkpoint carries."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..files import unknown
from ..images import TestProtocol

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


def find_protocol(name: str) -> TestProtocol:
    """A protocol by name; an unknown one is an error that lists them all."""
    if name not in PROTOCOLS:
        raise ValueError(unknown("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def default_protocol(model: Any, dataset: str = "") -> TestProtocol:
    """How a network is scored if nobody says otherwise, in Python and on the command line.

    The way that its checkpoint carries; without one the paper's for its data sets, and whole images
    as they are for all others.
    """
    return getattr(model, "protocol", None) or PROTOCOLS.get(dataset) or TestProtocol()


def stored_protocol(about: Mapping[str, Any]) -> TestProtocol | None:
    """The protocol in what a checkpoint says of itself; in older ones it is part of the recipe.

    Raises:
        ValueError: if what stands there is none.
    """
    facts, recipe = about.get("protocol"), about.get("recipe", {})
    if "protocol" not in about and "scale" in recipe:
        sides = {name: recipe.get(name) for name in ("window", "stride")}
        facts = {**sides, "base": recipe["scale"], "rule": recipe.get("rule", "fit")}
    try:
        return None if facts is None else TestProtocol(**facts)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its protocol is {str(facts)[:80]!r}, which means nothing") from error
