import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.data.duplicates import COMMON, FEWEST, RUN, Duplicates, find_duplicates
from lamina.data.normal import normalised


def _words(count: int, seed: int) -> list[str]:
    """Words that share no run with those of another seed."""
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghij", k=6)) for _ in range(count)]


def _text(count: int, seed: int) -> str:
    return " ".join(_words(count, seed))


def test_what_does_not_count_is_taken_out() -> None:
    assert normalised(" A\u00a0 B\n\tc ") == "a b c"
    assert normalised("\ufb01ne \u00c9 e\u0301") == "fine \u00e9 \u00e9"


def test_equal_rows_are_exact_whatever_their_case_and_blanks() -> None:
    found = find_duplicates(["other", " The  SAME\n", "the same"], ["no", "The same", "the  same"])
    assert found == Duplicates({1: 1, 2: 1}, {})


def test_short_rows_are_compared_exactly_only() -> None:
    found = find_duplicates(["yes", "one two three four five six"], ["yes", "one two three four"])
    assert found == Duplicates({0: 0}, {})


def test_empty_rows_are_no_duplicates() -> None:
    assert find_duplicates(["", " \n"], [""]) == Duplicates({}, {})
    assert find_duplicates([], ["a"]) == find_duplicates(["a"], []) == Duplicates({}, {})


def test_planted_near_duplicates_are_found_and_no_others() -> None:
    heldout = [_text(60, seed) for seed in range(20)]
    training = [_text(60, seed) for seed in range(100, 180)]
    one_word = _words(60, 3)
    one_word[30] = "changed"
    planted = {
        7: (" ".join(one_word), 3),
        20: (heldout[5] + " " + _text(200, 999), 5),  # holds it whole
        33: (" ".join(heldout[9].split()[:40]), 9),  # a part of it
        50: (heldout[11].upper().replace(" ", ", "), 11),  # other signs between the words
    }
    for place, (text, _) in planted.items():
        training[place] = text
    found = find_duplicates(training, heldout)
    assert found == Duplicates({}, {place: held for place, (_, held) in planted.items()})


def test_seventy_in_a_hundred_runs_make_a_near_duplicate() -> None:
    held = _words(104, 1)  # 100 runs
    for shared, expected in ((70, {0: 0}), (69, {})):
        training = " ".join(held[: shared + RUN - 1] + _words(100 - shared, 2))
        assert find_duplicates([training], [" ".join(held)]).near == expected


def test_eight_runs_are_the_fewest() -> None:
    for runs, expected in ((FEWEST, {0: 0}), (FEWEST - 1, {})):
        held = _text(runs + RUN - 1, 1)
        assert find_duplicates([held + " and more"], [held]).near == expected


def test_a_shared_template_makes_no_near_duplicates() -> None:
    template = _text(80, 1)
    rows = [f"{template} {_text(15, seed)}" for seed in range(2, 202)]
    assert find_duplicates(rows[:-10], rows[-10:]) == Duplicates({}, {})
    # One of them planted with a word more is still found.
    planted = [*rows[:-10], rows[-3] + " indeed"]
    assert find_duplicates(planted, rows[-10:]).near == {190: 7}


def test_copies_of_one_row_do_not_make_its_runs_common() -> None:
    held = _text(40, 1)
    copies = [held + " more"] * (COMMON * 3)
    assert len(find_duplicates(copies, [held]).near) == len(copies)


def test_rows_beyond_one_batch_are_numbered_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamina.data.duplicates._BATCH", 3)
    held = [_text(30, 1), _text(30, 2)]
    training = [_text(30, seed) for seed in range(10, 21)]
    training[4], training[10] = held[1] + " x", held[0] + " y"
    assert find_duplicates(training, held).near == {4: 1, 10: 0}


def _by_hand(training: list[str], heldout: list[str]) -> dict[int, int]:
    """The definition, pair by pair, where no run is common."""

    def runs(text: str) -> set[tuple[str, ...]]:
        words = normalised(text).split()
        return {tuple(words[n : n + RUN]) for n in range(len(words) - RUN + 1)}

    near: dict[int, int] = {}
    for t, text in enumerate(training):
        best = 0.0
        for h, held in enumerate(heldout):
            fewer = min(len(runs(text)), len(runs(held)))
            if normalised(text) == normalised(held):
                near.pop(t, None)
                break
            if fewer >= FEWEST and len(runs(text) & runs(held)) / fewer > max(best, 0.7 - 1e-9):
                best = len(runs(text) & runs(held)) / fewer
                near[t] = h
    return near


_sentences = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), max_size=9).map(
    lambda rows: [" ".join(row) for row in rows]
)


@given(_sentences, _sentences)
def test_the_index_finds_what_the_definition_says(training: list[str], heldout: list[str]) -> None:
    found = find_duplicates(training, heldout)
    assert dict(found.near) == _by_hand(training, heldout)
    held = {normalised(text) for text in heldout if text}
    assert set(found.exact) == {t for t, text in enumerate(training) if normalised(text) in held}


def test_texts_without_blanks_are_compared_letter_by_letter() -> None:
    held = "今天天气很好我们去公园散步看见了很多花孩子们在草地上玩耍老人们在树下下棋大家都很开心"
    other = "法院认为被告应当承担违约责任并赔偿原告因此遭受的全部经济损失驳回其他诉讼请求"
    found = find_duplicates([held.replace("公园", "河边"), other], [held])
    assert (found.exact, found.near) == ({}, {0: 0})
