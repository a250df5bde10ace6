"""Whether the hidden states of a frozen prefix can be kept: asked of the model itself.

Dropout in the prefix makes them other ones in each pass. A block may be given more than the hidden
states from below: keys and values of a lower block, states in several streams. Which models do is
in no config, so it is tried: the states of two short examples, each read alone, are put in where
both are read together, and the logits must be those of the whole model. Six passes of 24 tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lamina.core.errors import RecipeError
from lamina.engine import parallel
from lamina.engine.collate import PackedRow, collate
from lamina.engine.heads import core_model, evaluating, takes_positions
from lamina.engine.load import first_line
from lamina.engine.prefix import beginning_at, blocks_of, given, hidden_after

_LENGTHS = (11, 9)
# As for packed examples (engine.attention): other shapes, so other kernels and other roundings.
_APART = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
# Of the states: sums in another order, as of a mixture of experts on a GPU, and no dropout.
_NOISE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
_INSTEAD = "Leave plan.cache_prefix out; the backward pass ends at the lowest trained block anyway."


def check_keepable(
    model: nn.Module, block: int, *, autocast: torch.dtype | None, flatten: bool
) -> torch.Tensor:
    """Hidden states before `block` [1, length, H], as an example of those that would be kept.

    Raises:
        RecipeError: sharded weights, a model that takes no positions, dropout in the prefix, or
            blocks that read more than the hidden states from below.
    """
    core = core_model(model)
    name = type(core).__name__
    if parallel.sharding_asked():
        raise RecipeError(
            "plan.cache_prefix is set, but the weights are sharded (FSDP): a process that skips "
            f"blocks would leave the others waiting for its part of them. {_INSTEAD}"
        )
    if not takes_positions(model):
        raise RecipeError(
            f"plan.cache_prefix is set, but {name} takes no positions, from which the examples of "
            f"a batch are told. {_INSTEAD}"
        )
    _refuse_dropout(model, block)
    cast = torch.autocast(_device(core).type, dtype=autocast, enabled=autocast is not None)
    with evaluating(model), torch.no_grad(), cast:
        both, *alone = _batches(core, flatten=flatten)
        states = [hidden_after(model, given(model, one), block - 1) for one in alone]
        found = states[0]
        if found.ndim != 3 or found.shape[:2] != alone[0]["input_ids"].shape:
            raise RecipeError(
                f"plan.cache_prefix is set, but the blocks of {name} hand on tensors of shape "
                f"{list(found.shape)}, not hidden states of [batch, length, size]. {_INSTEAD}"
            )
        _refuse_noise(model, alone[0], block, found)
        apart = _apart(model, both, states, block, flatten=flatten)
    if not apart <= _APART[found.dtype]:
        raise RecipeError(
            f"plan.cache_prefix is set, but the blocks of {name} read more than the hidden states "
            f"from below: begun at block {block}, its logits differ by {apart:.1%} of their size. "
            f"{_INSTEAD}"
        )
    return found


def _refuse_dropout(model: nn.Module, block: int) -> None:
    """Dropout by its modules, and by the numbers that attention modules hold."""
    rates = {}
    for module in (m for one in blocks_of(model)[:block] for m in one.modules()):
        numbers = vars(module) if not isinstance(module, nn.Dropout) else {"dropout": module.p}
        rates |= {
            key: value
            for key, value in numbers.items()
            if "drop" in key and isinstance(value, float) and value > 0
        }
    if rates:
        told = ", ".join(f"{key} {value:g}" for key, value in sorted(rates.items()))
        raise RecipeError(
            f"plan.cache_prefix is set, but the frozen blocks have dropout ({told}): they give "
            "something else in each pass. Set it to 0 in the model's config.json, or leave "
            "cache_prefix out."
        )


def _refuse_noise(model: nn.Module, batch: dict[str, Any], block: int, quiet: torch.Tensor) -> None:
    """What is random in training mode without being called dropout, or lies before the blocks."""
    core = core_model(model)
    with torch.random.fork_rng(devices=[_device(core)] if _device(core).type == "cuda" else []):
        model.train()
        try:
            loud = hidden_after(model, given(model, batch), block - 1)
        finally:
            model.eval()
    apart = (loud.double() - quiet.double()).norm() / quiet.double().norm().clamp_min(1e-12)
    if not apart <= _NOISE[quiet.dtype]:
        raise RecipeError(
            f"plan.cache_prefix is set, but the frozen blocks of {type(core).__name__} give other "
            "states in training than in evaluation: something there is random, dropout of the "
            "embedding perhaps. Set it to 0 in the model's config.json, or leave cache_prefix out."
        )


def _batches(core: Any, *, flatten: bool) -> list[dict[str, Any]]:
    """Two short examples in one batch, then each alone."""
    draws = np.random.default_rng(20241)
    num_ids = core.get_input_embeddings().weight.shape[0]
    rows = []
    for length in _LENGTHS:
        trained = np.arange(length) > 0
        rows.append(PackedRow(draws.integers(0, num_ids, length), trained, np.array([length])))
    return [
        {
            name: value.to(_device(core))
            for name, value in collate(part, pad_id=0, flatten=flatten, multiple_of=1).items()
        }
        for part in (rows, rows[:1], rows[1:])
    ]


def _apart(
    model: nn.Module,
    both: dict[str, Any],
    states: list[torch.Tensor],
    block: int,
    *,
    flatten: bool,
) -> float:
    """How far logits from kept states are from the model's own: root mean squares, relative."""
    if flatten:
        hidden = torch.cat(states, 1)
        read = torch.ones_like(both["input_ids"], dtype=torch.bool)
    else:
        longest = max(_LENGTHS)
        pads = [nn.functional.pad(s, (0, 0, 0, longest - s.shape[1])) for s in states]
        hidden = torch.cat(pads, 0)
        read = torch.arange(longest) < torch.tensor(_LENGTHS)[:, None]
        read = read.to(hidden.device)
    own = model(**given(model, both)).logits[read].double()
    try:
        with beginning_at(model, hidden, block):
            kept = model(**given(model, both)).logits[read].double()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise RecipeError(
            f"plan.cache_prefix is set, but the blocks of {type(core_model(model)).__name__} read "
            f"what a lower block leaves beside the hidden states, keys and values perhaps: begun "
            f"at block {block}, it fails ({type(error).__name__}: {first_line(error)}) {_INSTEAD}"
        ) from error
    spread = (own - own.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((kept - own).square().mean().sqrt() / spread.clamp_min(1e-12))


def _device(core: Any) -> torch.device:
    return core.get_input_embeddings().weight.device
