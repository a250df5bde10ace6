"""GSM8K's numbers, by hand; against the harness they are in tests/contract."""

import pytest

from lamina.evaluate.nouns import WriteItem
from lamina.evaluate.tasks.writing import NOTHING, bare, flexible, judge_gsm8k, read_gsm8k, strict


@pytest.mark.parametrize(
    ("writing", "wanted"),
    [
        ("It is 3.\n#### 1,234.5\n#### 7", "1,234.5"),
        ("#### -7", "-7"),
        ("#### $7", NOTHING),
        ("7", NOTHING),
    ],
)
def test_the_strict_number_is_the_first_after_the_mark(writing: str, wanted: str) -> None:
    assert strict(writing) == wanted


@pytest.mark.parametrize(
    ("writing", "wanted"),
    [("3 apples, $18.50", "$18.50"), ("so -4", "-4"), ("x 7.", "7."), ("none", NOTHING)],
)
def test_the_flexible_number_is_the_last(writing: str, wanted: str) -> None:
    assert flexible(writing) == wanted


def test_a_number_is_compared_bare() -> None:
    assert bare("We have $1,234 here.\nSo\n#### $1,234.") == "1234"


def test_the_first_of_several_samples_is_judged() -> None:
    item = read_gsm8k({"question": "q", "answer": "#### 1,000"}).item
    assert isinstance(item, WriteItem)
    assert (item.prompt, item.max_tokens) == ("Question: q\nAnswer:", 256)
    assert item.stops == ("Question:", "</s>", "<|im_end|>")
    judged = judge_gsm8k(item, {"texts": ["It is $1000.", "#### 5"]})
    assert judged == {"exact_match_strict": (0.0, 1.0), "exact_match_flexible": (1.0, 1.0)}
