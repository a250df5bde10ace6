"""GSM8K: an answer in writing, the number taken out of it in two ways (`lm_eval/tasks/gsm8k`)."""

import re

from lamina.evaluate.nouns import Item, Raw, Row, Values, WriteItem
from lamina.evaluate.tasks.definition import Asked
from lamina.evaluate.tasks.fields import text_of

MAX_TOKENS = 256
"""The harness's default where a task names none."""
NOTHING = "[invalid]"
"""What is compared with the answer when no number is found, as in the harness."""
_GSM8K_STOPS = ("Question:", "</s>", "<|im_end|>")
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_IGNORED = (r",", r"\$", r"(?s).*#### ", r"\.$")


def read_gsm8k(row: Row) -> Asked:
    """Examples show the whole solution; so does `answer`, whose number stands after `####`."""
    question, answer = f"Question: {text_of(row, 'question')}\nAnswer:", text_of(row, "answer")
    return Asked(question, answer, WriteItem("", question, _GSM8K_STOPS, MAX_TOKENS, answer))


def strict(writing: str) -> str:
    """The first number after `####`."""
    found = _STRICT.search(writing)
    return found[1].strip() if found else NOTHING


def flexible(writing: str) -> str:
    """The last run of digits, with its sign, `$`, points and commas."""
    found = _FLEXIBLE.findall(writing)
    return next(group for group in found[-1] if group).strip() if found else NOTHING


def bare(number: str) -> str:
    """Without commas, `$`, a last point, and all up to the last `####`; in small letters."""
    for pattern in _IGNORED:
        number = re.sub(pattern, "", number)
    return number.lower()


def judge_gsm8k(item: Item, raw: Raw) -> Values:
    """Of several samples the first counts, as in the harness."""
    assert isinstance(item, WriteItem), item
    writing, wanted = raw["texts"][0], bare(item.answer)
    return {
        "exact_match_strict": (float(bare(strict(writing)) == wanted), 1.0),
        "exact_match_flexible": (float(bare(flexible(writing)) == wanted), 1.0),
    }
