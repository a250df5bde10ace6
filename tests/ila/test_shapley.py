"""Truncated Shapley values: exact where games allow it, and honest about their error elsewhere."""

import sys
from itertools import combinations, permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lamina.core.errors import LayerError
from lamina.engine.losses import LossHead
from lamina.engine.planned import linears
from lamina.ila.gates import gating
from lamina.ila.leave_one_out import FromBlock
from lamina.ila.shapley import of_adapter, of_model, shapley, sublayers

sys.path.append(str(Path(__file__).parent))

from scored_pico import adapted_pico, batches, pico

PLAYERS = tuple("abcde")


def exact(players: tuple[str, ...], value: Any) -> dict[str, float]:
    """By all orders of the players: what each adds to those before it."""
    totals = dict.fromkeys(players, 0.0)
    orders = list(permutations(players))
    for order in orders:
        for place, player in enumerate(order):
            absent = frozenset(order[place + 1 :])
            totals[player] += value(absent) - value(absent | {player})
    return {player: total / len(orders) for player, total in totals.items()}


def pairwise(removed: frozenset[str]) -> float:
    """Each is worth its number, and each two together the product of theirs."""
    here = [PLAYERS.index(p) + 1.0 for p in PLAYERS if p not in removed]
    return sum(here) + 0.25 * sum(a * b for a, b in combinations(here, 2))


def glove(removed: frozenset[str]) -> float:
    """Lloyd Shapley's: a left glove (a, b) is worth something with a right one (c, d, e)."""
    left, right = len({"a", "b"} - removed), len({"c", "d", "e"} - removed)
    return float(min(left, right))


def test_pairs_of_players_that_interact_are_valued_without_noise() -> None:
    found = shapley(PLAYERS, pairwise, seed=0, samples=3, max_removed=5, window=5)
    assert found.values == pytest.approx(exact(PLAYERS, pairwise), abs=1e-12)
    assert max(found.errors.values()) < 1e-12


def test_the_glove_game_is_met_within_its_own_error() -> None:
    wanted = exact(PLAYERS, glove)
    assert sum(wanted.values()) == pytest.approx(2.0)
    found = shapley(PLAYERS, glove, seed=1, samples=4000, max_removed=5, window=5)
    assert 0 < max(found.errors.values()) < 0.01
    for player in PLAYERS:
        assert abs(found.values[player] - wanted[player]) < 4 * found.errors[player]
    assert found.evaluations == 2**5


def test_an_additive_game_needs_no_window() -> None:
    players = tuple(str(n) for n in range(12))
    seen: set[frozenset[str]] = set()

    def value(removed: frozenset[str]) -> float:
        seen.add(removed)
        return float(sum(int(p) for p in players if p not in removed))

    found = shapley(players, value, seed=0, samples=6)
    assert found.values == {p: float(p) for p in players}
    few = [removed for removed in seen if len(removed) < len(players)]
    assert max(len(removed) for removed in few) == 4
    places = [sorted(int(p) for p in removed) for removed in few if removed]
    assert max(numbers[-1] - numbers[0] for numbers in places) <= 8
    assert found.evaluations == len(seen)


def test_a_cornerstone_takes_half_of_everything_with_it() -> None:
    def value(removed: frozenset[str]) -> float:
        return 1.0 if "c" in removed else 11.0 - len(removed)

    found = shapley(PLAYERS, value, seed=0, samples=4)
    assert found.cornerstones == ("c",)
    assert found.drops["c"] == pytest.approx(1.0)
    assert found.drops["a"] == pytest.approx(0.1)
    against_chance = shapley(PLAYERS, value, seed=0, samples=4, floor=-9.0)
    assert against_chance.drops["c"] == pytest.approx(0.5)
    assert against_chance.cornerstones == ("c",)


def test_nothing_to_lose_makes_no_cornerstone_and_one_pair_no_error() -> None:
    found = shapley(PLAYERS, lambda removed: -2.0, seed=0, samples=1)
    assert found.values == dict.fromkeys(PLAYERS, 0.0)
    assert (found.drops, found.cornerstones) == (dict.fromkeys(PLAYERS, 0.0), ())
    assert found.errors == {}


def test_the_seed_alone_decides() -> None:
    one, same, other = (
        shapley(PLAYERS, glove, seed=seed, samples=3, max_removed=4) for seed in (3, 3, 4)
    )
    assert one == same
    assert one.values != other.values


class _Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(2, 2)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return self.dense(hidden) + residual


def test_a_block_without_a_known_sublayer_is_refused() -> None:
    network = torch.nn.Module()
    block = torch.nn.Module()
    block.add_module("self_attn", _Attention())
    block.add_module("mixer", torch.nn.Linear(2, 2))
    network.add_module("layers", torch.nn.ModuleList([block]))
    units = SimpleNamespace(prefix="layers", units=lambda grain: ("0.attention", "0.mlp"))
    with pytest.raises(LayerError, match=r"no module gives the output of 0\.mlp.*self_attn, mixer"):
        sublayers(network, units)  # type: ignore[arg-type]
    units.units = lambda grain: ("0.attention",)
    adding: Any = sublayers(network, units)["0.attention"]  # type: ignore[arg-type]
    assert adding is block.get_submodule("self_attn.dense"), "the stream passes through the module"
    assert np.isfinite(adding.weight.detach().numpy()).all()


SUBLAYERS = tuple(f"{block}.{role}" for block in range(3) for role in ("attention", "mlp"))


def test_of_an_adapter_a_removed_sublayer_is_one_without_its_deltas() -> None:
    model = adapted_pico()
    head = LossHead(model)
    with gating(model) as gates:
        rows = FromBlock(model, head, batches())
        players, value = of_adapter(gates, rows.loss)
        assert players == SUBLAYERS
        removed = value(frozenset({"1.mlp", "0.attention"}))
        assert gates.values.tolist() == [1.0] * len(gates.ids)
        gone = ("1.mlp.", "0.self_attn.")
        gates.only({one for one in gates.ids if not one.startswith(gone)})
        assert removed == -rows.loss()
        found = shapley(players, value, seed=0, samples=2, max_removed=2, window=2)
    assert tuple(found.values) == SUBLAYERS
    assert len(set(found.values.values())) == 6


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "opt", "bloom", "gemma2"])
def test_of_a_model_a_removed_sublayer_adds_nothing_to_the_stream(kind: str) -> None:
    """A block without both of its sub-layers hands on its input."""
    network = pico(kind)
    head = LossHead(network)
    rows = FromBlock(network, head, batches())
    players, value = of_model(network, linears(network), rows.loss)
    assert players == SUBLAYERS
    assert value(frozenset()) == -rows.loss()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        seen.append((before, out[0] if isinstance(out, tuple) else out))

    block = network.get_submodule(linears(network).prefix)[1]
    handle = block.register_forward_hook(hook, with_kwargs=True)
    alone = value(frozenset({"1.attention", "1.mlp"}))
    handle.remove()
    assert alone != value(frozenset())
    assert len(seen) == len(batches())
    for before, after in seen:
        torch.testing.assert_close(before, after)
    assert value(frozenset()) == -rows.loss(), "no hook is left"
