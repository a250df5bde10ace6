"""The frozen blocks below the lowest trained one: no gradient goes there, and they need not run.

A backward pass ends at the lowest trained module by itself, under gradient checkpointing too. What
undoes that is a hook which transformers (`activation_checkpointing_enable`) and PEFT
(`prepare_model_for_gradient_checkpointing`) put on the input embedding, so that everything needs a
gradient; only reentrant checkpointing needs it, which is not used here. Without it a step on the
top 4 of 16 blocks takes half the operations (bench/prefix.py).

Below the lowest trained block the hidden states of a batch never change, so the blocks above can
begin from kept ones: from memory here, from the disk in `prefix_cache`.

Letters: B rows, L positions, H hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lamina.core.errors import LayerError
from lamina.core.layers import LayerMap
from lamina.engine.heads import core_model, evaluating, takes_positions

Batch = Mapping[str, torch.Tensor]
_PROBE_TOKENS = 2


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks of a model, whatever wraps it.

    Raises:
        LayerError: its names show no list of blocks.
    """
    core = core_model(model)
    found = LayerMap.from_names(name for name, _ in core.named_parameters())
    if not found.num_blocks:
        raise LayerError(
            f"{type(core).__name__} has no list of decoder blocks, such as `model.layers`, that "
            "could be told apart."
        )
    return [core.get_submodule(f"{found.prefix}.{number}") for number in found.blocks()]


def frozen_prefix(model: nn.Module) -> int:
    """The lowest block with a trained parameter: no gradient is needed below it.

    0 also where something before the blocks is trained (the input embedding); the number of blocks
    where none of them is. Of a model without the hook on its embedding: see `end_at_prefix`.
    """
    blocks = blocks_of(model)
    inside = {id(p) for block in blocks for p in block.parameters()}
    outside = any(p.requires_grad and id(p) not in inside for p in model.parameters())
    lowest = next(
        (n for n, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())),
        len(blocks),
    )
    return 0 if lowest and outside and _has_gradient(model, blocks[0]) else lowest


def end_at_prefix(model: nn.Module) -> None:
    """The backward pass ends at the lowest trained module: takes the hook off the embedding.

    After checkpointing is switched on, which puts it there. Checkpointed blocks in which nothing
    has a gradient keep nothing and are not computed again (tests/contract/test_prefix_seams.py).
    """
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            # `make_inputs_require_grads` of transformers, `make_inputs_require_grad` of PEFT
            if inspect.isfunction(hook) and hook.__name__.startswith("make_inputs_require_grad"):
                del module._forward_hooks[key]


@torch.no_grad()
def hidden_before(model: nn.Module, batch: Batch) -> list[torch.Tensor]:
    """What each block is given of one batch of `collate`: [B, L, H] for every block, in order.

    Runs the model once, in the mode it is in, and holds all of them.
    """
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(_hidden(args, kwargs))

    with contextlib.ExitStack() as stack:
        for block in blocks_of(model):
            handle = block.register_forward_pre_hook(keep, with_kwargs=True)
            stack.callback(handle.remove)
        model(**given(model, batch))
    return seen


def run_from(model: nn.Module, batch: Batch, hidden_BLH: torch.Tensor, block: int) -> torch.Tensor:
    """Logits [B, L, V] of a batch whose hidden states before a block are known.

    For losses: `with beginning_at(model, hidden_BLH, block): head(model, batch)`.
    """
    with beginning_at(model, hidden_BLH, block):
        return model(**given(model, batch)).logits


@contextlib.contextmanager
def beginning_at(model: nn.Module, hidden_BLH: torch.Tensor, block: int) -> Iterator[None]:
    """While this holds the model runs from `block` on, on these hidden states, for one batch.

    The embedding is still read; the blocks below are not run.
    """
    with standing_in(model, block) as stand_in:
        stand_in.hidden = hidden_BLH
        yield


# ---- the machinery of both


