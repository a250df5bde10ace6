from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.windows import Window, batches, completion_window, rolling_windows


def test_a_short_text_is_one_window_after_the_start_token() -> None:
    assert rolling_windows(3, [7, 8, 9], start=1, max_length=4) == [Window(3, (1, 7, 8, 9), 3)]


def test_a_text_as_long_as_the_model_is_one_window() -> None:
    assert rolling_windows(0, [7, 8], start=1, max_length=2) == [Window(0, (1, 7, 8), 2)]


def test_the_last_window_is_filled_up_from_the_left() -> None:
    windows = rolling_windows(0, list(range(10, 20)), start=1, max_length=4)
    assert windows == [
        Window(0, (1, 10, 11, 12, 13), 4),
        Window(0, (13, 14, 15, 16, 17), 4),
        Window(0, (15, 16, 17, 18, 19), 2),
    ]


def test_an_empty_text_has_no_window() -> None:
    assert rolling_windows(0, [], start=1, max_length=4) == []


@given(st.integers(0, 60), st.integers(1, 20))
def test_every_token_is_scored_once_and_after_its_own_past(count: int, max_length: int) -> None:
    tokens = list(range(100, 100 + count))
    windows = rolling_windows(0, tokens, start=99, max_length=max_length)
    scored = [token for window in windows for token in window.tokens[-window.scored :]]
    assert scored == tokens
    for window in windows:
        assert 1 <= window.scored <= window.length <= max_length
        assert list(window.tokens) == list(range(window.tokens[0], window.tokens[-1] + 1))


def test_a_completion_is_scored_after_its_prompt() -> None:
    assert completion_window(2, [1, 2], [3, 4], max_length=8) == Window(2, (1, 2, 3, 4), 2)


def test_a_long_prompt_loses_its_beginning() -> None:
    assert completion_window(0, [1, 2, 3, 4], [5, 6], max_length=3) == Window(0, (3, 4, 5, 6), 2)


def test_a_completion_as_long_as_the_model_fits_and_a_longer_one_does_not() -> None:
    assert completion_window(0, [1, 2], [3, 4, 5], max_length=3) == Window(0, (2, 3, 4, 5), 3)
    assert completion_window(0, [1, 2], [3, 4, 5, 6], max_length=3) is None


@st.composite
def _windows(draw: st.DrawFn) -> Window:
    length = draw(st.integers(1, 30))
    return Window(draw(st.integers(0, 5)), tuple(range(length + 1)), draw(st.integers(1, length)))


@given(st.lists(_windows(), max_size=30), st.integers(1, 100), st.integers(1, 60))
def test_batches_hold_every_window_and_keep_both_limits(
    windows: list[Window], max_tokens: int, max_scored: int
) -> None:
    made = list(batches(windows, max_tokens=max_tokens, max_scored=max_scored))
    key = repr
    assert sorted((w for batch in made for w in batch), key=key) == sorted(windows, key=key)
    for batch in made:
        longest = max(window.length for window in batch)
        assert batch[0].length == longest
        kept = longest - min(window.first_scored for window in batch)
        assert len(batch) == 1 or len(batch) * longest <= max_tokens
        assert len(batch) == 1 or len(batch) * kept <= max_scored
