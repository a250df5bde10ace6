"""Rows become the items that a model is asked."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lamina.core.errors import RecipeError
from lamina.evaluate.nouns import Item, Row, Split, Task
from lamina.evaluate.tasks.definition import Definition
from lamina.evaluate.tasks.examples import TOLERATED, drawn, group_of, how_many, overlap
from lamina.evaluate.tasks.few_shot import SEED, ChatTemplate, asked_with
from lamina.evaluate.tasks.registry import DEFINITIONS
from lamina.evaluate.tasks.rows import Numbered, Rows, find_files, ids_of, load, read_rows


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
    number, warnings = how_many(definition, few_shot)
    found = load(_splits(definition, number), data)
    tests = _read(definition, found[0], definition.kept)
    pool = _read(definition, found[1], definition.kept_shots) if number else []
    warnings += _another_split(definition, found[0])
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
        number, _ = how_many(definition, few_shot)
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
    examples = drawn(definition, tests, pool, number, seed=seed, source=found[-1].source)
    items = []
    counts: dict[str | None, int] = {}
    for name, row in zip(ids, tests, strict=True):
        group = group_of(definition, row)
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


def _another_split(definition: Definition, found: Rows) -> list[str]:
    part = definition.test.hub[2]
    if found.stem is None or part == "validation" or not found.stem.endswith("_validation"):
        return []
    return [
        f"{definition.task.name}: there is no {definition.test.files[0]}; the validation rows are "
        f"asked. Published numbers are of the {part} rows."
    ]
