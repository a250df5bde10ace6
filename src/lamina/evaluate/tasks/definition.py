"""What a task is made of: where its rows are, how one is read, which examples go before it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lamina.evaluate.nouns import Item, Row, Split, Task


@dataclass(frozen=True, slots=True)
class Asked:
    """One row as its task words it, before few-shot examples and a chat template."""

    question: str
    """As the question of a few-shot example; what decides, with `offered`, if two rows are one."""
    answer: str
    """As the answer of a few-shot example."""
    item: Item
    """With the bare question as its contexts or its prompt, bare choices, and an empty id."""
    system: str = ""
    """What stands before all examples; the system's message under a chat template."""
    offered: tuple[str, ...] = ()
    """The answers that may be chosen, where the question alone does not tell a row."""


Read = Callable[[Row], Asked]
"""Raises `fields.Unfit` for a row that is not one of the task's."""


def every_row(row: Row) -> bool:
    del row
    return True


@dataclass(frozen=True, slots=True)
class Definition:
    """A task and how its items are made."""

    task: Task
    test: Split
    read: Read
    shots: Split | None = None
    """Where few-shot examples are; None: the task has none."""
    draw: Literal["random", "spare", "first"] = "random"
    """How examples are taken: at random; at random, one more than asked for, so that the item
    itself can be put back (the harness's way where a task names no test split); the first ones."""
    few_shot: int = 0
    """Examples if not asked otherwise."""
    no_examples: str | None = None
    """Why the task never has any, whatever is asked: the harness leaves them out silently."""
    delimiter: str = " "
    """Between a question and its answer; a template puts its own between turns."""
    by_group: bool = False
    """Whether each group is a task of its own to the harness: it has its own limit, its own
    examples, and numbers its rows from 0."""
    kept: Callable[[Row], bool] = every_row
    """Which rows of the test file are asked."""
    kept_shots: Callable[[Row], bool] = every_row
    """Which rows of the few-shot file may be examples."""
