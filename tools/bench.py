"""How fast the encoder is beside timm's, in one process, turn by turn: a table of ratios.

    python tools/bench.py [--sizes tiny small base] [--pixels 224 512] [--rounds 9] [--out FOLDER]

Each round runs both once, in alternating order; the ratio is taken within the round, and the median
over the rounds is reported with its quartiles. Below 1 we are faster.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import timm  # noqa: E402
import torch  # noqa: E402

from setr_lib import Encoder  # noqa: E402
from setr_lib.files import write_json  # noqa: E402
from setr_lib.model import SIZES  # noqa: E402
from setr_lib.records import surroundings  # noqa: E402


def ratios(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of `ours` over seconds of `theirs`, round by round, after one round to warm up."""
    found = []
    for number in range(rounds + 1):
        seconds = {}
        for call in (ours, theirs) if number % 2 else (theirs, ours):
            start = time.perf_counter()
            call()
            seconds[call] = time.perf_counter() - start
        found.append(seconds[ours] / seconds[theirs])
    return found[1:]


def encoders(size: str, pixels: int) -> tuple[Encoder, torch.nn.Module]:
    """Ours, and timm's with the same weights, without its last norm and classifier."""
    width, depth, heads = SIZES[size]
    ours = Encoder((pixels, pixels), width, depth, heads).eval()
    theirs = timm.models.VisionTransformer(
        img_size=pixels, embed_dim=width, depth=depth, num_heads=heads, num_classes=0
    ).eval()
    theirs.norm = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small", "base"], choices=SIZES)
    parser.add_argument("--pixels", nargs="+", type=int, default=[224, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="write a record to this folder")
    options = parser.parse_args()
    rows = []
    print("encoder   pixels  pass               ours / timm  (quartiles)")
    for size in options.sizes:
        for pixels in options.pixels:
            ours, theirs = encoders(size, pixels)
            images = torch.randn(1, 3, pixels, pixels)

            def forward(encode, images=images):
                with torch.inference_mode():
                    encode(images)

            def both(encode, images=images):
                encode(images).sum().backward()

            for name, run in (("forward", forward), ("forward+backward", both)):
                found = ratios(
                    lambda run=run, ours=ours: run(ours),
                    lambda run=run, theirs=theirs: run(theirs.forward_features),
                    options.rounds,
                )
                low, middle, high = statistics.quantiles(found, n=4)
                rows.append(
                    {"size": size, "pixels": pixels, "pass": name, "ratio": middle,
                     "quartiles": [low, high], "rounds": options.rounds}
                )  # fmt: skip
                print(f"{size:8} {pixels:7}  {name:17} {middle:12.3f}  ({low:.3f} to {high:.3f})")
    if options.out:
        bench = {"bench": rows, "timm": timm.__version__}
        write_json(
            Path(options.out) / "record.json", {**bench, **surroundings(torch.device("cpu"))}
        )


if __name__ == "__main__":
    main()
