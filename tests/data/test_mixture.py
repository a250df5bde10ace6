"""The rows of a window: laws, and an order that no machine and no version may change."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import RecipeError
from lamina.data.mixture import advance, still_owed, window_counts, window_rows

NAMES = ("law", "medicine", "finance", "code")
domains = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.integers(1, 40), st.integers(0, 90), st.integers(0, 200)),
    min_size=1,
)
seeds = st.integers(0, 2**64)


def split(drawn) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Sizes, counts and cursors of drawn domains."""
    sizes, counts, cursors = ({name: drawn[name][i] for name in drawn} for i in range(3))
    return sizes, counts, cursors


def read_by(rows: np.ndarray, number: int) -> list[int]:
    return rows[rows[:, 0] == number][:, 1].tolist()


@given(domains, seeds, st.integers(0, 1000))
def test_every_domain_gives_as_many_rows_as_asked(drawn, seed, window):
    sizes, counts, cursors = split(drawn)
    rows = window_rows(seed=seed, window=window, counts=counts, cursors=cursors, sizes=sizes)
    assert rows.dtype == np.int64
    assert rows.shape == (sum(counts.values()), 2)
    for number, name in enumerate(sizes):
        read = read_by(rows, number)
        assert len(read) == counts[name]
        assert all(0 <= row < sizes[name] for row in read)


@given(domains, seeds, st.integers(0, 1000))
def test_the_rows_are_a_pure_function_of_the_arguments(drawn, seed, window):
    sizes, counts, cursors = split(drawn)
    first = window_rows(seed=seed, window=window, counts=counts, cursors=cursors, sizes=sizes)
    np.random.seed(0)  # numpy's global state must not matter
    again = window_rows(seed=seed, window=window, counts=counts, cursors=cursors, sizes=sizes)
    assert np.array_equal(first, again)


@given(st.integers(1, 30), st.lists(st.integers(0, 25), max_size=12), seeds)
def test_no_row_comes_twice_within_an_epoch_over_any_cut_into_windows(size, windows, seed):
    cursors: dict[str, int] = {"law": 0}
    read: list[int] = []
    for window, count in enumerate(windows):
        rows = window_rows(
            seed=seed, window=window, counts={"law": count}, cursors=cursors, sizes={"law": size}
        )
        assert cursors["law"] == len(read)
        # A window is shuffled as a whole: its rows are compared as a multiset, epoch by epoch.
        whole = window_rows(
            seed=seed, window=0, counts={"law": count}, cursors=cursors, sizes={"law": size}
        )
        assert sorted(whole[:, 1]) == sorted(rows[:, 1])
        read += rows[:, 1].tolist()
        cursors = advance(cursors, {"law": count})
        repeats = np.bincount(read, minlength=size) if read else np.zeros(size, dtype=int)
        assert repeats.max() - repeats.min() <= 1, "some row came again before all had come"


@given(st.integers(1, 30), seeds, st.integers(0, 5))
def test_an_epoch_is_every_row_once(size, seed, epoch):
    cursors, counts = {"law": epoch * size}, {"law": size}
    rows = window_rows(seed=seed, window=9, counts=counts, cursors=cursors, sizes={"law": size})
    assert sorted(rows[:, 1]) == list(range(size))


@given(domains, seeds)
def test_a_domain_is_read_the_same_whatever_the_others_give(drawn, seed):
    sizes, counts, cursors = split(drawn)
    rows = window_rows(seed=seed, window=3, counts=counts, cursors=cursors, sizes=sizes)
    for number, name in enumerate(sizes):
        alone = window_rows(
            seed=seed, window=3, counts={name: counts[name]}, cursors=cursors, sizes=sizes
        )
        assert sorted(read_by(rows, number)) == sorted(alone[:, 1])
        assert set(alone[:, 0]) <= {number}


def test_seed_window_domain_and_epoch_all_change_the_order():
    sizes, counts = {"law": 64, "code": 64}, {"law": 64, "code": 64}

    def rows(*, seed=0, window=0, epoch=0):
        cursors = {"law": 64 * epoch, "code": 64 * epoch}
        return window_rows(seed=seed, window=window, counts=counts, cursors=cursors, sizes=sizes)

    given_rows = rows()
    assert not np.array_equal(given_rows, rows(seed=1))
    assert not np.array_equal(given_rows, rows(window=1))
    assert not np.array_equal(given_rows, rows(epoch=1))
    assert read_by(given_rows, 0) != read_by(given_rows, 1)


def test_the_domains_of_a_window_are_mixed():
    sizes = counts = {"law": 500, "code": 500}
    rows = window_rows(seed=0, window=0, counts=counts, cursors={}, sizes=sizes)
    assert 200 < rows[:500, 0].sum() < 300


def test_the_order_is_uniform_over_seeds():
    size, seeds_tried = 5, 4000
    first = [
        window_rows(seed=seed, window=0, counts={"law": 1}, cursors={}, sizes={"law": size})[0, 1]
        for seed in range(seeds_tried)
    ]
    expected = seeds_tried / size
    chi_squared = float(((np.bincount(first, minlength=size) - expected) ** 2 / expected).sum())
    assert chi_squared < 18.5, chi_squared  # 4 degrees of freedom: exceeded once in 1,000


