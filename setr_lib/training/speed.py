"""What makes a step fast on a GPU and is no number of a recipe: layout, compiled blocks, one graph.

`settle` decides for a run what its `RunOptions` leave open. On a CPU that is always: leave it off.
"""

import functools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..encoder import TokenEncoder
from ..files import reason, say
from ..losses.cross_entropy import has_triton
from .devices import Processes, RunOptions
from .recipes import Recipe

# Compiling takes some 20 s, and spared 19 ms of a step of PUP-Large on an H100.
COMPILE_STEPS = 1000
# Starting a kernel cost 11 us there: in a small network more than what it does. A large one keeps
# the GPU busy 98 % of the time, and a graph would only hold on to its memory.
GRAPH_PARAMETERS = 50_000_000


def settle(options: RunOptions, model: nn.Module, recipe: Recipe, team: Processes) -> RunOptions:
    """The options with every switch that was left open (None) on or off.

    Raises:
        ValueError: if a switch is asked for where it does not work; why, and the cure.
    """
    on_cuda = team.device.type == "cuda"
    no_compile = why_not_compile(options, team)
    no_graph = why_no_graph(options, model, recipe, team)
    for name, why in {"compile": no_compile, "cuda_graph": no_graph}.items():
        if getattr(options, name) and why:
            flag = f"--no-{name.replace('_', '-')}"
            raise ValueError(f"{name} is on, but {why}; leave it out ({name}=None, or {flag})")
    small = sum(p.numel() for p in model.parameters()) < GRAPH_PARAMETERS
    found: dict[str, Any] = {
        "channels_last": on_cuda,
        "compile": on_cuda and not no_compile and recipe.total_steps >= COMPILE_STEPS,
        "cuda_graph": not no_graph and small,
    }
    return replace(options, **{k: on for k, on in found.items() if getattr(options, k) is None})


def why_not_compile(options: RunOptions, team: Processes) -> str:
    """What `torch.compile` lacks here; "" if it should work."""
    if team.size > 1 and options.activation_checkpointing:
        return (
            "with activation_checkpointing in several processes torch may refuse to share the "
            "gradients of such a network"
        )
    if team.device.type == "cuda" and not has_triton():
        return "Triton is not installed, which comes with torch on Linux only"
    if team.device.type == "cuda" and torch.cuda.get_device_capability(team.device) < (7, 0):
        return "Triton needs a GPU of compute capability 7.0 or newer"
    names = ("cl",) if sys.platform == "win32" else ("cc", "gcc", "clang")
    if not any(shutil.which(name) for name in (os.environ.get("CC"), *names) if name):
        return f"there is no C compiler ({', '.join(names)}, or the one that CC names)"
    return ""


def why_no_graph(options: RunOptions, model: Any, recipe: Recipe, team: Processes) -> str:
    """What keeps a step from being one CUDA graph; "" if nothing does."""
    reasons = {
        "only CUDA has such graphs": team.device.type != "cuda",
        "several processes exchange gradients in mid-step": team.size > 1,
        "micro-batches differ in their share of the step": recipe.batch
        != (recipe.micro_batch or recipe.batch),
        "the loss scale of fp16 is looked at after every step": options.precision == "fp16",
        "activation_checkpointing saves the state of chance": options.activation_checkpointing,
        "random numbers, as for its dropout, are counted in another way": not isinstance(
            getattr(model, "encoder", None), TokenEncoder
        ),
    }
    return next((why for why, holds in reasons.items() if holds), "")


def prepare_network(model: Any, options: RunOptions, team: Processes) -> Any:
    """Move a network to its device and apply the switches; several GPUs get SyncBN.

    Raises:
        ValueError: for activation checkpointing of a network without transformer blocks.
    """
    if team.size > 1 and team.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(team.device)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
        for module in model.modules():
            if type(module) is nn.Conv2d and is_pointwise(module):
                module.forward = functools.partial(pointwise, module)  # type: ignore[method-assign]
    has_blocks = isinstance(model.encoder, TokenEncoder)
    if options.compile and not has_blocks:  # what the loss calls; whole images go another way
        model.small_logits = torch.compile(model.small_logits)
    if options.activation_checkpointing and not has_blocks:
        raise ValueError(
            f"{type(model).__name__} has no transformer blocks to compute again; train it "
            "without activation_checkpointing"
        )
    for block in model.encoder.blocks if has_blocks else ():
        if options.compile:
            block.forward = compiled_for_training(block.forward)
        if options.activation_checkpointing:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return model


