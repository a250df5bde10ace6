"""The starting model beside the one being trained, to hold chosen examples near what it said.

With adapters the starting model is the same weights with the adapters off: no memory. Tuning all
weights needs a frozen copy. Its forward pass runs on the rows of chosen examples only.

Letters: E examples, N targets, H hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lamina.engine.heads import evaluating, is_peft, unwrapped


@dataclass(frozen=True, slots=True)
class Teacher:
    """The starting model: `model` as it stands, or with its adapters off."""

    model: nn.Module
    has_adapters: bool

    @contextlib.contextmanager
    def running(self) -> Iterator[nn.Module]:
        """The starting model, without dropout and without a gradient, for one forward pass."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(self.model))
            if self.has_adapters:
                stack.enter_context(_adapters_off(self.model))
            yield self.model


def starting_model(model: nn.Module) -> Teacher:
    """The model as it is before training: call this once, then.

    A PEFT model keeps its starting point inside; of any other a frozen copy is made, which takes
    the memory of its weights again.
    """
    model = unwrapped(model)
    if is_peft(model):
        return Teacher(model, has_adapters=True)
    frozen = copy.deepcopy(model)
    frozen.requires_grad_(False)
    return Teacher(frozen, has_adapters=False)


@contextlib.contextmanager
def _adapters_off(model: Any) -> Iterator[None]:
    """PEFT turns every adapter's gradient on again afterwards: a frozen one stays frozen here."""
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, needed in trained:
            parameter.requires_grad_(needed)


def only_examples_at(
    batch: Mapping[str, torch.Tensor], places_n: torch.Tensor
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The rows that hold these flat places, and the places within those rows alone.

    Of a batch of one flat row, the examples that hold them.
    """
    ids_BL, positions_BL = batch["input_ids"], batch["position_ids"]
    if len(ids_BL) == 1:
        example_T = (positions_BL[0] == 0).cumsum(0)
        kept_T = torch.isin(example_T, example_T[places_n])
        inputs = {"input_ids": ids_BL[:, kept_T], "position_ids": positions_BL[:, kept_T]}
        return inputs, kept_T.cumsum(0)[places_n] - 1
    length = ids_BL.shape[1]
    rows, which_n = torch.unique(places_n // length, return_inverse=True)
    inputs = {"input_ids": ids_BL[rows], "position_ids": positions_BL[rows]}
    return inputs, which_n * length + places_n % length