def test_the_order_is_the_same_on_every_machine_and_with_every_numpy():
    rows = window_rows(
        seed=17,
        window=2,
        counts={"law": 4, "code": 3},
        cursors={"law": 3},
        sizes={"law": 5, "code": 9},
    )
    assert rows.tolist() == [[1, 4], [0, 3], [1, 5], [1, 6], [0, 4], [0, 4], [0, 2]]


def test_a_name_that_is_missing_counts_as_zero():
    rows = window_rows(seed=0, window=0, counts={}, cursors={}, sizes={"law": 3, "code": 0})
    assert rows.shape == (0, 2)


def test_no_domain_gives_no_row():
    assert window_rows(seed=0, window=0, counts={}, cursors={}, sizes={}).shape == (0, 2)


def test_an_unknown_domain_is_our_mistake():
    with pytest.raises(AssertionError, match="no such domain"):
        window_rows(seed=0, window=0, counts={"lwa": 1}, cursors={}, sizes={"law": 3})


def test_rows_of_a_domain_without_rows_are_our_mistake():
    with pytest.raises(AssertionError, match="`law` has no row"):
        window_rows(seed=0, window=0, counts={"law": 1}, cursors={}, sizes={"law": 0})


@given(domains)
def test_cursors_go_on(drawn):
    _, counts, cursors = split(drawn)
    after = advance(cursors, counts)
    assert after == {name: cursors[name] + counts[name] for name in cursors}
    assert advance({}, counts) == counts


weights = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.floats(0, 10), st.floats(0.5, 4000)),
    min_size=1,
).filter(lambda drawn: any(weight for weight, _ in drawn.values()))


@given(weights, st.integers(0, 5000))
def test_counts_sum_to_the_rows_and_are_within_one_of_their_quota(drawn, num_rows):
    shares = {name: weight for name, (weight, _) in drawn.items()}
    tokens = {name: tokens for name, (_, tokens) in drawn.items()}
    counts = window_counts(shares, num_rows, tokens_per_row=tokens)
    assert sum(counts.values()) == num_rows
    assert list(counts) == list(drawn)
    assert all(counts[name] == 0 for name in drawn if not shares[name])
    quotas = {name: Fraction(shares[name]) / Fraction(tokens[name]) for name in drawn}
    whole = sum(quotas.values())
    for name, quota in quotas.items():
        assert abs(counts[name] - num_rows * quota / whole) < 1 + 1e-6


@given(weights, st.integers(0, 5000), st.floats(1, 100))
def test_equal_rows_make_token_shares_shares_of_rows(drawn, num_rows, tokens):
    shares = {name: weight for name, (weight, _) in drawn.items()}
    equal = dict.fromkeys(shares, 2.0 ** round(np.log2(tokens)))
    assert window_counts(shares, num_rows, tokens_per_row=equal) == window_counts(
        shares, num_rows, tokens_per_row=None
    )


def test_a_domain_of_long_rows_gets_fewer_of_them():
    counts = window_counts(
        {"law": 0.5, "code": 0.5}, 40, tokens_per_row={"law": 300.0, "code": 100.0}
    )
    assert counts == {"law": 10, "code": 30}
    assert counts["law"] * 300 == counts["code"] * 100


def test_a_domain_of_weight_zero_needs_no_rows_and_no_tokens():
    counts = window_counts({"law": 0.0, "code": 1.0}, 7, tokens_per_row={"code": 3.0})
    assert counts == {"law": 0, "code": 7}


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(RecipeError, match="all of them are 0"):
        window_counts({"law": 0.0}, 7, tokens_per_row=None)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.001, 1), min_size=1),
    st.integers(1, 40),
    st.integers(1, 30),
)
def test_what_rounding_keeps_back_is_made_up_for(
    scores: dict[str, float], num_rows: int, windows: int
) -> None:
    total = sum(scores.values())
    weights = {name: score / total for name, score in scores.items()}
    owed = dict.fromkeys(weights, 0.0)
    read = dict.fromkeys(weights, 0)
    for _ in range(windows):
        counts = window_counts(weights, num_rows, tokens_per_row=None, owed=owed)
        assert sum(counts.values()) == num_rows
        owed = still_owed(weights, num_rows, tokens_per_row=None, owed=owed)
        read = advance(read, counts)
    for name, weight in weights.items():
        assert abs(read[name] - weight * num_rows * windows) < 2


def test_a_small_domain_gets_its_row_in_every_third_window() -> None:
    weights, owed, got = {"law": 1 / 12, "code": 11 / 12}, {"law": 0.0, "code": 0.0}, []
    for _ in range(6):
        got.append(window_counts(weights, 4, tokens_per_row=None, owed=owed)["law"])
        owed = still_owed(weights, 4, tokens_per_row=None, owed=owed)
    assert got == [0, 1, 0, 0, 1, 0]


def test_a_domain_that_is_not_wanted_any_more_is_owed_nothing() -> None:
    weights = {"law": 0.0, "code": 1.0}
    owed = {"law": 0.4, "code": -0.4}
    assert window_counts(weights, 4, tokens_per_row=None, owed=owed) == {"law": 0, "code": 4}
    assert still_owed(weights, 4, tokens_per_row=None, owed=owed)["law"] == 0.0
