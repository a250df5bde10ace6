"""`leave_one_out`: what the loss loses when one delta is taken away and all others stay.

    d_i = L(gamma_i = 0, others 1) - L(1),        exact on the rows that `loss` measures

The answer that every other way is checked against. N modules cost N + 1 forward passes of all rows.
What lies below a module's block is the same with and without it, so with `FromBlock` a pass begins
at that block: (L + 1) / 2L of a pass on average over L blocks, and one more pass for the hidden
states that are kept, [rows, positions, hidden size].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.core.errors import LayerError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lamina.engine.losses import LossHead
    from lamina.engine.prefix import StandIn
    from lamina.ila.forwards import Batch
    from lamina.ila.gates import Gates

Beginning = Callable[[int], contextlib.AbstractContextManager[object]]
"""While `beginning(b)` holds, `loss` is measured from block b on, on what came before it once."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The exact answer on some rows."""

    values: dict[str, float]
    """L(gamma_i = 0) - L(1), in the unit of the loss; high: important."""
    whole: float
    """L(1)"""
    passes: int
    """Losses measured."""


def leave_one_out(
    gates: Gates,
    loss: Callable[[], float],
    *,
    ids: Collection[str] | None = None,
    beginning: Beginning | None = None,
    advance: Callable[[int], None] = lambda losses: None,
) -> LeftOut:
    """The loss without each module less the loss with all; the gates are 1 again afterwards.

    Args:
        loss: measures with the gates as they are, always on the same rows.
        ids: only these modules; default: all that have a gate.

    Raises:
        LayerError: an id that has no gate.
    """
    asked = _asked(gates, ids)
    blocks = {one: gates.linears.by_id[one].block for one in asked}
    values: dict[str, float] = {}
    gates.set(1.0)
    try:
        whole = loss()
        for block in sorted(set(blocks.values())):
            around = contextlib.nullcontext() if beginning is None else beginning(block)
            with around:
                for one in (one for one in asked if blocks[one] == block):
                    gates.only(set(gates.ids) - {one})
                    values[one] = loss() - whole
                    advance(1)
                gates.set(1.0)
    finally:
        gates.set(1.0)
    return LeftOut({one: values[one] for one in asked}, whole, len(asked) + 1)


def _asked(gates: Gates, ids: Collection[str] | None) -> tuple[str, ...]:
    """The modules to leave out, in the order of the gates."""
    if ids is None:
        return gates.ids
    strange = [one for one in ids if one not in gates.ids]
    if strange:
        raise LayerError(
            f"no gate on {', '.join(f'`{one}`' for one in strange[:6])}: "
            f"{did_you_mean(strange[0], gates.ids)}"
        )
    return tuple(one for one in gates.ids if one in ids)


class FromBlock:
    """Losses of fixed rows, from a block on; `loss` and `beginning` are for `leave_one_out`.

    Over several processes each measures its share of the batches.

    Args:
        batches: of `engine.collate`, on the model's device.
    """

    def __init__(self, model: nn.Module, head: LossHead, batches: Sequence[Batch]) -> None:
        from lamina.engine import parallel

        self._model, self._head = model, head
        self._batches = batches[parallel.rank() :: parallel.world()]
        self._block = 0
        self._hidden: list[torch.Tensor | None] = [None] * len(self._batches)
        self._stand_in: StandIn | None = None

    def loss(self) -> float:
        """Nats a token with the gates as they are.

        Raises:
            DataError: it is not finite.
        """
        import numpy as np
        import torch

        from lamina.core.errors import DataError
        from lamina.engine import parallel

        sums = np.zeros(2)
        with torch.no_grad():
            for batch, hidden in zip(self._batches, self._hidden, strict=True):
                if self._stand_in is not None:
                    self._stand_in.hidden = hidden
                found = self._head(self._model, batch)
                sums += found.per_example.double().sum().item(), float(found.tokens.sum())
        sums = parallel.total(sums)
        if not np.isfinite(sums).all():
            raise DataError(
                "the loss is not finite without one of the deltas: the adapter or its base is "
                "damaged, or overflows in this dtype. Try train.dtype: float32."
            )
        return float(sums[0] / sums[1])

    @contextlib.contextmanager
    def beginning(self, block: int) -> Iterator[None]:
        """While this holds `loss` begins at a block; blocks rise, the gates are 1 at entry."""
        from lamina.engine.prefix import given, hidden_after, standing_in

        assert block >= self._block, (block, self._block)
        if block > self._block:
            with standing_in(self._model, self._block) as below:
                for number, batch in enumerate(self._batches):
                    below.hidden = self._hidden[number]
                    inputs = given(self._model, batch)
                    self._hidden[number] = hidden_after(self._model, inputs, block - 1)
            self._block = block
        with standing_in(self._model, block) as self._stand_in:
            try:
                yield
            finally:
                self._stand_in = None
