"""`shapley`: what a sub-layer adds on average, whichever few of its neighbours are missing.

    phi_i = E over R of v(N - R) - v(N - R - i),      v = -loss, R a few neighbours of i

Truncated Monte-Carlo Shapley values after arXiv:2409.14381: of a deep network only coalitions with
few players removed say something, and what a sub-layer works with stands near it. R is drawn from
the `window` players on either side of i; its size is uniform on 0 .. `max_removed` - 1, as in a
random order of the players. Samples come in antithetic pairs: R the first k of a random order of
the neighbours, R' the last `max_removed` - 1 - k of the same order. With a window and a
`max_removed` that cover all players the expectation is the Shapley value itself; where players
interact in pairs only, each antithetic pair then gives it without noise.

A coalition is valued once. Costs at most 1 + players * (1 + 4 * samples) values, about half of it
where neighbours share coalitions.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lamina.core.errors import LayerError
from lamina.core.layers import ATTENTION, MLP
from lamina.core.modules import Linears

if TYPE_CHECKING:
    from lamina.ila.gates import Gates

CORNERSTONE = 0.5
"""A layer whose removal alone costs this part of all there is to lose (2409.14381)."""
_ENTRY = frozenset({"fc1"})
"""Of an MLP without a module of its own (OPT), what is not its output."""

Value = Callable[[frozenset[str]], float]
"""The players that are removed -> what the others are worth together."""


@dataclass(frozen=True, slots=True)
class Shapley:
    """Each player's worth, in the unit of v; high: important."""

    values: dict[str, float]
    errors: dict[str, float]
    """Standard errors, from the spread over antithetic pairs; empty with one pair."""
    drops: dict[str, float]
    """v(N) - v(N - i), as a part of v(N) - v(nobody); 0 where there is nothing to lose."""
    cornerstones: tuple[str, ...]
    """Players whose drop is CORNERSTONE or more."""
    evaluations: int
    """Coalitions valued."""


def shapley(
    players: Sequence[str],
    value: Value,
    *,
    seed: int,
    samples: int,
    max_removed: int = 4,
    window: int = 4,
    floor: float | None = None,
    advance: Callable[[int], None] = lambda pairs: None,
) -> Shapley:
    """Truncated Monte-Carlo Shapley values of players that stand in a row.

    Args:
        samples: antithetic pairs for each player.
        max_removed: players removed at once, the one that is asked about among them.
        window: neighbours on either side that may be removed.
        floor: what nobody is worth, for the drops; default: v with all players removed.
    """
    assert samples > 0 < max_removed, (samples, max_removed)
    known: dict[frozenset[str], float] = {}

    def worth(removed: frozenset[str]) -> float:
        if removed not in known:
            known[removed] = value(removed)
        return known[removed]

    pairs = np.empty((len(players), samples))
    for number, player in enumerate(players):
        generator = np.random.Generator(np.random.PCG64([seed, number, 0x5A]))
        near = [p for n, p in enumerate(players) if 0 < abs(n - number) <= window]
        for sample in range(samples):
            both = _antithetic(near, min(max_removed - 1, len(near)), generator)
            gains = [worth(removed) - worth(removed | {player}) for removed in both]
            pairs[number, sample] = sum(gains) / 2
            advance(1)
    errors = (pairs.std(axis=1, ddof=1) / samples**0.5).tolist() if samples > 1 else []
    everyone = worth(frozenset())
    nobody = worth(frozenset(players)) if floor is None else floor
    stake = everyone - nobody
    drops = {p: (everyone - worth(frozenset([p]))) / stake if stake > 0 else 0.0 for p in players}
    return Shapley(
        values=dict(zip(players, pairs.mean(axis=1).tolist(), strict=True)),
        errors=dict(zip(players, errors, strict=False)),
        drops=drops,
        cornerstones=tuple(p for p in players if drops[p] >= CORNERSTONE),
        evaluations=len(known),
    )


def _antithetic(
    near: Sequence[str], largest: int, generator: np.random.Generator
) -> tuple[frozenset[str], frozenset[str]]:
    """Two removed sets from the ends of one random order; their sizes add up to `largest`."""
    order = [near[place] for place in generator.permutation(len(near))]
    size = int(generator.integers(largest + 1))
    return frozenset(order[:size]), frozenset(order[len(order) - (largest - size) :])


def of_adapter(gates: Gates, loss: Callable[[], float]) -> tuple[tuple[str, ...], Value]:
    """The adapted sub-layers of a model, and v: -loss with the deltas of removed ones taken away.

    The gates are 1 again after each value.
    """
    adapted = [gates.linears.by_id[one] for one in gates.ids]
    of = {one.id: f"{one.block}.{one.role}" for one in adapted}

    def value(removed: frozenset[str]) -> float:
        gates.only({one for one in gates.ids if of[one] not in removed})
        try:
            return -loss()
        finally:
            gates.set(1.0)

    return tuple(dict.fromkeys(of.values())), value


def of_model(
    network: Any, linears: Linears, loss: Callable[[], float]
) -> tuple[tuple[str, ...], Value]:
    """A whole model's sub-layers, and v: -loss while removed ones add nothing to the stream.

    Args:
        network: the transformers model, without wrappers.

    Raises:
        LayerError: see `sublayers`.
    """
    outputs = sublayers(network, linears)

    def value(removed: frozenset[str]) -> float:
        with contextlib.ExitStack() as stack:
            for player in removed:
                stack.enter_context(_silenced(outputs[player]))
            return -loss()

    return tuple(outputs), value


def sublayers(network: Any, linears: Linears) -> dict[str, Any]:
    """`12.attention`, `12.mlp` -> the module whose output the sub-layer adds to the stream.

    Where a sub-layer adds the stream itself (BLOOM), its last linear module.

    Raises:
        LayerError: a sub-layer with linear modules has no module of its own.
    """
    found: dict[str, Any] = {}
    blocks = network.get_submodule(linears.prefix)
    for number, block in enumerate(blocks):
        for name, child in block.named_children():
            role = "attention" if name in ATTENTION else "mlp" if name in MLP - _ENTRY else None
            if role is not None:
                found[f"{number}.{role}"] = _adding(child)
    units = linears.units("sublayer")
    missing = [unit for unit in units if unit not in found]
    if missing:
        raise LayerError(
            f"no module gives the output of {', '.join(missing[:4])} in this "
            f"{type(network).__name__}: its blocks have "
            f"{', '.join(name for name, _ in blocks[0].named_children())}. Rank an adapter "
            "instead: there a sub-layer is its deltas."
        )
    return {unit: found[unit] for unit in units}


def _adding(module: Any) -> Any:
    """What to silence: the module, or its last linear one where it is handed the stream to add."""
    if "residual" not in inspect.signature(module.forward).parameters:
        return module
    return [one for one in module.modules() if type(one).__name__ in ("Linear", "Conv1D")][-1]


@contextlib.contextmanager
def _silenced(module: Any) -> Iterator[None]:
    """While this holds the module's output is 0."""

    def hook(_: Any, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] * 0, *output[1:])
        return output * 0

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
