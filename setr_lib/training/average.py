"""The moving average of a network's weights, which is scored and kept in their place.

w_average <- d * w_average + (1 - d) * w after every step, d = min(decay, (1 + t) / (10 + t)) at
step t, so that the first steps are forgotten soon. Batch norm's running means go the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """Of all weights and running means of a network.

    Args:
        network: its tensors are read after every step, and lent to the average by `shown`.
        decay: 0: there is no average, and nothing here does anything.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        tensors = [*network.parameters(), *network.buffers()] if decay else []
        self.live = [t.detach() for t in tensors if t.is_floating_point()]
        self.values = [t.clone() for t in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After so many steps."""
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.values, self.live, 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The network has the average's numbers; its own are back afterwards, to the last bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, values: list[Tensor]) -> None:
        """Go on from the values of a saved state."""
        if [v.shape for v in values] != [v.shape for v in self.values]:
            raise ValueError("it lacks the moving average of this network's weights")
        for mine, saved in zip(self.values, values):
            mine.copy_(saved)

    @torch.no_grad()
    def _swap(self) -> None:
        for live, value in zip(self.live, self.values):
            kept = live.clone()
            live.copy_(value)
            value.copy_(kept)
