"""A user's own rows: multiple choice, questions with an answer, or texts; one kind in a file.

* `question`, `choices`, `answer`: asked as ARC is; `answer` is an index from 0, a letter from A, or
  the text of the right choice (a text that is a choice is that choice, even if it is a number);
* `question` and `answer`, or `prompt` and `answer`: answered in writing. A question is worded
  "Question: ...", a prompt stands as it is. `exact_match`: the same words, and no other;
  `contains`: the answer's words are in the writing, next to each other. Both after `words`;
* `text`: its tokens are scored, as WikiText's, but not detokenised.

A row may have an `id`, and a `group` or `subject`. Examples come from another file, at random.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase, punctuation

from lamina.core.errors import DataError, RecipeError
from lamina.data.files import read_file
from lamina.evaluate.nouns import (
    Item,
    Metric,
    Raw,
    Row,
    Split,
    Task,
    TextItem,
    Values,
    WriteItem,
)
from lamina.evaluate.tasks.build import Chosen, check_numbers, choose
from lamina.evaluate.tasks.choices import judge_acc_norm, one_of
from lamina.evaluate.tasks.definition import Asked, Definition
from lamina.evaluate.tasks.examples import overlap
from lamina.evaluate.tasks.few_shot import SEED, ChatTemplate
from lamina.evaluate.tasks.fields import OutOfRange, Unfit, index_of, present, text_of, texts_of
from lamina.evaluate.tasks.rows import Numbered, Rows, read_rows
from lamina.evaluate.tasks.texts import TEXT_METRICS, judge_text
from lamina.evaluate.tasks.writing import MAX_TOKENS
from lamina.evaluate.text import Document

EXAMPLES = 5
"""Taken from a few-shot file, or all of a shorter one, where no number is asked for."""
STOPS = ("\n\n", "Question:")
"""End an answer in running text; a model with a template ends its turn itself."""
FORMS = (
    "  question, choices, answer    multiple choice; answer: index from 0, letter, or the choice\n"
    "  question (or prompt), answer    answered in writing\n"
    "  text    its tokens are scored"
)


def read_task_file(
    path: Path | str,
    *,
    few_shot_file: Path | str | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    seed: int = SEED,
    chat: ChatTemplate | None = None,
) -> Chosen:
    """The items of a user's own file; its task has the file's name, without its ending.

    Raises:
        DataError: a file that is not there or cannot be read; rows of no form, of two forms, with
            an answer that is none of the choices; rows that are examples and items.
        RecipeError: numbers that cannot be, or examples without a file of them.
    """
    path = Path(path)
    check_numbers(limit, few_shot)
    rows = _rows(path)
    kind = _kind(rows)
    tests = _read(rows, kind, chat)
    number, pool, warnings = 0, list[Numbered](), list[str]()
    found = [rows]
    if kind == "text":
        if few_shot or few_shot_file is not None:
            warnings.append(f"{path.name}: texts are read without few-shot examples")
    elif few_shot_file is not None and few_shot != 0:
        found.append(_rows(Path(few_shot_file)))
        pool = _read(found[1], kind, chat)
        number = few_shot if few_shot is not None else min(EXAMPLES, len(pool))
        overlap(path.name, tests, pool, tolerated=0.0)
    elif few_shot:
        raise RecipeError(
            f"--few-shot {few_shot}: {path.name} is asked, so its examples must come from another "
            "file. Name it with --few-shot-file, or ask with --few-shot 0."
        )
    definition = Definition(
        _task(_name(path), kind, tests),
        test=Split((), ("", None, "")),
        read=partial(READERS[kind], chat is not None),
    )
    return choose(
        definition, found, tests, pool, number, limit=limit, seed=seed, chat=chat, warnings=warnings
    )


def _rows(path: Path) -> Rows:
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name a file of rows.")
    if not path.exists():
        raise DataError(f"No such file: {path}. Name a file of rows, such as x.jsonl.")
    return Rows(path.name, None, tuple(read_file(path, path.name)))


def _name(path: Path) -> str:
    bare = re.sub(r"\.(jsonl|json|csv|tsv|txt|parquet)$", "", re.sub(r"\.gz$", "", path.name))
    return bare or path.name


def _kind(rows: Rows) -> str:
    """What the first row is."""
    place, row = rows.rows[0]
    kind = kind_of(row)
    if kind is None:
        keys = ", ".join(str(key)[:40] for key in list(row)[:12]) if isinstance(row, dict) else ""
        raise DataError(
            f"{place} is no row that can be asked; seen: {keys or 'no fields'}. A row has\n{FORMS}"
        )
    return kind


def kind_of(row: Row) -> str | None:
    """`choices`, `write` or `text`; None for what cannot be asked."""
    if not isinstance(row, dict):
        return None
    asked = "question" in row or "prompt" in row
    if asked and "choices" in row:
        return "choices"
    if asked and "answer" in row:
        return "write"
    return "text" if "text" in row else None


def _read(rows: Rows, kind: str, chat: ChatTemplate | None) -> list[Numbered]:
    return read_rows(
        rows,
        partial(_one_kind, kind, READERS[kind], chat is not None),
        kept=lambda row: True,
        what="a row that can be asked",
        advice=f"A row has, all in one file the same:\n{FORMS}",
    )


def _one_kind(kind: str, read: Callable[[bool, Row], Asked], turns: bool, row: Row) -> Asked:
    found = kind_of(row)
    if found is not None and found != kind:
        raise Unfit(f"this is a row of the form `{found}`, the first one of the form `{kind}`")
    return read(turns, row)


def _task(name: str, kind: str, tests: Sequence[Numbered]) -> Task:
    match kind:
        case "choices":
            counts = {len(row.asked.offered) for row in tests}
            chance = 1 / counts.pop() if len(counts) == 1 else None
            metrics = (Metric("acc", True), Metric("acc_norm", True))
            return Task(name, 1, "choices", metrics, judge_acc_norm, chance)
        case "write":
            metrics = (Metric("exact_match", True), Metric("contains", True))
            return Task(name, 1, "write", metrics, judge_words)
        case _:
            return Task(name, 1, "text", TEXT_METRICS, judge_text)


def read_choices(turns: bool, row: Row) -> Asked:
    del turns
    choices = texts_of(row, "choices")
    if any(not choice.strip() for choice in choices):
        raise Unfit("`choices` has an empty text")
    if len(choices) < 2:
        raise Unfit("`choices` needs two texts at least")
    return one_of(_question(row), choices, _gold(row, choices), group=_group(row))


def _gold(row: Row, choices: Sequence[str]) -> int:
    present(row, "answer")
    answer = row["answer"]
    if not isinstance(answer, str) or (answer.strip().isdecimal() and answer not in choices):
        return index_of(row, "answer", len(choices))
    if choices.count(answer) > 1:
        raise Unfit(f"`answer` is the text of {choices.count(answer)} choices; give its index")
    if answer in choices:
        return choices.index(answer)
    letter = answer.strip().upper()
    if len(letter) == 1 and letter in ascii_uppercase[: len(choices)]:
        return ascii_uppercase.index(letter)
    raise OutOfRange(
        f"`answer` is {answer[:40]!r}: no text of a choice, and no letter from A to "
        f"{ascii_uppercase[min(len(choices), 26) - 1]}"
    )


def read_answer(turns: bool, row: Row) -> Asked:
    present(row, "answer")
    answer = row["answer"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    else:
        answer = text_of(row, "answer")
    if not words(answer):
        raise Unfit("`answer` has no letter and no digit to be compared")
    question = _question(row)
    stops = () if turns else STOPS
    return Asked(
        question, answer, WriteItem("", question, stops, MAX_TOKENS, answer, group=_group(row))
    )


def read_text(turns: bool, row: Row) -> Asked:
    del turns
    text = text_of(row, "text")
    if not text.strip():
        raise Unfit("`text` is empty")
    item = TextItem("", Document(None, text, text), group=_group(row))
    return Asked("", "", item, offered=(text,))


READERS: dict[str, Callable[[bool, Row], Asked]] = {
    "choices": read_choices,
    "write": read_answer,
    "text": read_text,
}


def _question(row: Row) -> str:
    if present(row, "question", "prompt") == "prompt":
        return text_of(row, "prompt")
    return f"Question: {text_of(row, 'question')}\nAnswer:"


def _group(row: Row) -> str | None:
    name = next((name for name in ("group", "subject") if row.get(name) is not None), None)
    return text_of(row, name) if name else None


def words(text: str) -> tuple[str, ...]:
    """What is compared: words in small letters, without marks at their ends; 1,000 is 1000.

    A minus before a digit stays; `$`, quotes, stops and brackets go.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    found = []
    for piece in plain.split():
        word = piece.strip(punctuation)
        negative = re.match(r"[^\w-]*-[^\w-]*\d", piece)
        if word:
            found.append("-" + word if negative else word)
    return tuple(found)


def judge_words(item: Item, raw: Raw) -> Values:
    """`exact_match`: no other words; `contains`: these words, next to each other, among others."""
    assert isinstance(item, WriteItem), item
    wanted, written = words(item.answer), words(raw["texts"][0])
    inside = any(
        written[start : start + len(wanted)] == wanted
        for start in range(len(written) - len(wanted) + 1)
    )
    return {"exact_match": (float(written == wanted), 1.0), "contains": (float(inside), 1.0)}
