import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.core.errors import RecipeError
from lamina.versatune.project import (
    Repeats,
    caps_from_repeats,
    inverse,
    project,
    project_within,
    start_weights,
)


def named(values):
    return {f"d{number}": value for number, value in enumerate(values)}


@st.composite
def bounded(draw):
    """Weights with a floor and caps that can be met."""
    count = draw(st.integers(1, 8))
    weights = draw(st.lists(st.floats(1e-6, 1e6), min_size=count, max_size=count))
    floor = draw(st.floats(0, 1)) / count
    caps = [floor + draw(st.floats(0, 1)) for _ in range(count)]
    short = 1 - math.fsum(min(cap, 1.0) for cap in caps)
    if short > 0:
        caps[draw(st.integers(0, count - 1))] = 1.0
    return named(weights), floor, named(caps), draw(st.floats(0, 1))


@settings(max_examples=300)
@given(bounded())
def test_the_simplex_the_floor_and_the_caps_hold(case):
    weights, floor, caps, smoothing = case
    domains, _ = project(weights, smoothing=smoothing, floor=floor, caps=caps)
    assert math.fsum(domains.weights.values()) == pytest.approx(1, abs=1e-9)
    for name, share in domains.weights.items():
        assert floor - 1e-15 <= share <= min(caps[name], 1.0)


@settings(max_examples=200)
@given(bounded(), st.randoms(use_true_random=False))
def test_the_order_of_the_names_is_irrelevant_to_the_bit(case, draw):
    weights, floor, caps, smoothing = case
    names = list(weights)
    draw.shuffle(names)
    turned = {name: weights[name] for name in names}
    one, _ = project(weights, smoothing=smoothing, floor=floor, caps=caps)
    two, _ = project(turned, smoothing=smoothing, floor=floor, caps=caps)
    assert dict(one.weights) == dict(two.weights)
    assert list(two.weights) == names


@settings(max_examples=200)
@given(bounded())
def test_what_is_projected_stays_where_it_is(case):
    weights, floor, caps, _ = case
    once, _ = project(weights, smoothing=0, floor=floor, caps=caps)
    twice, told = project(once.weights, smoothing=0, floor=floor, caps=caps)
    assert dict(twice.weights) == pytest.approx(dict(once.weights), abs=1e-9)
    assert told == ()


@settings(max_examples=200)
@given(bounded())
def test_domains_within_their_bounds_keep_their_proportions(case):
    weights, floor, caps, _ = case
    domains, _ = project(weights, smoothing=0, floor=floor, caps=caps)
    free = [
        name
        for name, share in domains.weights.items()
        if floor + 1e-9 < share < min(caps[name], 1) - 1e-9
    ]
    ratios = [domains.weights[name] / weights[name] for name in free]
    assert ratios == pytest.approx(ratios[:1] * len(ratios), rel=1e-6)


def test_a_share_too_small_to_be_one_counts_as_none():
    domains, _ = project({"a": 1.0, "b": 5e-324}, smoothing=0, floor=0.1)
    assert domains.weights == {"a": 0.9, "b": 0.1}


def test_smoothing_by_hand():
    domains, told = project({"a": 3, "b": 1}, smoothing=0.2)
    assert domains.weights == pytest.approx({"a": 0.7, "b": 0.3})  # .8 * .75 + .1
    assert told == ()


def test_without_smoothing_and_bounds_weights_are_only_normalised():
    domains, _ = project({"a": 3, "b": 1, "c": 0}, smoothing=0)
    assert domains.weights == {"a": 0.75, "b": 0.25, "c": 0}


def test_a_floor_is_taken_from_the_others_in_proportion():
    domains, told = project({"a": 0.6, "b": 0.38, "c": 0.02}, smoothing=0, floor=0.1)
    # .9 is left for a and b: .9 * .6/.98 and .9 * .38/.98.
    assert domains.weights == pytest.approx({"a": 0.54 / 0.98, "b": 0.342 / 0.98, "c": 0.1})
    assert told == ("c raised from 0.020 to the floor, 0.100",)


def test_what_a_cap_takes_goes_to_the_others_in_proportion():
    domains, told = project({"a": 0.6, "b": 0.3, "c": 0.1}, smoothing=0, caps={"a": 0.4})
    assert domains.weights == pytest.approx({"a": 0.4, "b": 0.45, "c": 0.15})
    assert told == ("a lowered from 0.600 to its cap, 0.400",)


def test_a_cap_may_push_another_domain_to_its_cap():
    domains, told = project({"a": 0.6, "b": 0.3, "c": 0.1}, smoothing=0, caps={"a": 0.4, "b": 0.4})
    assert domains.weights == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})
    assert len(told) == 1  # b was not lowered, it was raised less


