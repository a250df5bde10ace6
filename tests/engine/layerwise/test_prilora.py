"""PRILoRA: ranks that rise, inputs that are watched, rows that are pruned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lamina.core.modules import Linear, Linears
from lamina.core.plan import LayerPlan
from lamina.engine.collate import collate
from lamina.engine.layerwise.prilora import (
    Prilora,
    prune_rows,
    real_places,
    rising_ranks,
    with_rising_ranks,
)


class Watched(Prilora):
    """Counts the zeros of all A after every step."""

    def begin(self, model: Any) -> None:
        super().begin(model)
        self.zeros: list[list[int]] = []

    def after_update(self, step: int) -> None:
        super().after_update(step)
        self.zeros.append([int((a == 0).sum(1).min()) for a in self._a.values()])


def linears_of(blocks: int) -> Linears:
    found = [
        Linear(f"{block}.{name}", f"model.layers.{block}.{name}", block, role, 8, 8)
        for block in range(blocks)
        for name, role in (("self_attn.q_proj", "attention"), ("mlp.up_proj", "mlp"))
    ]
    return Linears("model.layers", blocks, {one.id: one for one in found})


def test_a_pruned_row_grows_back_until_the_next_pruning(
    run: Callable[..., Any], pico: Callable[..., Any], tmp_path: Path
) -> None:
    tuner = Watched(every=3, keep=0.5, decay=0.9)
    run(tmp_path, None, model=pico(rank=4), tuner=tuner)
    inputs = [8, 8, 8, 8, 8, 8, 12] * 4  # half of 16, and of 24 before down_proj
    assert tuner.zeros[2] == inputs
    assert tuner.zeros[5] == inputs
    assert not any(map(any, (tuner.zeros[0], tuner.zeros[1], tuner.zeros[3], tuner.zeros[4])))


def test_the_running_mean_is_that_of_the_modules_own_inputs(pico: Callable[..., Any]) -> None:
    model, draws = pico(rank=4), torch.Generator().manual_seed(1)
    tuner = Prilora(every=99, keep=0.5, decay=0.9)
    module = model.get_base_model().model.layers[1].mlp.down_proj
    seen: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    tuner.begin(model)
    wanted = torch.zeros(24)
    for step in range(3):
        seen.clear()
        tuner.begin_step(step, None)
        for _ in range(2):  # two forward passes are one step's
            ids = torch.randint(0, 64, (2, 8), generator=draws)
            model(input_ids=ids, position_ids=torch.arange(8).expand(2, 8))
        with torch.no_grad():
            model(input_ids=ids)  # looked at, not trained on
        model.eval()
        model(input_ids=ids)
        model.train()
        tuner.after_update(step + 1)
        trained = torch.cat([one.flatten(0, 1) for one in seen[:2]])
        wanted = 0.9 * wanted + 0.1 * trained.abs().mean(0)
    torch.testing.assert_close(tuner.state()["model.layers.1.mlp.down_proj"], wanted)
    tuner.end()
    tuner.begin_step(3, None)
    model(input_ids=ids)
    assert not any(sums.any() for sums in tuner._sums.values())


def test_padding_does_not_count(pico: Callable[..., Any], row: Callable[..., Any]) -> None:
    rows = [row(7, 5, seed=1), row(3, seed=2)]
    padded = collate(rows, pad_id=0, flatten=False)
    real = real_places(padded["position_ids"])
    wanted = np.zeros((2, 16), dtype=bool)
    wanted[0, :12] = wanted[1, :3] = True
    assert real.tolist() == wanted.flatten().tolist()
    flat = collate(rows, pad_id=0, flatten=True)
    assert real_places(flat["position_ids"]).tolist() == [True] * 15 + [False]
    model, tuner = pico(rank=4), Prilora(every=99, keep=0.5, decay=0.0)
    tuner.begin(model)
    tuner.begin_step(0, None)
    model(input_ids=padded["input_ids"], position_ids=padded["position_ids"])
    tuner.after_update(1)
    embedded = (
        model.get_base_model()
        .model.layers[0]
        .input_layernorm(model.get_input_embeddings()(padded["input_ids"]))
    )
    mean = embedded.flatten(0, 1)[real].abs().mean(0)
    torch.testing.assert_close(tuner.state()["model.layers.0.self_attn.q_proj"], mean.detach())
    tuner.end()


@pytest.mark.parametrize(
    ("keep", "left"), [(0.5, 4), (0.3, 3), (1.0, 7), (0.01, 1), (3 / 7, 3), (4 / 7, 4)]
)
def test_a_row_keeps_its_share_rounded_up(keep: float, left: int) -> None:
    a = torch.arange(1.0, 15.0).reshape(2, 7)
    pruned = prune_rows(a, torch.ones(7), keep=keep)
    assert (pruned != 0).sum(1).tolist() == [left, left]
    assert torch.equal(pruned[:, 7 - left :], a[:, 7 - left :])


def test_ranks_rise_to_the_last_whatever_the_number_of_blocks() -> None:
    for blocks in range(1, 40):
        ranks = rising_ranks(blocks, first_rank=4, last_rank=12)
        assert len(ranks) == blocks
        assert list(ranks) == sorted(ranks)
        assert ranks[-1] == 12
        assert blocks == 1 or ranks[0] == 4
    assert rising_ranks(3, first_rank=6, last_rank=6) == (6, 6, 6)


def test_a_plan_gets_the_ranks_of_its_modules_alone() -> None:
    linears = linears_of(3)
    whole = with_rising_ranks(linears, first_rank=2, last_rank=4)
    assert whole.chosen == tuple(linears.by_id)
    assert list(whole.ranks.values()) == [2, 2, 3, 3, 4, 4]
    assert whole.prefix == "model.layers"
    half = LayerPlan(
        granularity="module",
        coefficients={unit: float(unit.endswith("up_proj")) for unit in linears.by_id},
        others=0.0,
        rule="per_type",
        from_scores="scores.json",
        full=("norm",),
    )
    planned = with_rising_ranks(linears, first_rank=2, last_rank=4, plan=half)
    assert planned.ranks == {"0.mlp.up_proj": 2, "1.mlp.up_proj": 3, "2.mlp.up_proj": 4}
    assert planned.model_copy(update={"ranks": {}}) == half
