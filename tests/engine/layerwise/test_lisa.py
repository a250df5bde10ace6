"""LISA: who is drawn, who moves, and what the optimiser keeps."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.core.errors import RecipeError
from lamina.engine.layerwise.lisa import Lisa, block_weights, draw_blocks


class Watched(Lisa):
    """Writes down, after every step, what is drawn, what has moments, and all weights."""

    def begin(self, model: Any) -> None:
        super().begin(model)
        self.model, self.seen = model, []
        self.start = {n: p.detach().clone() for n, p in model.named_parameters()}

    def begin_step(self, step: int, optimizer: Any) -> None:
        super().begin_step(step, optimizer)
        self.optimizer = optimizer

    def after_update(self, step: int) -> None:
        named = dict(self.model.named_parameters())
        moments = {n for n, p in named.items() if p in self.optimizer.state}
        steps = {n: int(self.optimizer.state[named[n]]["step"]) for n in moments}
        weights = {n: p.detach().clone() for n, p in named.items()}
        self.seen.append((self.drawn, steps, weights))


def block_of(name: str) -> int | None:
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


@pytest.fixture(scope="module")
def watched(run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    tuner = Watched(period=2, layers=1, seed=2)
    run(tmp_path_factory.mktemp("lisa"), None, tuner=tuner)
    return tuner


def test_only_the_drawn_blocks_move_and_what_lies_outside_always(watched: Watched) -> None:
    before = watched.start
    drawn_in_all = set()
    for drawn, _, after in watched.seen:
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == {n for n in after if block_of(n) is None or block_of(n) in drawn}
        before = after
        drawn_in_all |= set(drawn)
    assert len(watched.seen) == 6
    assert len(drawn_in_all) > 1, "one block throughout shows nothing about the others"


def test_a_block_that_rests_has_no_moments_and_begins_anew(watched: Watched) -> None:
    for step, (drawn, steps, _) in enumerate(watched.seen, start=1):
        assert {block_of(name) for name in steps} == {None, *drawn}
        for name, count in steps.items():
            assert count == step if block_of(name) is None else count <= step
    first, later = watched.seen[1], watched.seen[2]
    (block,) = later[0]
    assert first[0] != later[0]
    assert later[1][f"model.layers.{block}.mlp.up_proj.weight"] == 1


def test_a_draw_is_a_pure_function_of_seed_and_period() -> None:
    draws = [draw_blocks(range(12), 3, seed=5, number=n) for n in range(40)]
    assert draws == [draw_blocks(range(12), 3, seed=5, number=n) for n in range(40)]
    assert draws != [draw_blocks(range(12), 3, seed=6, number=n) for n in range(40)]
    assert all(len(set(one)) == 3 and list(one) == sorted(one) for one in draws)


def test_blocks_are_drawn_as_often_as_their_weights_say() -> None:
    weights = {1: 3.0, 4: 1.0, 7: 0.0}
    counts = Counter(
        draw_blocks((1, 4, 7), 1, seed=0, number=n, weights=weights)[0] for n in range(4000)
    )
    assert set(counts) == {1, 4}
    assert abs(counts[1] / 4000 - 0.75) < 0.03


def test_weights_are_the_positive_part_of_a_blocks_sum() -> None:
    assert block_weights({0: (1.0, -0.25), 1: (-2.0, 1.0), 2: (0.5,)}) == {0: 0.75, 1: 0, 2: 0.5}
    with pytest.raises(RecipeError, match="no block has a score above 0"):
        block_weights({0: (-1.0,), 1: (0.0,)})


def test_frozen_blocks_are_never_drawn(pico: Callable[..., Any]) -> None:
    model = pico()
    model.model.layers[1].requires_grad_(False)
    model.model.layers[3].requires_grad_(False)
    model.model.layers[2].mlp.requires_grad_(False)
    tuner = Lisa(period=1, layers=1, seed=0)
    tuner.begin(model)
    optimizer = torch.optim.SGD(model.parameters())
    drawn = set()
    for step in range(20):
        tuner.begin_step(step, optimizer)
        drawn |= set(tuner.drawn or ())
        assert not model.model.layers[2].mlp.up_proj.weight.requires_grad
    assert drawn == {0, 2}
    tuner.end()
    assert model.model.layers[0].mlp.up_proj.weight.requires_grad
    assert not model.model.layers[1].mlp.up_proj.weight.requires_grad


def test_more_blocks_than_can_be_drawn_are_refused(
    run: Callable[..., Any], tmp_path: Path, pico: Callable[..., Any]
) -> None:
    with pytest.raises(RecipeError, match=r"layers is 5, but only 4 of the model's 4 blocks"):
        run(tmp_path, {"way": "lisa", "layers": 5})
    tuner = Lisa(period=1, layers=2, seed=0, weights={0: 1.0, 1: 0.0})
    with pytest.raises(RecipeError, match=r"layers is 2, but only 1 of the model's 4 blocks"):
        tuner.begin(pico())


def test_accumulation_draws_once_a_step(run: Callable[..., Any], tmp_path: Path) -> None:
    tuner = Watched(period=1, layers=2, seed=1)
    run(tmp_path, None, tuner=tuner, batch_size=2, accumulate=2, gradient_checkpointing=True)
    assert len(tuner.seen) == 6
    expected = [draw_blocks(range(4), 2, seed=1, number=step) for step in range(6)]
    assert [drawn for drawn, _, _ in tuner.seen] == expected
