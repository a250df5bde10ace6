"""Rows become the items that a model is asked."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from lamina.core.errors import DataError, RecipeError
from lamina.evaluate.nouns import Item, Row, Split, Task
from lamina.evaluate.tasks.definition import Asked, Definition
from lamina.evaluate.tasks.few_shot import SEED, ChatTemplate, asked_with, draw
from lamina.evaluate.tasks.registry import DEFINITIONS
from lamina.evaluate.tasks.rows import Numbered, Rows, find_files, ids_of, load, read_rows

TOLERATED = 0.01
"""Published sets have a few test rows among their training rows (MMLU 5 of 14,042, ARC-Easy 2 of
2,376): up to this part is told as a warning, more is another file's mistake."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The items of one task, in the order of its rows."""

    task: Task
    items: tuple[Item, ...]
    source: str
    """Files or hub data sets the rows came from."""
    few_shot: int
    """Examples before each item."""
    fingerprint: str
    """Of all that is asked: two runs with the same one may be compared item by item."""
    warnings: tuple[str, ...]


def build_items(
    task: Task,
    *,
    data: Path | None,
    limit: int | None = None,
    few_shot: int | None = None,
    seed: int = SEED,
    chat: ChatTemplate | None = None,
) -> Chosen:
    """What a model is asked in this task, equal to what the harness asks it.

    Args:
        data: A folder with the data sets' files (see `rows.FOLDERS`); None loads from the hub.
        limit: The first rows only; for MMLU of each subject, as the harness limits each.
        few_shot: Examples before each; None: as many as the task has by default.
        chat: The model's template, where questions are turns of a conversation.

    Raises:
        DataError: files that are missing or not the data set's; test rows among the examples.
        RecipeError: a limit or a number of examples that cannot be.
    """
    definition = DEFINITIONS[task.name]
    check_numbers(limit, few_shot)
    number, warnings = _examples(definition, few_shot)
    found = load(_splits(definition, number), data)
    tests = _read(definition, found[0], definition.kept)
    pool = _read(definition, found[1], definition.kept_shots) if number else []
    warnings += _another_split(definition, found[0])
    if pool:
        warnings += overlap(task.name, tests, pool, tolerated=TOLERATED)
    return choose(
        definition, found, tests, pool, number, limit=limit, seed=seed, chat=chat, warnings=warnings
    )


def check_files(tasks: Sequence[Task], *, data: Path, few_shot: int | None = None) -> None:
    """Raises if a file that these tasks need is not in the folder.

    Raises:
        DataError: the files that are missing, of all tasks in one message.
        RecipeError: examples for a task that has none.
    """
    needed: list[Split] = []
    for task in tasks:
        definition = DEFINITIONS[task.name]
        number, _ = _examples(definition, few_shot)
        needed += _splits(definition, number)
    find_files(needed, data)


def _splits(definition: Definition, number: int) -> list[Split]:
    if not number:
        return [definition.test]
    assert definition.shots is not None
    return [definition.test, definition.shots]


def _read(definition: Definition, rows: Rows, kept: Callable[[Row], bool]) -> list[Numbered]:
    return read_rows(
        rows,
        definition.read,
        kept=kept,
        what=f"a row of {definition.task.name}",
        advice="Give the file of the data set, with the fields it has on the hub.",
    )


def choose(
    definition: Definition,
    found: Sequence[Rows],
    tests: Sequence[Numbered],
    pool: Sequence[Numbered],
    number: int,
    *,
    limit: int | None,
    seed: int,
    chat: ChatTemplate | None,
    warnings: Sequence[str],
) -> Chosen:
    """The first `limit` rows, of each group where the task is by group, with their examples."""
    ids = ids_of(tests, found[0].source, by_group=definition.by_group)
    examples = _drawn(definition, tests, pool, number, seed=seed, source=found[-1].source)
    items = []
    counts: dict[str | None, int] = {}
    for name, row in zip(ids, tests, strict=True):
        group = _group(definition, row)
        counts[group] = counts.get(group, 0) + 1
        if limit is not None and counts[group] > limit:
            continue
        item = asked_with(row.asked, examples(row), delimiter=definition.delimiter, chat=chat)
        items.append(replace(item, id=name))
    return Chosen(
        task=definition.task,
        items=tuple(items),
        source=", ".join(dict.fromkeys(rows.source for rows in found)),
        few_shot=number,
        fingerprint=fingerprint(items),
        warnings=tuple(warnings),
    )


