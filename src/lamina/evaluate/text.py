"""Held-out text: a file becomes documents to be scored.

`.txt` is one document; `.jsonl` has a JSON object per line, `.json` a list of them; each may end in
`.gz`. A row has one of three forms:

* `text`: all of it is scored;
* `page`: a WikiText page, detokenised first, its words and bytes counted as it came;
* `prompt` and `completion`, both already rendered: only the completion is scored.

Other keys of a row are left alone. The whole file is held in memory: meant for held-out sets.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lamina.core.errors import DataError
from lamina.data.files import read_text
from lamina.evaluate.wikitext import detokenise

FORMS: tuple[tuple[str, ...], ...] = (("text",), ("page",), ("prompt", "completion"))
SUFFIXES = (".txt", ".jsonl", ".json")
_SHOWN = 5
_KNOWN = "`text`, `page`, or `prompt` with `completion`"


@dataclass(frozen=True, slots=True)
class Document:
    """One row of a held-out text."""

    prompt: str | None
    """Read by the model before the text and not scored; None for running text."""
    text: str
    """What is scored."""
    measured: str
    """Words and bytes are counted on this; differs from `text` for a WikiText page."""


def read_documents(path: Path | str) -> tuple[Document, ...]:
    """The documents of a file, in order.

    Raises:
        DataError: no such file, not UTF-8, not JSON, a row of no known form, or nothing but
            empty texts. Problems of one kind are told together, by line.
    """
    path = Path(path)
    _check_there(path)
    kind = _kind(path)
    content = read_text(path, str(path))
    if not content.strip():
        raise DataError(f"{path} is empty. It needs at least one text to score.")
    if kind == ".txt":
        documents: tuple[Document, ...] = (Document(None, content, content),)
    else:
        rows = _lines(path, content) if kind == ".jsonl" else _rows(path, content)
        documents = _documents(path, rows)
    if not any(document.text.strip() for document in documents):
        raise DataError(f"{path}: all {len(documents)} texts are empty. There is nothing to score.")
    return documents


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise DataError(
        f"{path}: the name does not say what is in it. "
        f"Known endings: {', '.join(SUFFIXES)}, each also with .gz."
    )


def _check_there(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{path} is a folder. Name the file with the text.")
    if not path.exists():
        raise DataError(f"No such file: {path}. Give the path of a text to score.")


def _lines(path: Path, content: str) -> list[tuple[str, object]]:
    """(place, row) for each line that is not blank; split at line feeds only, as JSONL is."""
    rows: list[tuple[str, object]] = []
    problems: list[str] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"line {number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        raise DataError(
            _told(path, "not JSON", problems) + "\nA .jsonl file has one JSON object per line."
        )
    return rows


def _rows(path: Path, content: str) -> list[tuple[str, object]]:
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON: {error}. If it has one object per line, name it .jsonl."
        ) from None
    rows = whole if isinstance(whole, list) else [whole]
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _documents(path: Path, rows: Iterable[tuple[str, object]]) -> tuple[Document, ...]:
    documents: list[Document] = []
    problems: list[str] = []
    for place, row in rows:
        try:
            documents.append(_document(row))
        except _Unfit as unfit:
            problems.append(f"{place}: {unfit}")
    if problems:
        raise DataError(_told(path, "not a row to score", problems) + f"\nA row needs {_KNOWN}.")
    return tuple(documents)


class _Unfit(Exception):
    """Why one row cannot be read; told with its place by the caller."""


def _document(row: object) -> Document:
    if not isinstance(row, Mapping):
        raise _Unfit(f"a JSON object is needed, this is {_json_name(row)}")
    fitting = [form for form in FORMS if all(key in row for key in form)]
    if not fitting:
        raise _Unfit(f"keys seen: {', '.join(map(str, row)) or 'none'}")
    if len(fitting) > 1:
        forms = " and ".join("+".join(form) for form in fitting)
        raise _Unfit(f"it could be read in two ways, as {forms}; keep one")
    values = {key: _string(key, row[key]) for key in fitting[0]}
    if "page" in values:
        return Document(None, detokenise(values["page"]), values["page"])
    if "completion" in values:
        return Document(values["prompt"], values["completion"], values["completion"])
    return Document(None, values["text"], values["text"])


def _string(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise _Unfit(f"`{key}` must be a string, this is {_json_name(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _Unfit(
            f"`{key}` has half a character (\\u{ord(value[error.start]):04x}) at {error.start}"
        ) from None
    return value


def _json_name(value: object) -> str:
    if value is None:
        return "null"
    names = (
        (list, "a list"),
        (dict, "an object"),
        (str, "a string"),
        (bool, "true or false"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "a number")


def _told(path: Path, what: str, problems: list[str]) -> str:
    shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    many = "1 line is" if len(problems) == 1 else f"{len(problems)} lines are"
    return f"{path}: {many} {what}.{shown}{more}"
