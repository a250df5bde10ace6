"""Losses and gate gradients over batches of rows: what every gated way is made of.

Sums over tokens in float64, divided once; over several processes each measures its share of the
batches and the sums are added, so that the numbers do not depend on how many there are.

Letters: N gated modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lamina.core.errors import DataError
from lamina.data.load import DomainData
from lamina.engine import parallel
from lamina.engine.collate import collate, packed_row
from lamina.engine.losses import LossHead
from lamina.ila.gates import Gates

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over tokens and its gradient."""

    loss: float
    """Nats a token."""
    gradient: np.ndarray
    """dL/dgamma, float64 [N], nats a token."""
    tokens: int


@dataclass(slots=True)
class Rows:
    """Batches of a model on its device, and how often it was run on them."""

    model: nn.Module
    head: LossHead
    batches: Sequence[Batch]
    passes: int = 0
    """Forward/backward batches so far, over all processes."""
    advance: Callable[[int], None] = lambda batches: None

    @property
    def share(self) -> int:
        """Batches that this process measures of one pass over all."""
        return len(self.batches[parallel.rank() :: parallel.world()])

    def quiet(self) -> Rows:
        """The same rows for who tells how far it is in another unit; with passes of its own."""
        return Rows(self.model, self.head, self.batches)

    def gradient(self, gates: Gates, batches: Sequence[int] | None = None) -> Measured:
        """Loss and gate gradients with the gates as they are.

        Raises:
            DataError: the loss is not finite.
        """
        chosen = range(len(self.batches)) if batches is None else batches
        sums = np.zeros(len(gates.ids) + 2)
        for batch in self._mine(chosen):
            gates.values.grad = None
            found = self.head(self.model, batch)
            found.loss.backward()
            assert gates.values.grad is not None, "the gates got no gradient"
            sums[0] += found.per_example.double().sum().item()
            sums[1] += float(found.tokens.sum())
            sums[2:] += gates.values.grad.double().cpu().numpy()
        gates.values.grad = None
        return self._mean(sums, len(chosen))

    def loss(self, batches: Sequence[int] | None = None) -> float:
        """Nats a token with the gates as they are; forward only.

        Raises:
            DataError: the loss is not finite.
        """
        chosen = range(len(self.batches)) if batches is None else batches
        sums = np.zeros(2)
        with torch.no_grad():
            for batch in self._mine(chosen):
                found = self.head(self.model, batch)
                sums[0] += found.per_example.double().sum().item()
                sums[1] += float(found.tokens.sum())
        return self._mean(sums, len(chosen)).loss

    def _mine(self, chosen: Sequence[int]) -> Iterator[Batch]:
        for number in list(chosen)[parallel.rank() :: parallel.world()]:
            yield self.batches[number]
            self.advance(1)

    def _mean(self, sums: np.ndarray, num_batches: int) -> Measured:
        sums = parallel.total(sums)
        self.passes += num_batches
        if not np.isfinite(sums).all():
            raise DataError(
                "the loss or a gate's gradient is not finite: the adapter or its base is damaged, "
                "or overflows in this dtype. Try train.dtype: float32, or tune again."
            )
        return Measured(float(sums[0] / sums[1]), sums[2:] / sums[1], int(sums[1]))


def draw(
    data: Mapping[str, DomainData],
    *,
    num_batches: int,
    num_rows: int,
    seed: int,
    pad_id: int,
    flatten: bool,
    device: torch.device | str,
) -> list[Batch]:
    """Batches of training rows, drawn without replacement until all were drawn, then again.

    Args:
        num_rows: packed rows in a batch.
    """
    places = [(d, row) for d, one in enumerate(data.values()) for row in range(len(one.train))]
    generator = np.random.Generator(np.random.PCG64([seed, 0x11A]))
    wanted, order = num_batches * num_rows, []
    while len(order) < wanted:
        order += [places[n] for n in generator.permutation(len(places))]
    domains = list(data.values())
    batches: list[Batch] = []
    for first in range(0, wanted, num_rows):
        rows: list[Any] = [
            packed_row(domains[d].train.examples, domains[d].train.members[row], domain=d, row=row)
            for d, row in order[first : first + num_rows]
        ]
        batch = collate(rows, pad_id=pad_id, flatten=flatten)
        batches.append({name: value.to(device) for name, value in batch.items()})
    return batches
