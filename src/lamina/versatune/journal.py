"""What a detection has done so far, a line a thing, written as it comes and read by a later run.

One file, `journal.jsonl`, locked while a run has it open: a first line that says which run it is
of, then texts, judgements of labelled rows (checks) and judgements of texts, each kind in order.
A line that was cut off by a kill is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lamina.core.errors import OutputError
from lamina.versatune.shares import Judgement

NAME = "journal.jsonl"
SCHEMA = "lamina.detect-journal/1"
DIGITS = 6
"""Probabilities are kept with so many digits, and used as they are kept."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One text that the model wrote."""

    text: str
    tokens: int
    finished: bool
    """It ended by itself, not at the most tokens allowed."""


@dataclass
class Journal:
    """The state of a detection, in memory and on the disk."""

    texts: list[Sampled] = field(default_factory=list)
    checks: list[Judgement] = field(default_factory=list)
    """Of the labelled rows, in their order."""
    judged: list[Judgement] = field(default_factory=list)
    _file: IO[bytes] | None = None

    def add_texts(self, texts: Iterable[Sampled]) -> None:
        new = list(texts)
        self._write([{"text": t.text, "tokens": t.tokens, "finished": t.finished} for t in new])
        self.texts += new

    def add_check(self, row: Judgement) -> None:
        self.checks.append(self._add("check", row))

    def add_judged(self, row: Judgement) -> None:
        self.judged.append(self._add("judged", row))

    def _add(self, kind: str, row: Judgement) -> Judgement:
        kept = None if row is None else tuple(round(p, DIGITS) for p in row)
        self._write([{kind: kept}])
        return kept

    def _write(self, lines: list[dict[str, Any]]) -> None:
        assert self._file is not None, "the journal is not open"
        self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._file.flush()

    def _take(self, line: dict[str, Any]) -> bool:
        """Puts what a line says in its place; whether it was one of ours."""
        match line:
            case {"text": str(text), "tokens": int(tokens), "finished": bool(finished)}:
                self.texts.append(Sampled(text, tokens, finished))
            case {"check": None | list() as row}:
                self.checks.append(None if row is None else tuple(row))
            case {"judged": None | list() as row}:
                self.judged.append(None if row is None else tuple(row))
            case _:
                return False
        return True


@contextmanager
def open_journal(folder: Path, run: str) -> Iterator[Journal]:
    """The journal in a folder, new or of an earlier run with the same fingerprint.

    Raises:
        OutputError: it is of another run, another process has it, or it cannot be written.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Choose another folder."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another run is writing {folder}. Wait for it, or choose another folder."
            ) from None
        journal = Journal(_file=file)
        file.seek(0)
        good = _read(path, file, journal, run)
        file.truncate(good)
        if not good:
            file.write(_first_line(run))
            file.flush()
        yield journal
        os.fsync(file.fileno())


def _read(path: Path, file: IO[bytes], journal: Journal, run: str) -> int:
    """How many bytes are whole lines; what they say is in the journal."""
    good = 0
    for number, line in enumerate(file):
        if number == 0 and not _begins(line, run):
            if _begins(line, None) and not file.read(1):
                return 0  # the other run did nothing
            raise OutputError(
                f"{path} is of an unfinished detection with other settings, another model or "
                "other rows. Run that one to its end, choose another folder, or remove this "
                "one."
            )
        if not line.endswith(b"\n") or (number and not journal._take(_parsed(line))):
            break
        good += len(line)
    return good


def _first_line(run: str) -> bytes:
    return json.dumps({"schema": SCHEMA, "run": run}).encode() + b"\n"


def _begins(line: bytes, run: str | None) -> bool:
    """Whether it is the first line of a run's journal (None: of any), whole or cut off."""
    if run is not None:
        return _first_line(run).startswith(line)
    before = _first_line("").removesuffix(b'"}\n')
    return line.startswith(before) or before.startswith(line)


def _parsed(line: bytes) -> dict[str, Any]:
    """The object of a line; an empty one if there is none."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
