import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.domains import (
    Change,
    DomainLosses,
    Domains,
    RowLosses,
    apportion,
    change,
    in_proportion,
)
from lamina.core.errors import DataError, RecipeError

WEIGHTS = st.lists(st.floats(0, 1e12), min_size=1, max_size=9).filter(lambda w: max(w) > 0)


def named(weights):
    return {f"d{number}": weight for number, weight in enumerate(weights)}


def test_domains_keep_the_order_of_the_recipe():
    domains = Domains({"law": 0.5, "code": 0.2, "art": 0.3})
    assert domains.names == ("law", "code", "art")
    assert Domains.normalised({"law": 5, "code": 2, "art": 3}) == domains


def test_domains_are_a_copy():
    given = {"law": 1.0}
    domains = Domains(given)
    given["law"] = 2.0
    assert domains.weights == {"law": 1.0}


def test_all_bad_weights_are_told_at_once():
    with pytest.raises(RecipeError, match=r"`a` is -0\.5, `b` is nan, `d` is inf\."):
        Domains({"a": -0.5, "b": math.nan, "c": 0.5, "d": math.inf})


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({}, "there is no domain"),
        ({"a": 0.5, "b": 0.4}, r"they sum to 0\.9, not to 1"),
        ({"a": 0.5, "b": 0.500000002}, r"they sum to 1\.000000002, not to 1"),
    ],
    ids=["none", "too little", "too much"],
)
def test_domains_must_sum_to_one(weights, told):
    with pytest.raises(RecipeError, match=told):
        Domains(weights)


def test_scores_of_zero_have_no_proportion():
    with pytest.raises(RecipeError, match="all of them are 0"):
        Domains.normalised({"a": 0, "b": 0})


def test_huge_and_tiny_scores_keep_their_proportion():
    assert in_proportion({"a": 1.5e308, "b": 1.5e308}) == {"a": 0.5, "b": 0.5}
    assert in_proportion({"a": 5e-324, "b": 5e-324}) == {"a": 0.5, "b": 0.5}


@given(WEIGHTS)
def test_normalised_is_on_the_simplex(weights):
    assert math.fsum(Domains.normalised(named(weights)).weights.values()) == pytest.approx(1)


def test_apportion_by_largest_remainder():
    # Quotas 4.7, 3.3, 2: rounded down 4 + 3 + 2 = 9, the tenth goes to the remainder .7.
    assert apportion({"a": 0.47, "b": 0.33, "c": 0.2}, 10) == {"a": 5, "b": 3, "c": 2}


def test_a_tie_goes_to_the_earlier_name():
    assert apportion({"z": 0.5, "a": 0.5}, 3) == {"z": 2, "a": 1}
    assert apportion({"a": 0.35, "b": 0.65}, 10) == {"a": 4, "b": 6}  # 3.5 and 6.5, as written
    assert apportion({"b": 0.65, "a": 0.35}, 10) == {"b": 7, "a": 3}


def test_decimal_weights_give_whole_quotas():
    tenths = {"a": 1, "b": 2, "c": 3, "d": 4}
    assert apportion({name: count / 10 for name, count in tenths.items()}, 10) == tenths


@given(WEIGHTS, st.integers(0, 10_000))
def test_apportion_sums_exactly_and_stays_within_one_of_the_quota(weights, total):
    counts = apportion(named(weights), total)
    assert sum(counts.values()) == total
    whole = sum(Fraction(weight) for weight in weights)
    for count, weight in zip(counts.values(), weights, strict=True):
        assert abs(count - Fraction(weight) * total / whole) < 1 + 1e-6
        assert weight or count == 0


def test_bad_weights_cannot_be_apportioned():
    with pytest.raises(RecipeError, match="`b` is -1"):
        apportion({"a": 1.0, "b": -1.0}, 3)


def test_loss_is_over_all_tokens_together_never_a_mean_of_means():
    rows = RowLosses(sums=(2.0, 12.0), tokens=(1, 3), num_bytes=(4, 24))
    assert rows.loss == 3.5
    assert rows.nats_per_byte == 0.5
    assert rows.total_tokens == 4
    # Residuals 2 - 3.5 = -1.5 and 12 - 10.5 = 1.5: sqrt((2.25 + 2.25) * 2/1) / 4 = 3/4.
    assert rows.se == pytest.approx(0.75)
    # By bytes 2 - 2 = 0 and 12 - 12 = 0.
    assert rows.nats_per_byte_se == 0


def test_the_spread_of_one_example_is_unknown():
    assert RowLosses((2.0,), (1,), (4,)).se == math.inf


def test_the_standard_error_is_the_spread_over_samples_of_examples():
    draw = random.Random(0)
    pool = [(draw.uniform(1, 5), draw.randint(2, 30)) for _ in range(4000)]

    def sample():
        chosen = draw.choices(pool, k=200)
        tokens = tuple(count for _, count in chosen)
        return RowLosses(tuple(loss * count for loss, count in chosen), tokens, tokens)

    samples = [sample() for _ in range(300)]
    mean = math.fsum(rows.loss for rows in samples) / 300
    spread = math.sqrt(math.fsum((rows.loss - mean) ** 2 for rows in samples) / 299)
    told = math.fsum(rows.se for rows in samples) / 300
    assert told == pytest.approx(spread, rel=0.15)


def test_what_makes_an_example_hard_cancels_in_a_change():
    before = RowLosses((10.0, 90.0, 30.0), (10, 10, 10), (20, 20, 20))
    after = RowLosses((9.0, 89.0, 29.0), (10, 10, 10), (20, 20, 20))
    assert change(after, before) == Change(-0.1, 0.0)
    assert change(after, before, unit="nats per byte") == Change(-0.05, 0.0)
    assert before.se > 1


def test_the_change_of_two_examples_by_hand():
    before = RowLosses((4.0, 6.0), (2, 2), (2, 2))
    after = RowLosses((5.0, 9.0), (2, 2), (2, 2))
    # Gaps 1 and 3, (1 + 3)/4 = 1; residuals 1 - 2 and 3 - 2: sqrt((1 + 1) * 2) / 4 = 1/2.
    assert change(after, before) == Change(1.0, 0.5)
    assert change(after, before).z == 2


def test_z_where_nothing_or_everything_moved():
    assert Change(0.0, 0.0).z == 0
    assert Change(-1.0, 0.0).z == -math.inf
    assert Change(1.0, math.inf).z == 0


def test_other_examples_are_not_paired():
    with pytest.raises(DataError, match="2 held-out examples of 4 tokens cannot be paired with 1"):
        change(RowLosses((1.0, 1.0), (2, 2), (2, 2)), RowLosses((1.0,), (2,), (2,)))


def test_losses_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match=r"1 of 2 held-out examples is not finite .* number 1"):
        RowLosses((1.0, math.nan), (1, 1), (1, 1))


def test_no_trained_token_has_no_loss():
    with pytest.raises(DataError, match="2 held-out examples with no trained token"):
        RowLosses((0.0, 0.0), (0, 0), (0, 0))
    with pytest.raises(DataError, match="no bytes to divide by"):
        print(RowLosses((1.0,), (1,), (0,)).nats_per_byte)


def test_domain_losses_in_either_unit():
    rows = RowLosses((4.0, 8.0), (2, 4), (8, 16))
    losses = DomainLosses(3, {"law": rows})
    assert losses.losses() == {"law": 2.0}
    assert losses.losses("nats per byte") == {"law": 0.5}
    assert losses.ses() == {"law": 0.0}