def fingerprint(items: Sequence[Item]) -> str:
    """SHA-256 over the whole content of the items, in order."""
    digest = hashlib.sha256()
    for item in items:
        entry = {"kind": type(item).__name__, **asdict(item)}
        digest.update(json.dumps(entry, sort_keys=True).encode("ascii") + b"\n")
    return digest.hexdigest()


def check_numbers(limit: int | None, few_shot: int | None) -> None:
    if limit is not None and limit < 1:
        raise RecipeError(f"--limit is {limit}. It must be at least 1; leave it out for all rows.")
    if few_shot is not None and few_shot < 0:
        raise RecipeError(f"--few-shot is {few_shot}. It must be 0 or more.")


def _examples(definition: Definition, few_shot: int | None) -> tuple[int, list[str]]:
    """How many examples, and a warning where they were asked for in vain."""
    number = definition.few_shot if few_shot is None else few_shot
    name = definition.task.name
    if number and definition.no_examples is not None:
        return 0, [f"{name}: asked without few-shot examples, since {definition.no_examples}"]
    if number and definition.shots is None:
        raise RecipeError(
            f"{name} has no rows but its test rows, so --few-shot {number} would show answers. "
            f"Ask {name} with --few-shot 0."
        )
    return number, []


def _another_split(definition: Definition, found: Rows) -> list[str]:
    part = definition.test.hub[2]
    if found.stem is None or part == "validation" or not found.stem.endswith("_validation"):
        return []
    return [
        f"{definition.task.name}: there is no {definition.test.files[0]}; the validation rows are "
        f"asked. Published numbers are of the {part} rows."
    ]


def _drawn(
    definition: Definition,
    tests: Sequence[Numbered],
    pool: Sequence[Numbered],
    number: int,
    *,
    seed: int,
    source: str,
) -> Callable[[Numbered], list[Asked]]:
    """The examples of each item, to be asked for in the items' order: a group has one stream."""
    groups: dict[str | None, list[Numbered]] = {_group(definition, row): [] for row in tests}
    for row in pool:
        if (group := _group(definition, row)) in groups:
            groups[group].append(row)
    needed = number + (1 if number and definition.draw == "spare" else 0)
    short = [(group, len(rows)) for group, rows in groups.items() if len(rows) < needed]
    if short:
        seen = ", ".join(f"{group}: {rows}" if group else str(rows) for group, rows in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        why = " (one is drawn to spare)" if needed > number else ""
        raise RecipeError(
            f"{definition.task.name}: --few-shot {number} needs {needed} rows{why} of {source}, "
            f"which has {seen}{more}. Ask for fewer."
        )
    streams = {group: Random(seed) for group in groups}
    pools = {group: [(one.row, one.asked) for one in rows] for group, rows in groups.items()}

    def of(row: Numbered) -> list[Asked]:
        group, own = _group(definition, row), (row.row, row.asked)
        drawn = draw(pools[group], number, own, how=definition.draw, rng=streams[group])
        return [asked for _, asked in drawn]

    return of


def _group(definition: Definition, row: Numbered) -> str | None:
    return row.asked.item.group if definition.by_group else None


def overlap(
    name: str, tests: Sequence[Numbered], pool: Sequence[Numbered], *, tolerated: float
) -> list[str]:
    """Test rows that are among the few-shot rows, told; more than `tolerated` of them an error."""
    known = {(row.asked.question, row.asked.offered): row.number for row in pool}
    both = [
        (row.number, known[key])
        for row in tests
        if (key := (row.asked.question, row.asked.offered)) in known
    ]
    if not both:
        return []
    told = ", ".join(f"{test + 1} (example {shot + 1})" for test, shot in both)
    many = f"{len(both)} of {len(tests)} test rows are also few-shot rows"
    if len(both) > tolerated * len(tests):
        raise DataError(
            f"{name}: {many}: rows {told}. A model would be shown the answers. Take them out of "
            "one of the two files, or ask with --few-shot 0."
        )
    return [f"{name}: {many}, as published: rows {told}"]
