"""An evaluation as the templates want it: pictures drawn, tables made, words found."""

from dataclasses import dataclass
from pathlib import Path

from lamina.report.eval import pictures, tables, words
from lamina.report.eval.nouns import Evaluation
from lamina.report.eval.read import NAME, read_evaluation
from lamina.report.figure import Figure
from lamina.report.tables import Table
from lamina.report.verdicts import Part


@dataclass(frozen=True, slots=True)
class Section:
    """A page of its own, or the end of a run's page."""

    read: Evaluation
    title: str
    warnings: list[str]
    reading: list[Part]
    results: Table | None
    reached: tuple[Figure, ...]
    forests: tuple[Figure, ...]
    comparisons: list[Table]
    harness: Table | None
    groups: tuple[Table, ...]
    asked: Table | None
    settings: Table | None


def make(read: Evaluation) -> Section:
    """Everything that a page says of a result."""
    figures = [pictures.reached(read, task) for task in read.tasks]
    by_group = [tables.groups(read, task) for task in read.tasks]
    return Section(
        read=read,
        title=words.title_of(read),
        warnings=words.warnings_of(read),
        reading=words.reading(read),
        results=tables.results(read),
        reached=tuple(one for one in figures if one is not None),
        forests=tuple(pictures.forests(read)),
        comparisons=tables.comparisons(read),
        harness=tables.harness(read),
        groups=tuple(one for one in by_group if one is not None),
        asked=tables.asked(read),
        settings=tables.settings(read),
    )


def of_run(folder: Path) -> Section | None:
    """The evaluation in a run's folder; None where there is none."""
    path = folder / NAME
    return make(read_evaluation(path)) if path.is_file() else None
