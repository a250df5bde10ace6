"""Results of `lamina eval` as files: NAME.json, and beside it NAME.samples.jsonl.gz.

The samples have a line for every model, task and item: what was asked, what was answered, and the
values it is worth. They are read line by line; only the values are held.
"""

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import read_json
from lamina.evaluate.nouns import Metric, Values
from lamina.evaluate.results import SCHEMA

Line = Mapping[str, Any]
ByTask = dict[str, dict[str, Values]]
"""By task and item the values by metric."""


class _Metric(BaseModel):
    name: str
    higher_is_better: bool
    scale: Literal["ratio", "exp", "bits"] = "ratio"


class _Task(BaseModel):
    model_config = ConfigDict(extra="allow")

    version: int
    kind: str
    items: int
    fingerprint: str
    few_shot: int | None = None
    limit: int | None = None
    chat: bool = False
    metrics: list[_Metric] = Field(min_length=1)


class _Result(BaseModel):
    model_config = ConfigDict(extra="allow")

    order: list[str] = Field(min_length=1)
    tasks: dict[str, _Task]
    results: dict[str, dict[str, dict[str, Any]]]
    settings: dict[str, Any] = Field(default_factory=dict)
    samples: str | None = None
    samples_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A result file, checked."""

    path: Path
    whole: Mapping[str, Any]
    """All of it, as it stands in the file."""
    order: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, tuple[Metric, ...]]
    settings: Mapping[str, Any]
    samples: Path
    samples_sha256: str | None = None


def read_result(path: Path) -> Result:
    """A result of `lamina eval`.

    Raises:
        DataError: it is no JSON, no result of lamina's, of another version, or damaged.
    """
    whole = read_json(path)
    schema = whole.get("schema") if isinstance(whole, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path} {_instead(schema)}")
    try:
        read = _Result.model_validate(whole)
    except ValidationError as error:
        wrong = "".join(
            f"\n  {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5]
        )
        raise DataError(
            f"{path} says that it is a result of lamina eval, but it is "
            f"damaged:{wrong}\nMeasure again."
        ) from None
    return Result(
        path=path,
        whole=whole,
        order=tuple(read.order),
        tasks={name: task.model_dump() for name, task in read.tasks.items()},
        metrics={
            name: tuple(Metric(**one.model_dump()) for one in task.metrics)
            for name, task in read.tasks.items()
        },
        settings=read.settings,
        samples=path.with_name(read.samples or samples_path(path).name),
        samples_sha256=read.samples_sha256,
    )


def result_to_come(
    path: Path, tasks: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
) -> Result:
    """What is known of a result before it is measured: enough to tell if it can be compared."""
    metrics = {
        name: tuple(Metric(**one) for one in task["metrics"]) for name, task in tasks.items()
    }
    return Result(path, {}, (), tasks, metrics, settings, samples_path(path))


def samples_path(result: Path) -> Path:
    """Where the questions and answers of a result lie: beside it."""
    return result.with_name(f"{result.stem}.samples.jsonl.gz")


def write_samples(path: Path, lines: Iterable[Line]) -> None:
    """Questions and answers as gzipped lines; the same lines give the same bytes.

    Raises:
        OutputError: the folder is missing, read-only or full.
    """
    with new_samples(path, path.with_name(f".{path.name}.part")) as samples:
        for line in lines:
            samples.add(line)
        samples.keep()


class Samples:
    """Questions and answers on their way to a file: none of them is held."""

    def __init__(self, path: Path, part: Path) -> None:
        self._path = path
        self._part = part
        with _told(path):
            part.parent.mkdir(parents=True, exist_ok=True)
            self._file = part.open("wb")
        self._lines = gzip.GzipFile(filename="", fileobj=self._file, mode="wb", mtime=0)

    def add(self, line: Line) -> None:
        """Adds a line."""
        text = json.dumps(line, ensure_ascii=False) + "\n"
        with _told(self._path):
            self._lines.write(text.encode("utf-8", "surrogatepass"))

    def keep(self) -> str:
        """Gives the file its name; its digest, by which a result knows it."""
        with _told(self._path):
            self._lines.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            digest = digest_of(self._part)
            self._part.replace(self._path)
        return digest

    def close(self) -> None:
        """Without `keep` nothing remains."""
        with contextlib.suppress(OSError):
            self._lines.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_samples(path: Path, part: Path) -> Iterator[Samples]:
    """Where the lines of a samples file are written, one by one, under the name `part`.

    Raises:
        OutputError: the folder is missing, read-only or full.
    """
    samples = Samples(path, part)
    try:
        yield samples
    finally:
        samples.close()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Free the disk or choose another "
            "folder."
        ) from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_samples(path: Path) -> Iterator[Line]:
    """The lines of a samples file, one by one.

    Raises:
        DataError: it is not there, does not unpack, or a line of it is not one of ours.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is missing: without the answers of each item, results cannot be compared item "
            "by item. Copy it back beside its result, or measure again."
        )
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield _sample(path, number, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} does not unpack: {error}. Copy it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_values(result: Result) -> dict[str, ByTask]:
    """By model, task and item the values, from the samples of a result.

    Raises:
        DataError: the samples are missing or damaged, or not those of this result.
    """
    known = result.samples_sha256
    if known is not None and result.samples.is_file() and digest_of(result.samples) != known:
        raise DataError(
            f"{result.samples} is not the file that was written with {result.path.name}: its "
            "content is another. Copy the two together, or measure again."
        )
    read: dict[str, ByTask] = {}
    for line in read_samples(result.samples):
        items = read.setdefault(line["model"], {}).setdefault(line["task"], {})
        items[line["id"]] = {
            name: (_number(value), _number(count))
            for name, (value, count) in line["values"].items()
        }
    values: dict[str, ByTask] = {}
    wrong = []
    for model in result.order:
        measured = result.whole["results"].get(model, {})
        values[model] = {}
        for task in [task for task in result.tasks if task in measured]:
            found = read.get(model, {}).get(task, {})
            names = {metric.name for metric in result.metrics[task]}
            whole = [id_ for id_, value in found.items() if names <= value.keys()]
            if len(whole) < len(found) or len(found) != result.tasks[task]["items"]:
                wrong.append(f"{model} on {task}: {len(whole)} of {result.tasks[task]['items']}")
            values[model][task] = found
    if wrong:
        raise DataError(
            f"{result.samples} does not have all items of {result.path.name}, or others.\n  "
            + "\n  ".join(wrong)
            + "\nCopy the two together, or measure again."
        )
    return values


def _instead(schema: object) -> str:
    if isinstance(schema, str) and schema.startswith("lamina.evaluation/"):
        return (
            f"is of another version, {schema}; this lamina reads {SCHEMA}. Measure again, or use "
            "the lamina that wrote it."
        )
    if isinstance(schema, str) and schema.startswith("lamina.metrics/"):
        return (
            f"holds losses on texts alone ({schema}), not answers to items. Measure with "
            "--tasks to compare results."
        )
    what = f"a file of `{schema}`" if isinstance(schema, str) else "a file without a schema"
    return f"is {what}, no result of lamina eval. A result has the schema {SCHEMA}."


def _sample(path: Path, number: int, line: bytes) -> Line:
    try:
        read = json.loads(line)
        known = all(isinstance(read[key], str) for key in ("model", "task", "id"))
        if known and all(len(value) == 2 for value in read["values"].values()):
            return read
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise DataError(
        f"{path}, line {number} is no item with its values. Copy the file again, or measure again."
    )


def _number(value: object) -> float:
    """A sum or a count; what JSON cannot write was left null."""
    return float(value) if isinstance(value, int | float) else float("nan")
