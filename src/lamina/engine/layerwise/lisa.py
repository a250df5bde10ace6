"""LISA: a few blocks at a time are trained, drawn anew every so many steps (arXiv 2403.17919).

Algorithm 1 of the paper: freeze all but the embedding and the head; draw gamma of the N blocks; run
AdamW for K steps; again. Each block is drawn with probability gamma / N. Here what lies outside the
blocks (embeddings, final norm, head) is trained throughout, as in the authors' code; with scores,
blocks are drawn in proportion to them.

Two traps of other implementations: an optimiser made after the first freeze never steps the blocks
drawn later (here every block is trainable when it is made), and the moments of a block that rests
would act on it when it comes back (here they are dropped, which is also where the memory is won).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lamina.core.errors import RecipeError
from lamina.core.layers import LayerMap
from lamina.engine.layerwise.interface import Tensors


def draw_blocks(
    blocks: Sequence[int],
    layers: int,
    *,
    seed: int,
    number: int,
    weights: Mapping[int, float] | None = None,
) -> tuple[int, ...]:
    """The blocks of one period, ascending: a pure function of seed and number of the period.

    Args:
        blocks: to draw from, without putting back.
        weights: a block is drawn first in proportion to its own; 0 is never drawn. None: equal.
    """
    chances = None
    if weights is not None:
        given = np.array([weights[block] for block in blocks], dtype=np.float64)
        chances = given / given.sum()
    draws = np.random.default_rng([seed, number])
    chosen = draws.choice(len(blocks), size=layers, replace=False, p=chances)
    return tuple(sorted(blocks[place] for place in chosen.tolist()))


class Lisa:
    """Freezes all blocks but the ones drawn for this period.

    Args:
        weights: by block, from scores; None draws all alike.
    """

    freezes = True

    def __init__(
        self, *, period: int, layers: int, seed: int, weights: Mapping[int, float] | None = None
    ) -> None:
        self._period, self._layers, self._seed, self._weights = period, layers, seed, weights
        self._blocks: dict[int, list[torch.nn.Parameter]] = {}
        self.drawn: tuple[int, ...] | None = None
        """The blocks that are trained now."""

    def begin(self, model: torch.nn.Module) -> None:
        """Takes the blocks that have something to train.

        Raises:
            RecipeError: fewer such blocks than are to be trained at a time.
        """
        named = dict(model.named_parameters())
        layers = LayerMap.from_names(named)
        for name, parameter in named.items():
            block = layers.of(name).block
            if block is not None and parameter.requires_grad:
                self._blocks.setdefault(block, []).append(parameter)
        self._blocks = dict(sorted(self._blocks.items()))
        able = [b for b in self._blocks if self._weights is None or self._weights.get(b, 0) > 0]
        if len(able) < self._layers:
            raise RecipeError(
                f"layerwise.layers is {self._layers}, but only {len(able)} of the model's "
                f"{layers.num_blocks} blocks can be drawn (planned, and with a score above 0 where "
                "there are scores). Give a smaller number."
            )
        self._able = able

    def begin_step(self, step: int, optimizer: Any) -> None:
        """Thaws and freezes where a period begins, or where a run goes on inside one."""
        drawn = draw_blocks(
            self._able,
            self._layers,
            seed=self._seed,
            number=step // self._period,
            weights=self._weights,
        )
        if drawn == self.drawn:
            return
        if self.drawn is None:
            _intern(optimizer)
        self.drawn = drawn
        for block, parameters in self._blocks.items():
            for parameter in parameters:
                parameter.requires_grad_(block in drawn)
                if block not in drawn:
                    parameter.grad = None
                    optimizer.state.pop(parameter, None)

    def before_update(self) -> None:
        """Nothing: what rests has no gradient, so the optimiser passes it over."""

    def after_update(self, step: int) -> None:
        """Nothing."""

    def state(self) -> Tensors:
        """Nothing: the draw follows from the step."""
        return {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Nothing."""

    def end(self) -> None:
        """What was trainable at the start is so again."""
        for parameters in self._blocks.values():
            for parameter in parameters:
                parameter.requires_grad_(True)


def _intern(optimizer: Any) -> None:
    """Gives moments that were read from a checkpoint the very keys that new ones get.

    Else a pickle of both has other bytes than that of a run that nobody stopped.
    """
    for parameter, held in list(optimizer.state.items()):
        optimizer.state[parameter] = {sys.intern(key): value for key, value in held.items()}


def block_weights(values: Mapping[int, Sequence[float]]) -> dict[int, float]:
    """Weights to draw by, from the scores of each block's modules: their sum where it is positive.

    Raises:
        RecipeError: no block has a score above 0.
    """
    weights = {block: max(0.0, math.fsum(scores)) for block, scores in values.items()}
    if not any(weights.values()):
        raise RecipeError(
            "layerwise.scores: no block has a score above 0, so none could be drawn. Give scores "
            "in which high means important, or leave `scores` out."
        )
    return weights
