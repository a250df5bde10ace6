import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lamina.core.errors import DataError
from lamina.data.formats import Record, Turn
from lamina.data.split import hold_out, share_counts, take


def _records(*texts: str) -> list[Record]:
    return [Record(None, text, f"a:{number}") for number, text in enumerate(texts, start=1)]


def _many(count: int) -> list[Record]:
    return _records(*(f"text number {n}" for n in range(count)))


def _split(
    records: list[Record], rows: int = 256, share: float = 0.1, seed: int = 0
) -> tuple[list[Record], list[Record]]:
    return hold_out(records, rows=rows, share=share, seed=seed)


def test_the_smaller_of_rows_and_share_is_held_out() -> None:
    assert [len(part) for part in _split(_many(100))] == [90, 10]
    assert [len(part) for part in _split(_many(100), rows=4)] == [96, 4]
    assert [len(part) for part in _split(_many(20))] == [18, 2]


def test_both_parts_keep_their_order_and_lose_nothing() -> None:
    records = _many(50)
    training, heldout = _split(records, share=0.5)
    assert sorted([*training, *heldout], key=records.index) == records
    assert training == sorted(training, key=records.index)
    assert heldout == sorted(heldout, key=records.index)


def test_the_place_of_a_row_does_not_count() -> None:
    records = _many(60)
    assert set(_split(records)[1]) == set(_split(records[::-1])[1])


def test_another_seed_holds_out_other_rows() -> None:
    records = _many(200)
    parts = {frozenset(_split(records, seed=seed)[1]) for seed in range(4)}
    assert len(parts) == 4


def test_the_same_seed_holds_out_these_rows() -> None:
    assert [record.place for record in _split(_many(40))[1]] == ["a:8", "a:24", "a:30", "a:39"]


def test_added_rows_displace_few() -> None:
    before = set(_split(_many(1000), rows=50)[1])
    after = set(_split(_many(1100), rows=50)[1])
    assert len(before & after) >= 40
    assert before - after  # an added row has taken the place of another


def test_equal_contents_are_on_one_side() -> None:
    records = _records(*[f"text {n % 40}" if n % 3 else f"TEXT  {n % 40}\n" for n in range(200)])
    training, heldout = _split(records)
    sides = [
        {" ".join((r.text or "").lower().split()) for r in part} for part in (training, heldout)
    ]
    assert heldout
    assert not sides[0] & sides[1]
    assert len(heldout) <= 20


def test_rows_without_a_completion_are_not_held_out() -> None:
    silent = [Record((Turn("user", f"q{n}"), Turn("assistant", " ")), None, "b") for n in range(90)]
    training, heldout = _split([*silent, *_many(20)])
    assert len(heldout) == 2
    assert not set(heldout) & set(silent)
    assert len(training) == 108
    with pytest.raises(DataError, match="none of its 90 rows has a completion"):
        _split(silent)


@pytest.mark.parametrize("count", [1, 2, 10, 19])
def test_too_few_rows_to_hold_two_out_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"no held-out rows: 0.1 of {count} rows is less than 2"):
        _split(_many(count))


def test_rows_that_are_all_equal_are_refused() -> None:
    with pytest.raises(DataError, match="its 30 rows have only 1 different contents"):
        _split(_records(*["same"] * 30))
    with pytest.raises(DataError, match="no held-out rows"):
        _split(_records("a", *["b"] * 29))


@given(
    st.lists(st.text("ab ", max_size=3), max_size=60),
    st.integers(2, 20),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_held_out_rows_are_two_at_least_and_within_the_bounds(
    texts: list[str], rows: int, share: float, seed: int
) -> None:
    records = _records(*texts)
    try:
        training, heldout = _split(records, rows, share, seed)
    except DataError:
        return
    assert training
    speaking = sum(record.says_something for record in records)
    assert 2 <= len(heldout) <= min(rows, math.floor(share * speaking + 1e-9))


def test_shares_take_the_most_rows() -> None:
    assert share_counts([100, 100], [0.5, 0.5]) == [100, 100]
    assert share_counts([100, 50], [0.5, 0.5]) == [50, 50]
    assert share_counts([100, 50], [0.25, 0.75]) == [17, 49]
    assert share_counts([7, 5], [None, None]) == [7, 5]
    assert share_counts([10, 30, 60], [0.5, None, None]) == [10, 3, 7]
    assert share_counts([1000, 30, 60], [0.5, None, None]) == [90, 30, 60]
    assert share_counts([3], [1.0]) == [3]


@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(1, 100), st.booleans()), min_size=1, max_size=6
    )
)
def test_shares_hold_to_a_row(sources: list[tuple[int, int, bool]]) -> None:
    sizes = [size for size, _, _ in sources]
    whole = sum(weight for _, weight, _ in sources)
    shares = [None if free else weight / whole for _, weight, free in sources]
    assume(any(share is not None for share in shares))
    counts = share_counts(sizes, shares)
    total = sum(counts)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    for count, share in zip(counts, shares, strict=True):
        assert share is None or abs(count - share * total) <= 1 + 1e-6
    # One row more of each would break a bound: nothing is left out without need.
    free = [size for size, share in zip(sizes, shares, strict=True) if share is None]
    bounds = [s / share for s, share in zip(sizes, shares, strict=True) if share is not None]
    if free:
        bounds.append(sum(free) / (1 - math.fsum(share for share in shares if share is not None)))
    assert total == math.floor(min(bounds) + 1e-9)


def test_a_share_is_taken_by_content_in_order() -> None:
    records = _many(30)
    taken = take(records, 10, seed=0)
    assert taken == sorted(taken, key=records.index)
    assert len(taken) == 10
    assert set(take(records[::-1], 10, seed=0)) == set(taken)
    assert set(taken) < set(take(records, 20, seed=0))
    assert take(records, 10, seed=1) != taken
    assert take(records, 30, seed=0) == records
    assert take(_records(*["same"] * 5), 2, seed=0) == _records("same", "same")
