from typing import Any

import numpy as np
import pytest

from lamina.data.account import account, left_out, pieces, samples
from lamina.data.encode import Examples


class Letters:
    """A tokenizer whose tokens are bytes of UTF-8; a blank at the beginning is not shown."""

    def decode(self, ids: list[int], **asked: bool) -> str:
        assert asked == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return bytes(ids).decode("utf-8", errors="replace").removeprefix(" ")


def _examples(*texts: tuple[str, list[tuple[int, int]]]) -> Examples:
    raw = [text.encode() for text, _ in texts]
    starts = np.cumsum([0, *map(len, raw)]).astype(np.int64)
    trained = np.zeros(starts[-1], bool)
    for start, (_, runs) in zip(starts, texts, strict=False):
        for begin, end in runs:
            trained[start + begin : start + end] = True
    return Examples(
        ids=np.frombuffer(b"".join(raw), np.uint8).astype(np.int32),
        trained=trained,
        starts=starts,
        num_bytes=np.zeros(len(texts), np.int64),
        places=tuple(f"a:{n}" for n in range(1, len(texts) + 1)),
    )


def _pieces(text: str, *runs: tuple[int, int]) -> list[list[Any]]:
    tokenizer: Any = Letters()
    return pieces(_examples(("before", []), (text, list(runs))), 1, tokenizer)


def test_pieces_are_runs_of_what_is_trained() -> None:
    assert _pieces("ask answer ask more", (4, 10), (15, 19)) == [
        ["ask ", False],
        ["answer", True],
        [" ask ", False],
        ["more", True],
    ]
    assert _pieces("all", (1, 3)) == [["a", False], ["ll", True]]


def test_the_blank_before_a_piece_is_kept() -> None:
    assert _pieces(" ask answer", (4, 11)) == [["ask", False], [" answer", True]]


def test_a_character_that_is_split_is_in_the_later_piece() -> None:
    assert _pieces("a\u00e9b", (2, 4)) == [["a", False], ["\u00e9b", True]]
    told = _pieces("\u65e5\u672c", (1, 2), (4, 6))
    assert "".join(text for text, _ in told) == "\u65e5\u672c"


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 5, 9])]
)
def test_samples_are_the_first_the_last_and_one_between(count: int, chosen: list[int]) -> None:
    tokenizer: Any = Letters()
    examples = _examples(*[(f"text {n}", [(1, 6)]) for n in range(count)])
    places = [sample["place"] for sample in samples(examples, tokenizer)]
    assert places == [f"a:{n}" for n in chosen]


def test_what_is_left_out_is_counted_in_words() -> None:
    assert left_out(max_length=64, too_long=0, empty=0) == ""
    assert left_out(max_length=1024, too_long=1, empty=2000) == (
        "1 row too long for 1,024 tokens and 2,000 rows without a completion"
    )


def test_the_account_is_one_line_where_nothing_is_amiss() -> None:
    counts = dict.fromkeys(
        ("truncated", "dropped_too_long", "empty_completions", "merged_borders", "no_end_mark",
         "turn_by_turn", "left_out", "spelled_tokens", "exact_duplicates", "near_duplicates"), 0
    )  # fmt: skip
    entry = {"examples": 1200, "rows": 1, "fill": 0.98, "tokens": 100, "trained_tokens": 63,
             "heldout": 256, "repeats": [], **counts}  # fmt: skip
    lines = list(account("law", entry, max_length=64, dropped=True))
    assert lines == [
        "law: 1,200 examples in 1 row (98% full), 100 tokens, of which 63% trained;"
        " 256 examples held out"
    ]
    told = "\n".join(account("law", entry | dict.fromkeys(counts, 1) | {"repeats": [["a", "b"]]},
                             max_length=64, dropped=True))  # fmt: skip
    assert told.count("\n") == 8
    assert "law: 1 turn without an end mark" in told
