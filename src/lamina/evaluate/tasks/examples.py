"""Few-shot examples of a whole task: how many, from which rows, and none that is also asked."""

from collections.abc import Callable, Sequence
from random import Random

from lamina.core.errors import DataError, RecipeError
from lamina.evaluate.tasks.definition import Asked, Definition
from lamina.evaluate.tasks.few_shot import draw
from lamina.evaluate.tasks.rows import Numbered

_SHOWN = 20
TOLERATED = 0.01
"""Published sets have a few test rows among their training rows (MMLU 5 of 14,042, ARC-Easy 2 of
2,376): up to this part is told as a warning, more is another file's mistake."""


def how_many(definition: Definition, few_shot: int | None) -> tuple[int, list[str]]:
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


def drawn(
    definition: Definition,
    tests: Sequence[Numbered],
    pool: Sequence[Numbered],
    number: int,
    *,
    seed: int,
    source: str,
) -> Callable[[Numbered], list[Asked]]:
    """The examples of each item, to be asked for in the items' order: a group has one stream."""
    groups: dict[str | None, list[Numbered]] = {group_of(definition, row): [] for row in tests}
    for row in pool:
        if (group := group_of(definition, row)) in groups:
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
        group, own = group_of(definition, row), (row.row, row.asked)
        some = draw(pools[group], number, own, how=definition.draw, rng=streams[group])
        return [asked for _, asked in some]

    return of


def group_of(definition: Definition, row: Numbered) -> str | None:
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
    told = ", ".join(f"{test + 1} (example {shot + 1})" for test, shot in both[:_SHOWN])
    told += f" and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
    many = f"{len(both)} of {len(tests)} test rows are also few-shot rows"
    if len(both) > tolerated * len(tests):
        raise DataError(
            f"{name}: {many}: rows {told}. A model would be shown the answers. Take them out of "
            "one of the two files, or ask with --few-shot 0."
        )
    return [f"{name}: {many}, as published: rows {told}"]
