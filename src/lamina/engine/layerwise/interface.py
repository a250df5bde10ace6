"""What a layer-wise tuner may do, and when: the seam between the Trainer and LISA, SPIDER, PRILoRA.

    begin                         the starting model's weights, whole, on their device
    each optimiser step:
        begin_step(step)          before its first forward pass
        before_update()           gradients are summed over processes, clipped and finite
        after_update(step)        the optimiser has stepped, gradients are still there
    state() -> tensors            when a checkpoint is written: `layerwise.safetensors` in it
    restore(tensors)              after `begin`, where a run goes on
    end                           however the run ended

What a tuner does follows from the recipe, the seed, the number of the step, and from gradients and
sums that are equal in all processes: so it is equal in all of them, and a run that was stopped goes
on to the bit. Sharded weights (FSDP) are refused: a process would see a part of each tensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine import parallel
from lamina.engine.layerwise_recipe import LayerwiseSection

FILE = "layerwise.safetensors"
Tensors = dict[str, torch.Tensor]


class Layerwise(Protocol):
    """A layer-wise tuner; see the module for what is called when."""

    freezes: bool
    """Whether what is trained changes on the way, which DDP cannot follow."""

    def begin(self, model: torch.nn.Module) -> None: ...
    def begin_step(self, step: int, optimizer: Any) -> None: ...
    def before_update(self) -> None: ...
    def after_update(self, step: int) -> None: ...
    def state(self) -> Tensors: ...
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None: ...
    def end(self) -> None: ...


class LayerwiseSteps(TrainerCallback):
    """Calls a tuner at its places in transformers' loop; in every process alike."""

    def __init__(self, tuner: Layerwise) -> None:
        self._tuner = tuner

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tuner.begin_step(state.global_step, kwargs["optimizer"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tuner.before_update()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tuner.after_update(state.global_step + 1)


@contextlib.contextmanager
def begun(tuner: Layerwise | None, model: torch.nn.Module) -> Iterator[None]:
    """While this holds, the tuner has begun; without a tuner nothing is done."""
    if tuner is None:
        yield
        return
    try:
        tuner.begin(model)
        yield
    finally:
        tuner.end()


def leave_sync_to_us(model: torch.nn.Module) -> None:
    """Keeps DDP from summing gradients: it waits for those of all that was trainable at first.

    Its own answer, `find_unused_parameters`, sums the frozen blocks' zeros along, and processes
    that used it over gloo now and then abort when they end.
    """
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = False


@torch.no_grad()
def average_gradients(model: torch.nn.Module) -> None:
    """What DDP would do: the mean of each gradient over processes; of those that are there."""
    if parallel.world() == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= parallel.world()
            dist.all_reduce(parameter.grad)


def check_whole(section: LayerwiseSection | None) -> None:
    """Refuses a layer-wise tuner where weights are to be sharded.

    Raises:
        RecipeError: `layerwise:` is in the recipe, and FSDP was asked for.
    """
    if section is not None and parallel.sharding_asked():
        raise RecipeError(
            f"layerwise: way `{section.way}` compares values inside whole tensors, but the "
            "configuration of accelerate shards them (FSDP): no process would hold one. Start it "
            "with torchrun (DDP), or leave `layerwise` out."
        )


def save_state(tuner: Layerwise, folder: Path) -> None:
    """Writes what a tuner remembers into a checkpoint that is not sealed yet."""
    from safetensors.torch import save_file

    tensors = tuner.state()
    if tensors:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, folder / FILE)


def load_state(tuner: Layerwise, folder: Path) -> None:
    """Gives a tuner back what it remembered when a checkpoint was written.

    Raises:
        CheckpointError: the file holds something else than this tuner remembers.
    """
    from safetensors.torch import load_file

    file = folder / FILE
    found = load_file(file) if file.is_file() else {}
    expected = {name: tuple(value.shape) for name, value in tuner.state().items()}
    seen = {name: tuple(value.shape) for name, value in found.items()}
    if seen != expected:
        odd = sorted(
            name for name in seen.keys() | expected if seen.get(name) != expected.get(name)
        )
        raise CheckpointError(
            f"{file} does not hold what this recipe's `layerwise` remembers: {len(odd)} tensors "
            f"are missing, unknown or of another shape ({', '.join(odd[:3])}). Go on with the "
            "recipe that wrote the checkpoint, or give another --out."
        )
    tuner.restore(found)
