"""`leave_one_out`: what the loss loses when one delta is taken away and all others stay.

    d_i = L(gamma_i = 0, others 1) - L(1),        exact on the rows that `loss` measures

The answer that every other way is checked against. N modules cost N + 1 forward passes of all rows.
What lies below a module's block is the same with and without it: where `beginning` is given, a
pass begins at that block (`engine.prefix`), which costs (L + 1) / 2L of a pass on average over L
blocks, and one more pass to keep the hidden states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.core.errors import LayerError, did_you_mean

if TYPE_CHECKING:
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