def test_floor_and_cap_together():
    domains, _ = project({"a": 0.9, "b": 0.09, "c": 0.01}, smoothing=0, floor=0.05, caps={"a": 0.5})
    # c at .05, a at .5, b has the rest.
    assert domains.weights == pytest.approx({"a": 0.5, "b": 0.45, "c": 0.05})


def test_a_floor_that_leaves_nothing_free_makes_all_equal():
    for count in (2, 3, 5, 7, 9, 10):
        weights = named(range(1, count + 1))
        domains, _ = project(weights, smoothing=0, floor=1 / count)
        assert domains.weights == pytest.approx(dict.fromkeys(weights, 1 / count))


def test_a_domain_that_is_not_read_gets_nothing_of_what_a_cap_takes():
    domains, _ = project({"a": 0.8, "b": 0.2, "c": 0.0}, smoothing=0, caps={"a": 0.5})
    assert domains.weights == {"a": 0.5, "b": 0.5, "c": 0.0}


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ({"floor": 0.6}, r"floor 0\.6 for 2 domains is 1\.2 in all; .* between 0 and 0\.5"),
        ({"floor": -0.1}, r"floor -0\.1 for 2 domains"),
        ({"floor": math.nan}, "floor nan"),
        ({"smoothing": 1.5}, r"smoothing is 1\.5"),
        ({"floor": 0.2, "caps": {"a": 0.1}}, r"caps below the floor of 0\.2: `a` 0\.1"),
        ({"caps": {"a": 0.3, "b": 0.3}}, r"room for 0\.6 of a window.* raise max_repeats"),
    ],
    ids=["floor", "negative", "nan", "smoothing", "cap below floor", "no room"],
)
def test_bounds_that_cannot_be_met_are_told(bounds, told):
    with pytest.raises(RecipeError, match=f"cannot be kept within their bounds: .*{told}"):
        project({"a": 0.5, "b": 0.5}, **bounds)


def test_caps_over_domains_that_are_not_read_do_not_count_as_room():
    with pytest.raises(RecipeError, match=r"room for 0\.5 .* give the other domains a weight"):
        project({"a": 1.0, "b": 0.0}, smoothing=0, caps={"a": 0.5})


def test_weights_that_are_no_weights_are_told():
    with pytest.raises(RecipeError, match="`a` is -1"):
        project({"a": -1, "b": 1})


# ---- repeats ------------------------------------------------------------------------------------


def repeats(**changed):
    return Repeats(
        **{
            "max_repeats": 2.0,
            "sizes": {"a": 100, "b": 1000},
            "read": {"a": 150, "b": 0},
            "rows": 200,
            **changed,
        }
    )


def test_a_cap_is_what_may_still_be_read():
    # a: 2 * 100 - 150 = 50 of 200 rows; b: 2000 of 200.
    caps, told = caps_from_repeats(repeats(), {"a": 0.5, "b": 0.5})
    assert caps == {"a": 0.25, "b": 1.0}
    assert told == ()


def test_a_cap_in_tokens_follows_the_rows():
    # Weights .5 and .5 of tokens with rows of 30 and 10 tokens are .25 and .75 of the rows, a mean
    # row of 15 tokens: 50 of 200 rows are .25 * 30 / 15 = .5 of the tokens.
    caps, _ = caps_from_repeats(
        repeats(tokens_per_row={"a": 30.0, "b": 10.0}), {"a": 0.5, "b": 0.5}
    )
    assert caps == pytest.approx({"a": 0.5, "b": 1.0})


def test_a_spent_domain_keeps_the_floor_and_is_told():
    caps, told = caps_from_repeats(
        repeats(read={"a": 300, "b": 0}), {"a": 0.5, "b": 0.5}, floor=0.01
    )
    assert caps["a"] == 0.01
    assert told == ("a read more than 2 times: the floor holds",)


def test_where_all_rows_are_spent_the_caps_give_way_and_are_told():
    caps, told = caps_from_repeats(repeats(read={"a": 200, "b": 1900}), {"a": 0.5, "b": 0.5})
    assert caps == {"a": 0.0, "b": 1.0}
    assert told == ("too few rows are left for max_repeats 2: every domain is read more often",)
    caps, _ = caps_from_repeats(repeats(read={"a": 200, "b": 2000}), {"a": 0.5, "b": 0.5})
    assert caps == {"a": 1.0, "b": 1.0}


def test_a_domain_alone_is_read_on():
    caps, told = caps_from_repeats(repeats(read={"a": 200, "b": 0}), {"a": 1.0, "b": 0.0})
    assert caps["a"] == 1.0
    assert len(told) == 1
    domains, _ = project_within(
        {"a": 1.0, "b": 0.0}, smoothing=0, repeats=repeats(read={"a": 200, "b": 0})
    )
    assert domains.weights == {"a": 1.0, "b": 0.0}


