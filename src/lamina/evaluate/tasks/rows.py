"""Rows of a data set, from a folder of files or from the hub, and what is wrong with them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError
from lamina.data.files import read_file
from lamina.data.formats import told
from lamina.evaluate.nouns import Row, Split
from lamina.evaluate.tasks.definition import Asked, Read
from lamina.evaluate.tasks.fields import OutOfRange, Unfit

ENDINGS = (".jsonl.gz", ".jsonl", ".json.gz", ".json", ".parquet")
FOLDERS = ("", "bench", "text")
"""Where in the data folder files are looked for, in this order."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one split, with the place of each."""

    source: str
    """In plain words, without the path of the folder."""
    stem: str | None
    """Which of the split's names was found; None for the hub."""
    rows: tuple[tuple[str, Row], ...]


@dataclass(frozen=True, slots=True)
class Numbered:
    """A row, how it reads, and its number in the file, from 0."""

    number: int
    row: Row
    asked: Asked


def load(splits: Sequence[Split], data: Path | None) -> list[Rows]:
    """The rows of each split.

    Raises:
        DataError: files that are not there, all in one message; a file that cannot be read.
    """
    if data is None:
        return [from_hub(split) for split in splits]
    rows = []
    for stem, path in find_files(splits, data):
        shown = path.relative_to(data).as_posix()
        rows.append(Rows(shown, stem, tuple(read_file(path, shown))))
    return rows


def find_files(splits: Sequence[Split], data: Path) -> list[tuple[str, Path]]:
    """For each split the stem that was found and its path.

    Raises:
        DataError: files that are not there, all in one message.
    """
    found = [find_file(split, data) for split in splits]
    missing = [split for split, place in zip(splits, found, strict=True) if place is None]
    if missing:
        raise DataError(missing_files(missing, data))
    return [place for place in found if place is not None]


def find_file(split: Split, data: Path) -> tuple[str, Path] | None:
    """The first of a split's files that is in the folder: its stem and its path.

    Raises:
        DataError: the folder is not there, or is a file.
    """
    if not data.is_dir():
        what = "is a file, not a folder" if data.exists() else "is not there"
        raise DataError(f"{data} {what}. --data takes the folder with the data sets' files.")
    for stem in split.files:
        for folder in FOLDERS:
            for ending in ENDINGS:
                path = data / folder / f"{stem}{ending}"
                if path.is_file():
                    return stem, path
    return None


def missing_files(splits: Sequence[Split], data: Path) -> str:
    """What was looked for and where, for all that is missing."""
    names = "\n".join(
        "  " + " or ".join(split.files) + f"  (on the hub: {hub_name(split)})" for split in splits
    )
    return (
        f"{data}: {len(splits)} {'file is' if len(splits) == 1 else 'files are'} missing. "
        f"Looked for, here and in bench/ and text/, ending in {', '.join(ENDINGS)}:\n{names}\n"
        "Put them there, or leave out --data to load them from the hub."
    )


def hub_name(split: Split) -> str:
    name, configuration, part = split.hub
    return f"{name}, {f'{configuration}, ' if configuration else ''}{part}"


def from_hub(split: Split) -> Rows:
    """A split from the hub, or from what an earlier run left in its cache."""
    import datasets

    name, configuration, part = split.hub
    try:
        table = datasets.load_dataset(name, configuration, split=part)
    except Exception as error:  # network, cache, data set: each has its own kind
        why = (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
        names = " or ".join(split.files)
        raise DataError(
            f"{hub_name(split)} could not be loaded from the hub: {why}. "
            f"Connect to the network, or give --data with a folder that has {names}.jsonl."
        ) from error
    shown = hub_name(split)
    found: Iterable[Any] = table
    rows = ((f"{shown}:{number}", row) for number, row in enumerate(found, start=1))
    return Rows(shown, None, tuple(rows))


def read_rows(
    rows: Rows, read: Read, *, kept: Callable[[Row], bool], what: str, advice: str
) -> list[Numbered]:
    """The rows as the task words them.

    Raises:
        DataError: rows that are not the task's, or whose answer is none of their choices; all of a
            kind in one message.
    """
    good: list[Numbered] = []
    unfit: list[str] = []
    outside: list[str] = []
    for number, (place, row) in enumerate(rows.rows):
        try:
            if not isinstance(row, dict) or kept(row):
                good.append(Numbered(number, row, read(row)))
        except OutOfRange as problem:
            outside.append(f"{place}: {problem}")
        except Unfit as problem:
            unfit.append(f"{place}: {problem}")
    if unfit:
        message = told(rows.source, f"not {what}", unfit, len(rows.rows))
        raise DataError(f"{message}\n{advice}")
    if outside:
        message = told(
            rows.source, "without a right answer among the choices", outside, len(rows.rows)
        )
        raise DataError(f"{message}\nCorrect these rows, or take them out.")
    if not good:
        raise DataError(f"{rows.source}: none of its {len(rows.rows)} rows is {what}.")
    return good


def ids_of(rows: Sequence[Numbered], source: str, *, by_group: bool) -> list[str]:
    """The data set's own ids, else the row's number, from 0; `group/number in it` if by group.

    Raises:
        DataError: two rows with one id.
    """
    ids = list(_ids(rows, by_group))
    seen: dict[str, int] = {}
    twice = []
    for name, row in zip(ids, rows, strict=True):
        if name in seen:
            twice.append(f"rows {seen[name] + 1} and {row.number + 1}: {name[:60]}")
        seen.setdefault(name, row.number)
    if twice:
        message = told(source, "of an id that another row has", twice, len(rows))
        raise DataError(f"{message}\nAn id is used once; take out the copies.")
    return ids


def _ids(rows: Sequence[Numbered], by_group: bool) -> Iterator[str]:
    counts: dict[str | None, int] = {}
    for row in rows:
        group = row.asked.item.group
        number = counts.get(group, 0)
        counts[group] = number + 1
        own = next(
            (row.row[key] for key in ("task_id", "id") if row.row.get(key) is not None), None
        )
        if own is not None:
            yield str(own)
        else:
            yield f"{group}/{number}" if by_group else str(row.number)
