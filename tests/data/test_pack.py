"""Best-fit packing: laws, a known answer, and how near it comes to the fewest rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.data.encode import Examples
from lamina.data.pack import pack, unpacked

MAX_LENGTH = 64
some_lengths = st.lists(st.integers(1, MAX_LENGTH), max_size=60)


def of_lengths(lengths: list[int]) -> Examples:
    """Examples of these lengths whose last token is trained."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.zeros(starts[-1], dtype=bool)
    trained[starts[1:] - 1] = True
    return Examples(
        ids=np.arange(starts[-1], dtype=np.int32),
        trained=trained,
        starts=starts,
        num_bytes=np.ones(len(lengths), dtype=np.int64),
        places=tuple(f"rows.jsonl:{number}" for number in range(1, len(lengths) + 1)),
    )


@given(some_lengths)
def test_every_example_is_in_exactly_one_row(lengths):
    rows = pack(of_lengths(lengths), max_length=MAX_LENGTH)
    assert sorted(number for row in rows.members for number in row.tolist()) == list(
        range(len(lengths))
    )


@given(some_lengths)
def test_no_row_is_too_long_and_none_is_empty(lengths):
    rows = pack(of_lengths(lengths), max_length=MAX_LENGTH)
    assert all(0 < tokens <= MAX_LENGTH for tokens in rows.tokens)
    assert rows.tokens.sum() == sum(lengths)


@given(some_lengths)
def test_the_sums_of_a_row_are_those_of_its_examples(lengths):
    rows = pack(of_lengths(lengths), max_length=MAX_LENGTH)
    assert rows.tokens.tolist() == [sum(lengths[n] for n in row) for row in rows.members]
    assert rows.trained_tokens.tolist() == [len(row) for row in rows.members]


@given(some_lengths)
def test_two_rows_are_never_less_than_one_together(lengths):
    tokens = np.sort(pack(of_lengths(lengths), max_length=MAX_LENGTH).tokens)
    assert len(tokens) < 2 or tokens[0] + tokens[1] > MAX_LENGTH


@given(st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=6), max_size=12))
def test_the_rows_are_at_most_eleven_ninths_of_a_packing_that_exists(groups):
    # Each group fits in one row when it is cut to the length: so many rows suffice.
    fitting = [group for group in groups if sum(group) <= MAX_LENGTH]
    lengths = [length for group in fitting for length in group]
    rows = pack(of_lengths(lengths), max_length=MAX_LENGTH)
    assert len(rows) <= 11 / 9 * len(fitting) + 1


@pytest.mark.parametrize("shape", ["uniform", "short", "long tail"])
def test_random_lengths_fill_the_rows(shape):
    random = np.random.Generator(np.random.PCG64(0))
    lengths = {
        "uniform": random.integers(1, 512, 2000),
        "short": random.integers(8, 60, 2000),
        "long tail": np.clip(random.lognormal(4.5, 0.8, 2000).astype(int), 1, 512),
    }[shape]
    rows = pack(of_lengths(lengths.tolist()), max_length=512)
    fewest = -(-int(lengths.sum()) // 512)
    assert len(rows) <= 11 / 9 * fewest + 1
    assert rows.tokens.mean() / 512 > 0.97


def test_a_known_answer():
    rows = pack(of_lengths([3, 7, 5, 2, 8, 5]), max_length=10)
    assert [row.tolist() for row in rows.members] == [[3, 4], [0, 1], [2, 5]]


def test_best_fit_takes_the_row_with_the_least_room():
    # 6 and 7 open rows with 4 and 3 left; 3 must go to the 7, or the 4 would need a third row.
    rows = pack(of_lengths([6, 7, 3, 4]), max_length=10)
    assert [row.tolist() for row in rows.members] == [[1, 2], [0, 3]]


def test_the_same_examples_give_the_same_rows():
    lengths = np.random.Generator(np.random.PCG64(1)).integers(1, MAX_LENGTH, 500).tolist()
    first, again = (pack(of_lengths(lengths), max_length=MAX_LENGTH) for _ in range(2))
    assert [row.tolist() for row in first.members] == [row.tolist() for row in again.members]


def test_an_example_longer_than_a_row_is_our_mistake():
    with pytest.raises(AssertionError, match="65 > 64"):
        pack(of_lengths([65]), max_length=64)


def test_no_examples_make_no_rows():
    for rows in (pack(of_lengths([]), max_length=8), unpacked(of_lengths([]))):
        assert len(rows) == 0
        assert rows.tokens.tolist() == rows.trained_tokens.tolist() == []


def test_unpacked_rows_are_the_examples_in_order():
    rows = unpacked(of_lengths([3, 1, 2]))
    assert [row.tolist() for row in rows.members] == [[0], [1], [2]]
    assert rows.tokens.tolist() == [3, 1, 2]


@given(some_lengths, st.data())
def test_examples_taken_by_number_are_the_examples(lengths, data):
    examples = of_lengths(lengths)
    numbers = data.draw(st.lists(st.integers(0, len(lengths) - 1))) if lengths else []
    taken = examples.take(numbers)
    assert len(taken) == len(numbers)
    for place, number in enumerate(numbers):
        here = slice(taken.starts[place], taken.starts[place + 1])
        there = slice(examples.starts[number], examples.starts[number + 1])
        assert taken.ids[here].tolist() == examples.ids[there].tolist()
        assert taken.trained[here].tolist() == examples.trained[there].tolist()
        assert taken.places[place] == examples.places[number]
