"""One file of rows becomes (place, row) pairs: .jsonl .json .csv .tsv .txt, .gz of these, .parquet.

* .jsonl has a JSON object per line; .json a list of them, or `{"data": [...]}`; a .json file with
  an object per line is read, too.
* .csv (commas) and .tsv (tabs) begin with a line of names; every cell is a text.
* .txt has texts with blank lines between them: each is one row with the field `text`.
* The place is the line where a row begins, or the row's number in .json and .parquet, both from 1.

Any bytes are read or refused with a DataError. The whole file is held in memory.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from lamina.core.errors import DataError
from lamina.data.formats import json_name, told

Rows: TypeAlias = list[tuple[str, Any]]

TEXT_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")


def suffix_of(name: str) -> str | None:
    """The known ending of a file's name, without .gz; None when it has none."""
    name = name.lower()
    if name.endswith(".parquet"):
        return ".parquet"
    name = name.removesuffix(".gz")
    return next((suffix for suffix in TEXT_SUFFIXES if name.endswith(suffix)), None)


def read_file(path: Path, shown: str) -> Rows:
    """The rows of one file, in order; `shown` is what places and messages call it.

    Raises:
        DataError: an unknown ending, not readable, empty, or not what its ending says. Broken lines
            are told together, by number.
    """
    suffix = suffix_of(path.name)
    if suffix is None:
        raise DataError(
            f"{shown}: the name does not say what is in it. Known endings: {', '.join(SUFFIXES)};"
            " all but the last also with .gz."
        )
    if suffix == ".parquet":
        rows = _parquet(path, shown)
    else:
        content = read_text(path, shown)
        if not content.strip():
            raise DataError(f"{shown} is empty. It needs at least one row.")
        rows = _parse(suffix, content, shown)
    if not rows:
        raise DataError(f"{shown} has no rows. It needs at least one.")
    return rows


def _parse(suffix: str, content: str, shown: str) -> Rows:
    match suffix:
        case ".jsonl":
            return _json_lines(content, shown)
        case ".json":
            return _json(content, shown)
        case ".csv":
            return _cells(content, shown, delimiter=",")
        case ".tsv":
            return _cells(content, shown, delimiter="\t")
        case _:
            return list(_texts(content, shown))


def read_text(path: Path, shown: str) -> str:
    """A UTF-8 file as text, unpacked where its name ends in .gz; `shown` is its name in messages.

    Raises:
        DataError: it cannot be read, does not unpack, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            raw = gzip.decompress(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{shown} ends in .gz but does not unpack: {error}. Copy it again."
        ) from None
    except OSError as error:
        raise DataError(f"{shown} cannot be read: {error.strerror or error}.") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{shown} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}, "
            f"line {line}. Save it as UTF-8."
        ) from None


def _json_lines(content: str, shown: str) -> Rows:
    """Split at line feeds only, as JSONL is; blank lines are skipped."""
    rows: Rows = []
    problems: list[str] = []
    lines = content.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append((f"{shown}:{number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {error}")
    if problems:
        total = len(rows) + len(problems)
        raise DataError(
            told(shown, "not JSON", problems, total) + "\nA .jsonl file has one JSON object per"
            " line."
        )
    return rows


def _json(content: str, shown: str) -> Rows:
    try:
        whole = json.loads(content)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object per line, under the other name
            return _json_lines(content, shown)
        raise DataError(f"{shown} is not JSON: {error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown} is not JSON: {error}.") from None
    rows = whole["data"] if isinstance(whole, dict) and "data" in whole else whole
    if not isinstance(rows, list):
        what = f"an object with {_keys(whole)}" if isinstance(whole, dict) else json_name(whole)
        raise DataError(
            f'{shown} is {what}. A .json file is a list of rows, or {{"data": [...]}} with one.'
        )
    return [(f"{shown}:{number}", row) for number, row in enumerate(rows, start=1)]


def _keys(whole: dict[str, Any]) -> str:
    names = [name if len(name) <= 40 else name[:37] + "..." for name in whole]
    return ", ".join(f"`{name}`" for name in names[:8]) or "no keys"


def _cells(content: str, shown: str, *, delimiter: str) -> Rows:
    limit = csv.field_size_limit(sys.maxsize)  # a cell may hold a whole document
    try:
        return _table(content, shown, delimiter)
    finally:
        csv.field_size_limit(limit)


def _table(content: str, shown: str, delimiter: str) -> Rows:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    rows: Rows = []
    problems: list[str] = []
    first = 1
    try:
        for cells in reader:
            place, first = first, reader.line_num + 1
            if not cells:
                continue
            if names is None:
                names = _names(cells, shown)
            elif len(cells) != len(names):
                problems.append(f"line {place}: {len(cells)} cells, {len(names)} names above")
            else:
                rows.append((f"{shown}:{place}", dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise DataError(f"{shown}, line {first}: cannot be read as a table: {error}.") from None
    if problems:
        total = len(rows) + len(problems)
        raise DataError(
            told(shown, "of another width", problems, total)
            + f"\nThe cells are split at {'tabs' if delimiter == chr(9) else 'commas'}; put a cell"
            " that has one in quotes."
        )
    return rows


def _names(cells: list[str], shown: str) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1})
    if twice:
        raise DataError(
            f"{shown}: {', '.join(map(repr, twice))} is the name of two columns. Names differ."
        )
    return cells


def _texts(content: str, shown: str) -> Iterator[tuple[str, Any]]:
    """Texts with blank lines between them, each with the line where it begins."""
    held: list[str] = []
    first = 1
    for number, line in enumerate([*content.replace("\r\n", "\n").split("\n"), ""], start=1):
        if line.strip():
            if not held:
                first = number
            held.append(line)
        elif held:
            yield f"{shown}:{first}", {"text": "\n".join(held)}
            held = []


def _parquet(path: Path, shown: str) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise DataError(f"{shown} is empty. It needs at least one row.")
            file.seek(0)
            rows = pyarrow.parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataError(
            f"{shown} cannot be read as parquet: {_first_line(why)} Copy it again."
        ) from None
    return [(f"{shown}:{number}", row) for number, row in enumerate(rows, start=1)]


def _first_line(text: str) -> str:
    line = text.strip().split("\n")[0]
    return (line if len(line) <= 200 else line[:197] + "...").rstrip(".") + "."
