"""The price of a plan: the formula against what was measured, and against hand counting."""

import pytest

from lamina.core.modules import Linear, Linears
from lamina.core.plan import LayerPlan
from lamina.ila.price import Counted, in_words, price, priced, trade_off

TYPES = {"self_attn.q_proj": (64, 64), "mlp.up_proj": (64, 256)}


def linears_of(blocks):
    return Linears(
        "model.layers",
        blocks,
        {
            f"{b}.{kind}": Linear(
                f"{b}.{kind}",
                f"model.layers.{b}.{kind}",
                b,
                "attention" if "attn" in kind else "mlp",
                inputs,
                outputs,
            )
            for b in range(blocks)
            for kind, (inputs, outputs) in TYPES.items()
        },
    )


def plan_of(model, chosen, **more):
    return LayerPlan(
        granularity="module",
        coefficients={one: float(one in chosen) for one in model.weights},
        others=0.0,
        rule="by_hand",
        from_scores="",
        **more,
    )


SIXTEEN = Counted(
    num_blocks=16,
    weights={f"{b}.mlp": 47_000 for b in range(16)},
    adapters={f"{b}.mlp": 2_000 for b in range(16)},
    head=48_000,
)
"""Head 6 % and adapters 4 % of a forward pass, as in the model that was measured."""


def measured(chosen):
    return priced(plan_of(SIXTEEN, {f"{b}.mlp" for b in chosen}), SIXTEEN, {})


@pytest.mark.parametrize(
    ("blocks", "key", "seen"),
    [
        (range(16), "step", 2.12),
        (range(12, 16), "step", 1.32),
        ((0, 5, 10, 15), "step", 2.07),
        (range(12, 16), "step_checkpointed", 1.56),
        (range(12, 16), "step_hooked", 2.88),
        (range(12, 16), "step_cached", 0.62),
    ],
)
def test_the_formula_is_within_four_percent_of_what_was_measured(blocks, key, seen):
    assert measured(blocks)[key] == pytest.approx(seen, rel=0.04)


def test_a_price_counted_by_hand():
    model = linears_of(2)
    # 64 * 64 + 64 * 256 = 20480 a block; rank 4: 4 * 128 = 512 and 4 * 320 = 1280
    counted = Counted.of(model, rank=4, head=1000)
    cost = price(plan_of(counted, {"1.mlp.up_proj"}), model, rank=4, head=1000)
    forward = 2 * 20480 + 1000
    assert cost == {
        "lowest_block": 1,
        "num_blocks": 2,
        "modules": 1,
        "of_modules": 4,
        "parameters": 1280,
        "of_parameters": 2 * (512 + 1280),
        "step": (forward + 20480 + 1000 + 3 * 1280) / forward,
        "step_checkpointed": (forward + 2 * 20480 + 1000 + 4 * 1280) / forward,
        "step_hooked": (forward + 4 * 20480 + 1000 + 4 * 1280) / forward,
        "step_cached": (2 * 20480 + 2 * 1000 + 3 * 1280) / forward,
        "step_all": (2 * forward + 3 * 3584) / forward,
    }


def test_tuning_matrices_whole_costs_three_passes_for_all_of_them():
    model = linears_of(3)
    counted = Counted.of(model, rank=None)
    cost = price(plan_of(counted, set(model.by_id)), model, rank=None)
    assert cost["step"] == cost["step_all"] == 3.0
    assert cost["parameters"] == cost["of_parameters"] == 3 * 20480


def test_ranks_of_their_own_and_modules_trained_whole_count():
    model = linears_of(4)
    counted = Counted.of(model, rank=4)
    own = plan_of(counted, {"2.mlp.up_proj"}, ranks={"2.mlp.up_proj": 8}, full=("norm",))
    cost = price(own, model, rank=4, whole={"norm": 64})
    assert (cost["lowest_block"], cost["parameters"]) == (2, 8 * 320 + 64)
    whole = plan_of(counted, {"3.mlp.up_proj"}, full=("1.self_attn.q_proj",))
    cost = price(whole, model, rank=4)
    assert (cost["lowest_block"], cost["modules"]) == (1, 2)
    assert cost["parameters"] == 4 * 320 + 64 * 64


@pytest.mark.parametrize(
    ("full", "lowest"),
    [("lm_head", 4), ("norm", 4), ("embed_tokens", 0), ("wte", 0), ("embed_out", 4)],
)
def test_how_far_down_backward_goes_for_what_is_outside_the_blocks(full, lowest):
    model = linears_of(4)
    cost = price(plan_of(Counted.of(model, rank=4), set(), full=(full,)), model, rank=4)
    assert cost["lowest_block"] == lowest


def test_words_tell_memory_and_time_apart():
    scattered = in_words(measured((0, 5, 10, 15)))
    assert "Scattered modules save memory" in scattered
    assert "hardly any time" in scattered
    assert "2.03 forward passes against 2.12" in scattered
    top = in_words(measured(range(12, 16)))
    assert "frozen prefix" in top
    assert "38 % less" in top
    assert "0.62 with the prefix's outputs cached" in top
    assert "Nothing is frozen" in in_words(measured(range(16)))


def test_trade_off_tells_each_set_once_and_kept_falls_while_steps_get_cheaper():
    values = {one: float(16 - b) for b, one in enumerate(SIXTEEN.weights)}
    offers = trade_off(values, SIXTEEN, 0.25)
    assert len(offers) == 13, offers
    assert offers[0].kept == 1.0
    assert [o.lowest_block for o in offers] == list(range(13))
    kept, steps = [o.kept for o in offers], [o.step for o in offers]
    assert kept == sorted(kept, reverse=True)
    assert steps == sorted(steps, reverse=True)
    assert offers[-1].step == measured(range(12, 16))["step"]


def test_trade_off_of_a_ranking_without_a_positive_score():
    offers = trade_off(dict.fromkeys(SIXTEEN.weights, -1.0), SIXTEEN, 0.25)
    assert {offer.kept for offer in offers} == {0.0}
