"""Rules and baselines: what they choose, counted by hand, and laws that hold for any scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import LayerError, RecipeError
from lamina.core.rules import (
    REQUIRED,
    RULES,
    block_of,
    check_rule,
    choose,
    count_of,
    parameters_of,
)
from lamina.core.scores import LayerScores

KINDS = ("attn.q", "mlp.up")
SIZE = {"attn.q": 10, "mlp.up": 35}


def scores_of(values, granularity="module"):
    return LayerScores(
        method="ila",
        unit="nats",
        granularity=granularity,
        higher_means="important",
        values=values,
        model="base",
        inputs={"model": "fp"},
        prefix="model.layers",
    )


def modules(blocks):
    return [f"{b}.{kind}" for b in range(blocks) for kind in KINDS]


def sizes_of(values):
    return {one: SIZE[one.partition(".")[2]] for one in values}


def chosen(rule, values, **parameters):
    plan = choose(rule, scores_of(values), sizes=sizes_of(values), parameters=parameters)
    return set(plan.chosen)


FOUR = dict(zip(modules(4), [0.1, 0.8, 0.8, 0.3, 0.9, -0.2, 0.5, 0.8], strict=True))
ANY = st.integers(1, 6).flatmap(
    lambda blocks: st.lists(
        st.floats(-5, 5, allow_nan=False), min_size=2 * blocks, max_size=2 * blocks
    ).map(lambda values: dict(zip(modules(blocks), values, strict=True)))
)
SHARES = st.floats(0.01, 1)
WITH_SHARE = [name for name in RULES if "share" in parameters_of(name)]


@pytest.mark.parametrize(
    ("share", "total", "count"),
    [(0.3, 10, 3), (0.1, 30, 3), (0.3, 56, 17), (0.29, 56, 17), (1e-9, 56, 1), (1, 7, 7)],
)
def test_a_share_is_rounded_up_and_float_noise_is_no_module(share, total, count):
    assert count_of(share, total) == count


def test_top_and_bottom_take_ties_in_the_modules_order():
    assert chosen("top", FOUR, share=0.25) == {"2.attn.q", "0.mlp.up"}
    assert chosen("top", FOUR, share=0.375) == {"2.attn.q", "0.mlp.up", "1.attn.q"}
    assert chosen("bottom", FOUR, share=0.25) == {"2.mlp.up", "0.attn.q"}


def test_the_order_is_that_of_the_model_not_of_the_file():
    values = {"0.mlp.up": 1.0, "0.attn.q": 1.0}
    plan = choose(
        "top",
        scores_of(values),
        sizes={"0.attn.q": 10, "0.mlp.up": 35},
        parameters={"share": 0.5},
    )
    assert plan.chosen == ("0.attn.q",)
    assert list(plan.coefficients) == ["0.attn.q", "0.mlp.up"]


def test_a_budget_passes_over_what_is_too_large():
    # 2.attn.q (10) fits, 0.mlp.up (35) does not fit into 25, 1.attn.q (10) does
    assert chosen("budget", FOUR, parameters=25) == {"2.attn.q", "1.attn.q"}
    assert chosen("budget", FOUR, parameters=45) == {"2.attn.q", "0.mlp.up"}
    assert chosen("budget", FOUR, share_of_parameters=0.25) == {"2.attn.q", "0.mlp.up"}
    assert chosen("budget", FOUR, share_of_parameters=1) == set(FOUR)


def test_a_threshold_and_a_share_of_each_type():
    assert chosen("threshold", FOUR, at_least=0.8) == {
        "0.mlp.up",
        "1.attn.q",
        "2.attn.q",
        "3.mlp.up",
    }
    assert chosen("per_type", FOUR, share=0.5) == {"2.attn.q", "1.attn.q", "0.mlp.up", "3.mlp.up"}


def test_baselines_do_not_look_at_the_scores():
    assert chosen("first", FOUR, share=0.3) == {"0.attn.q", "0.mlp.up", "1.attn.q"}
    assert chosen("last", FOUR, share=0.3) == {"2.mlp.up", "3.attn.q", "3.mlp.up"}
    assert chosen("all", FOUR) == set(FOUR)
    turned = {one: -value for one, value in FOUR.items()}
    for seed in range(5):
        drawn = chosen("random", FOUR, share=0.3, seed=seed)
        assert len(drawn) == 3
        assert drawn == chosen("random", turned, share=0.3, seed=seed)
    assert len({frozenset(chosen("random", FOUR, share=0.3, seed=s)) for s in range(20)}) > 5


def test_matched_random_has_as_many_parameters_as_top():
    want = sum(sizes_of(FOUR)[one] for one in chosen("top", FOUR, share=0.5))
    draws = [chosen("matched_random", FOUR, share=0.5, seed=seed) for seed in range(20)]
    assert {sum(sizes_of(FOUR)[one] for one in draw) for draw in draws} == {want}
    assert len({frozenset(draw) for draw in draws}) > 1


def test_prefix_friendly_above_a_block_is_the_top_of_what_is_there():
    assert chosen("prefix_friendly", FOUR, share=0.375, lowest_block=2) == {
        "2.attn.q",
        "3.mlp.up",
        "3.attn.q",
    }


def test_prefix_friendly_goes_as_high_as_keeps_enough_of_the_top():
    # top 3: .9 + .8 + .8 = 2.5, and as much from block 1; from block 2: .9 + .8 + .5 = 2.2
    assert chosen("prefix_friendly", FOUR, share=0.375) == {"2.attn.q", "1.attn.q", "3.mlp.up"}
    assert chosen("prefix_friendly", FOUR, share=0.375, keep=0.88) == {
        "2.attn.q",
        "3.mlp.up",
        "3.attn.q",
    }


def test_prefix_friendly_tells_how_high_a_block_may_be():
    with pytest.raises(RecipeError, match=r"leaves 2 of 8 modules, and share: 0.375 takes 3.*is 2"):
        chosen("prefix_friendly", FOUR, share=0.375, lowest_block=3)
    with pytest.raises(RecipeError, match="nothing to keep a part of"):
        chosen("prefix_friendly", dict.fromkeys(FOUR, -1.0), share=0.3)


@given(ANY, SHARES)
def test_every_rule_with_a_share_takes_that_share(values, share):
    for name in ("top", "bottom", "random", "first", "last"):
        assert len(chosen(name, values, share=share)) == count_of(share, len(values))
    assert len(chosen("prefix_friendly", values, share=share, lowest_block=0)) == count_of(
        share, len(values)
    )


@given(ANY, SHARES)
def test_no_set_of_that_size_has_a_higher_sum_than_top(values, share):
    best = math.fsum(sorted(values.values(), reverse=True)[: count_of(share, len(values))])
    assert math.fsum(values[one] for one in chosen("top", values, share=share)) == best


@given(ANY, SHARES, st.floats(0.01, 1))
def test_prefix_friendly_keeps_what_it_says_and_no_higher_block_would(values, share, keep):
    count = count_of(share, len(values))

    def score(some):
        return math.fsum(max(values[one], 0) for one in some)

    whole = score(chosen("top", values, share=share))
    if whole <= 0:
        return
    found = chosen("prefix_friendly", values, share=share, keep=keep)
    assert score(found) >= keep * whole * (1 - 1e-9)
    lowest = min(map(block_of, found))
    above = sorted((v for one, v in values.items() if block_of(one) > lowest), reverse=True)
    if len(above) >= count:
        assert math.fsum(max(v, 0) for v in above[:count]) < keep * whole


@given(ANY, st.integers(10, 300))
def test_a_budget_is_kept_and_nothing_that_fits_is_left(values, limit):
    sizes = sizes_of(values)
    found = chosen("budget", values, parameters=limit)
    used = sum(sizes[one] for one in found)
    assert used <= limit
    assert all(used + sizes[one] > limit for one in values.keys() - found)


@given(ANY, SHARES, st.integers(0, 99))
def test_matched_random_is_never_larger_and_nothing_that_fits_is_left(values, share, seed):
    sizes = sizes_of(values)
    limit = sum(sizes[one] for one in chosen("top", values, share=share))
    found = chosen("matched_random", values, share=share, seed=seed)
    used = sum(sizes[one] for one in found)
    assert used <= limit
    assert all(used + sizes[one] > limit for one in values.keys() - found)


def test_the_plan_says_where_it_comes_from():
    plan = choose("top", scores_of(FOUR), sizes=sizes_of(FOUR), parameters={"share": 0.25})
    assert (plan.rule, plan.parameters, plan.others) == ("top", {"share": 0.25}, 0.0)
    assert (plan.prefix, plan.model, plan.inputs) == ("model.layers", "base", {"model": "fp"})
    plan = choose("random", scores_of(FOUR), sizes=sizes_of(FOUR), parameters={"share": 0.25})
    assert plan.parameters == {"share": 0.25, "seed": 0}


def test_parameters_of_a_rule_are_its_keyword_arguments():
    assert parameters_of("prefix_friendly") == {
        "share": REQUIRED,
        "lowest_block": None,
        "keep": 0.9,
    }
    assert parameters_of("all") == {}
    with pytest.raises(RecipeError, match="no rule `topp` for a plan; did you mean `top`"):
        parameters_of("topp")


@pytest.mark.parametrize(
    ("rule", "parameters", "told"),
    [
        ("tpo", {}, "no rule `tpo` for a plan; did you mean `top`"),
        ("top", {}, "share: missing; a number above 0 and at most 1 is needed"),
        ("top", {"share": 0}, "share: a number above 0 and at most 1 is needed, not 0"),
        ("top", {"share": 1.01}, "at most 1 is needed, not 1.01"),
        ("top", {"share": -0.3}, "not -0.3"),
        ("top", {"share": float("nan")}, "not nan"),
        ("top", {"share": "30 %"}, "not '30 %'"),
        ("top", {"share": True}, "not True"),
        ("top", {"share": None}, "not None"),
        ("top", {"share": 0.3, "shares": 0.3}, "shares: unknown parameter; did you mean `share`"),
        ("all", {"share": 0.3}, "share: unknown parameter; it has no parameters"),
        ("threshold", {"at_least": float("inf")}, "a number is needed, not inf"),
        ("random", {"share": 0.3, "seed": 1.5}, "a whole number of at least 0 is needed, not 1.5"),
        ("random", {"share": 0.3, "seed": -1}, "not -1"),
        ("budget", {}, "give either parameters"),
        ("budget", {"parameters": 10, "share_of_parameters": 0.5}, "give either parameters"),
        ("budget", {"parameters": 0}, "a whole number of at least 1 is needed, not 0"),
        ("prefix_friendly", {"share": 0.3, "lowest_block": -1}, "the number of a block"),
        ("prefix_friendly", {"share": 0.3, "keep": 2}, "keep: a number above 0"),
    ],
)
def test_parameters_that_cannot_work_are_told(rule, parameters, told):
    with pytest.raises(RecipeError) as caught:
        check_rule(rule, parameters)
    assert told in str(caught.value)


def test_all_problems_of_a_rule_are_told_at_once():
    with pytest.raises(RecipeError) as caught:
        check_rule("random", {"shar": 0.3, "seed": -1})
    for told in ("shar: unknown", "seed: a whole", "share: missing"):
        assert told in str(caught.value)


def test_whole_numbers_may_be_written_as_floats():
    assert chosen("budget", FOUR, parameters=2.5e1) == chosen("budget", FOUR, parameters=25)


def test_a_budget_below_the_smallest_module():
    with pytest.raises(RecipeError, match=r"budget of 9 .* smallest module, 0.attn.q with 10"):
        chosen("budget", FOUR, parameters=9)
    with pytest.raises(RecipeError, match="nothing would be tuned"):
        chosen("budget", FOUR, share_of_parameters=0.01)


def test_a_rule_that_chooses_nothing():
    with pytest.raises(LayerError, match=r"chooses none of 8 modules.*from -0.2 to 0.9"):
        chosen("threshold", FOUR, at_least=2)


def test_scores_that_do_not_fit_the_modules():
    with pytest.raises(LayerError, match="scores by block"):
        choose(
            "all",
            scores_of({"0": 1.0}, "block"),
            sizes={"0.attn.q": 1},
            parameters={},
        )
    with pytest.raises(LayerError, match=r"no value for 1.attn.q; the model has no 0.mlp.up"):
        choose(
            "all",
            scores_of({"0.attn.q": 1.0, "0.mlp.up": 1.0}),
            sizes={"0.attn.q": 1, "1.attn.q": 1},
            parameters={},
        )


def test_every_rule_was_seen():
    assert len(RULES) == 11, list(RULES)
    assert len(WITH_SHARE) == 8, WITH_SHARE