@dataclass(slots=True)
class StandIn:
    """What stands in for the blocks below; they run themselves while it holds nothing."""

    hidden: torch.Tensor | None = None
    """[B, L, H]"""


@contextlib.contextmanager
def standing_in(model: nn.Module, block: int) -> Iterator[StandIn]:
    """While this holds the blocks below `block` give what the stand-in holds, if anything."""
    blocks = blocks_of(model)[:block]
    stand_in = StandIn()
    if not blocks:
        yield stand_in
        return
    num_outputs = _num_outputs(model, blocks[0])
    before = [vars(module).get("forward") for module in blocks]
    try:
        for module in blocks:
            last = module is blocks[-1]
            module.forward = _passing(module.forward, stand_in, last=last, num_outputs=num_outputs)
        yield stand_in
    finally:
        for module, own in zip(blocks, before, strict=True):
            module.__dict__.pop("forward", None)
            if own is not None:  # it stood on the module itself
                module.forward = own


def _passing(
    own: Callable[..., Any], stand_in: StandIn, *, last: bool, num_outputs: int | None
) -> Callable[..., Any]:
    """A block's forward pass that hands on its input; the last one gives the kept states."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        if stand_in.hidden is None:
            return own(*args, **kwargs)
        hidden = stand_in.hidden if last else _hidden(args, kwargs)
        return hidden if num_outputs is None else (hidden, *[None] * (num_outputs - 1))

    return forward


class _Reached(Exception):
    """Ends a forward pass where what is asked for was seen."""


@torch.no_grad()
def hidden_after(model: nn.Module, inputs: Mapping[str, Any], block: int) -> torch.Tensor:
    """What `block` makes of a batch, [B, L, H]; nothing above it is run.

    Args:
        inputs: keyword arguments of the model's forward pass, as `given` makes them.
    """
    seen: list[Any] = []
    with _ending(blocks_of(model)[block], after=seen.append):
        model(**inputs)
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


def given(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """The keyword arguments with which a model reads a batch of `collate`."""
    found: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    if takes_positions(model):
        found["position_ids"] = batch["position_ids"]
    return found


def _num_outputs(model: nn.Module, block: nn.Module) -> int | None:
    """How many things a block gives in a tuple; None where it gives hidden states alone."""
    seen: list[Any] = []
    with evaluating(model), torch.no_grad(), _ending(block, after=seen.append):
        model(**_probe(model))
    return len(seen[0]) if isinstance(seen[0], tuple) else None


def _has_gradient(model: nn.Module, block: nn.Module) -> bool:
    """Whether anything that a block is given needs a gradient."""
    seen: list[bool] = []

    def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(any(tensor.requires_grad for tensor in _tensors([*args, *kwargs.values()])))

    with evaluating(model), torch.enable_grad(), _ending(block, before=before):
        model(**_probe(model))
    return seen[0]


@contextlib.contextmanager
def _ending(
    block: nn.Module,
    *,
    before: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
    after: Callable[[Any], None] | None = None,
) -> Iterator[None]:
    """A forward pass inside ends at this block: before it runs, or after."""

    def early(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if before is not None:
            before(args, kwargs)
            raise _Reached

    def late(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if after is not None:
            after(out)
            raise _Reached

    handles = [
        block.register_forward_pre_hook(early, with_kwargs=True),
        block.register_forward_hook(late),
    ]
    try:
        with contextlib.suppress(_Reached):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _probe(model: nn.Module) -> dict[str, Any]:
    device = core_model(model).get_input_embeddings().weight.device
    ids = torch.zeros(1, _PROBE_TOKENS, dtype=torch.int64, device=device)
    places = torch.arange(_PROBE_TOKENS, device=device)[None]
    return given(model, {"input_ids": ids, "position_ids": places})


def _hidden(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _tensors(values: Sequence[Any]) -> Iterator[torch.Tensor]:
    """Every tensor among some arguments and the tuples in them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