def test_a_domain_without_weight_takes_the_floor_and_no_more_whatever_it_has_left():
    domains, told = project_within(
        {"a": 1.0, "b": 0.0},
        smoothing=0,
        floor=0.01,
        repeats=repeats(read={"a": 190, "b": 0}),
    )
    assert domains.weights == pytest.approx({"a": 0.99, "b": 0.01})
    assert any("too few rows" in line for line in told)


@pytest.mark.parametrize("seed", range(20))
def test_no_state_of_a_run_leaves_it_without_weights(seed):
    draw = random.Random(seed)
    for _ in range(50):
        names = [f"d{n}" for n in range(draw.randint(1, 6))]
        weights = {name: draw.choice([0.0, draw.random() ** 4]) for name in names}
        weights["d0"] = 0.5
        state = Repeats(
            draw.choice([1.0, 2.5, 4.0]),
            {name: draw.randint(1, 1000) for name in names},
            {name: draw.randint(0, 4000) for name in names},
            draw.randint(1, 2000),
            draw.choice([None, {name: draw.uniform(1, 500) for name in names}]),
        )
        domains, _ = project_within(
            weights,
            repeats=state,
            smoothing=draw.choice([0, 1e-4]),
            floor=draw.choice([0, 0.01, 1 / len(names)]),
        )
        assert math.fsum(domains.weights.values()) == pytest.approx(1, abs=1e-9)


def test_without_repeats_nothing_is_capped():
    domains, told = project_within({"a": 1.0, "b": 3.0}, smoothing=0, repeats=None)
    assert domains.weights == {"a": 0.25, "b": 0.75}
    assert told == ()


@pytest.mark.parametrize("seed", range(30))
def test_no_domain_is_read_more_often_than_it_may_be_over_a_whole_run(seed):
    """Weights that pull to a small domain with long rows; shares are of tokens."""
    draw = random.Random(seed)
    names = [f"d{n}" for n in range(draw.randint(2, 6))]
    sizes = {name: draw.randint(20, 2000) for name in names}
    tokens = {name: draw.uniform(5, 500) for name in names}
    read, windows = dict.fromkeys(names, 0.0), 8
    most, rows = 3.0, sum(sizes.values()) * 2.5 / windows  # the whole of them 2.5 times
    for _ in range(windows):
        asked = {name: draw.uniform(0.01, 1) ** 3 for name in names}
        domains, _ = project_within(
            asked,
            repeats=Repeats(most, sizes, dict(read), round(rows), tokens),
        )
        by_row = {name: domains.weights[name] / tokens[name] for name in names}
        total = math.fsum(by_row.values())
        for name in names:
            read[name] += rows * by_row[name] / total
    for name in names:
        assert read[name] <= most * sizes[name] * (1 + 1e-3) + 1


# ---- start --------------------------------------------------------------------------------------


def test_inverse_is_one_over_the_share():
    assert inverse({"a": 0.5, "b": 0.3, "c": 0.2}).weights == pytest.approx(
        {"a": 6 / 31, "b": 10 / 31, "c": 15 / 31}
    )


def test_the_inverse_of_nothing_is_told():
    with pytest.raises(RecipeError, match="that of b, c is 0"):
        inverse({"a": 1.0, "b": 0.0, "c": 0.0})


def test_starts():
    two = ("a", "b")
    assert start_weights("uniform", domains=two).weights == {"a": 0.5, "b": 0.5}
    by_size = start_weights("by_size", domains=two, sizes={"b": 30, "a": 10})
    assert by_size.weights == {"a": 0.25, "b": 0.75}
    assert by_size.names == two
    detected = start_weights("detected", domains=two, detected={"a": 0.9, "b": 0.1})
    assert detected.weights == {"a": 0.9, "b": 0.1}
    assert start_weights({"b": 1.0, "a": 0.0}, domains=two).weights == {"a": 0.0, "b": 1.0}


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ("unifrom", "start `unifrom` is unknown; did you mean `uniform`"),
        ("detected", "needs the shares that `lamina detect` finds, and there are none"),
        ("by_size", "needs the sizes of the domains, and there are none"),
        ({"law": 1.0}, "none for `code`"),
        ({"law": 0.5, "code": 0.4, "coed": 0.1}, "`coed` is not a domain; did you mean `code`"),
        ({"law": 0.5, "code": 0.4}, r"they sum to 0\.9, not to 1"),
        ({"law": 1.5, "code": -0.5}, r"`code` is -0\.5"),
    ],
    ids=["misspelt", "detected", "by_size", "missing", "unknown", "sum", "negative"],
)
def test_a_start_that_cannot_be_is_told(start, told):
    with pytest.raises(RecipeError, match=told):
        start_weights(start, domains=("law", "code"))
