from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.stems import Stem, common_prefix, stem_of
from lamina.evaluate.windows import Window

SMALL = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


def test_a_prompt_is_read_once_and_equal_inputs_are_one() -> None:
    windows = [
        Window(0, (1, 2, 3, 4, 5), 1),
        Window(1, (1, 2, 3, 9, 5, 6), 2),
        Window(2, (1, 2, 3, 4, 7), 1),
    ]
    stem, places = stem_of(windows, 0)
    assert stem == Stem(0, (1, 2, 3), ((4,), (9, 5)))
    assert stem.tokens == (1, 2, 3, 4, 9, 5)
    assert stem.positions == [0, 1, 2, 3, 3, 4]
    assert stem.longest == 5
    assert places == [[3], [4, 5], [3]]


def test_answers_of_one_token_are_one_row() -> None:
    stem, places = stem_of([Window(n, (8, 9, n), 1) for n in range(4)], 0)
    assert stem == Stem(0, (8, 9), ())
    assert places == [[1]] * 4


def test_an_input_that_is_the_beginning_of_another_needs_no_tail() -> None:
    stem, places = stem_of([Window(0, (1, 2, 3), 1), Window(1, (1, 2, 4, 5), 2)], 0)
    assert stem == Stem(0, (1, 2), ((4,),))
    assert places == [[1], [1, 2]]


@given(SMALL, SMALL, st.lists(st.tuples(SMALL, st.integers(1, 6)), min_size=1, max_size=4))
def test_every_place_has_the_token_and_the_position_of_its_window(
    prefix: tuple[int, ...], prompt: tuple[int, ...], ends: list[tuple[tuple[int, ...], int]]
) -> None:
    windows = [
        Window(n, (*prefix, *prompt, *end, 0), min(scored, len(prompt) + len(end)))
        for n, (end, scored) in enumerate(ends)
    ]
    begin = len(prefix)
    stem, places = stem_of(windows, begin)
    assert len(stem.tokens) == len(stem.positions)
    for window, own in zip(windows, places, strict=True):
        span = range(window.first_scored, window.length)
        assert [stem.positions[place] for place in own] == list(span)
        assert [stem.tokens[place] for place in own] == [window.tokens[i] for i in span]
    assert len(stem.tokens) <= sum(window.length - begin for window in windows)


@given(st.lists(SMALL, min_size=1, max_size=5))
def test_the_common_prefix_is_the_longest_one(rows: list[tuple[int, ...]]) -> None:
    size = common_prefix(rows)
    assert len({row[:size] for row in rows}) == 1
    longer = {row[: size + 1] for row in rows}
    assert len(longer) > 1 or any(len(row) == size for row in rows)