def compiled_for_training(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A block's forward pass, compiled for crops, which have one size; images of many sizes, whose
    gradients nobody wants, take the ordinary way. All blocks share what was compiled for one."""
    compiled = torch.compile(forward)
    return lambda tokens: (compiled if torch.is_grad_enabled() else forward)(tokens)


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution mixes the channels of each place and nothing else."""
    return (*conv.kernel_size, *conv.stride, conv.groups) == (1, 1, 1, 1, 1) and not any(
        size if isinstance(size, int) else 0 for size in conv.padding
    )


def pointwise(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """A 1x1 convolution `(B,C,H,W) -> (B,K,H,W)` as the matrix product that it is.

    Of maps with the channels innermost nothing is copied. cuDNN took its slow way for 150 classes.
    """
    maps_BHWC = maps.permute(0, 2, 3, 1)
    return F.linear(maps_BHWC, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


class StepGraph:
    """A training step as one CUDA graph: thousands of kernels are started by one call.

    The first steps run as ever, on a stream of their own, until every buffer is there. Then the
    step is recorded, which computes nothing, and from there on replayed on each new batch.

    Args:
        step: images `(B,3,H,W)` and labels `(B,H,W)` on the GPU, and what else it is called with,
            the same each time -> the loss; it moves the weights, whose gradients are None before.
        optimizer: the one that it steps; its learning rates are read before every step.
        required: whether it is an error if torch cannot record the step.
    """

    WARM_UP = 3

    def __init__(
        self, step: Callable[..., Tensor], optimizer: torch.optim.Optimizer, required: bool
    ) -> None:
        self.step, self.optimizer, self.required = step, optimizer, required
        self.warm_up_left, self.failed = self.WARM_UP, False
        self.replay: Callable[..., Any] | None = None
        self.stream: Any = None

    def __call__(self, images: Tensor, labels: Tensor, *others: Any) -> Tensor:
        """One step; returns its loss, which later steps leave as it is."""
        if self.warm_up_left:
            self.warm_up_left -= 1
            return self.aside(images, labels, *others)
        if self.replay is None and not self.failed:
            try:
                self.record(images, labels, *others)
            except RuntimeError as error:
                if self.required:
                    raise
                say(f"the step goes on without a CUDA graph: {reason(error)}", sys.stderr)
                self.failed = True
                self.optimizer.zero_grad(set_to_none=True)  # what was recorded holds no numbers
        if self.replay is None:
            return self.step(images, labels, *others)
        for mine, given in zip(self.batch, (images, labels)):
            mine.copy_(given)
        for rate, group in zip(self.rates, self.optimizer.param_groups):
            rate.fill_(group["lr"])
        self.replay()
        return self.loss.clone()

    def record(self, images: Tensor, labels: Tensor, *others: Any) -> None:
        """Record the step on tensors that stay where they are: batch, learning rates and loss."""
        groups = self.optimizer.param_groups
        self.batch = images.clone(), labels.clone()
        self.rates = [torch.tensor(group["lr"], device=images.device) for group in groups]
        before = [dict(group) for group in groups]
        for group, rate in zip(groups, self.rates):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            self.replay = self.capture(*self.batch, *others)
        finally:  # between the steps, and in a saved state, all is as without a graph
            for group, facts in zip(groups, before):
                group.update(facts)

    def aside(self, *batch: Any) -> Tensor:
        """An ordinary step on the stream that is recorded later."""
        here = torch.cuda.current_stream()
        self.stream = self.stream or torch.cuda.Stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            loss = self.step(*batch)
        here.wait_stream(self.stream)
        return loss

    def capture(self, *batch: Any) -> Callable[[], None]:
        """Record a step whose result is `loss`; returns what replays it."""
        graph = torch.cuda.CUDAGraph()
        # Other threads copy crops into pinned memory meanwhile, which is no affair of this graph.
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            self.loss = self.step(*batch)
        return graph.replay
