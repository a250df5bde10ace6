"""What an unfinished measurement has done already, so that the same command goes on with it.

Beside OUT.json there is a folder OUT.json.partial/ until the result is written: a file for each
model and task, named by a digest of everything its answers depend on (the model's files, items,
dtype, lengths, batches, sampling). A line is a portion with the answers to its items; a line that
was cut by a kill, or that a damaged disk made unreadable, is left out with all behind it. Other
settings have other files, so nothing is mixed and nothing is lost.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.core.errors import OutputError
from lamina.evaluate.nouns import Raw

SCHEMA = "lamina.evaluation_journal/1"


class Journal:
    """The answers of one model to one task; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, key: Mapping[str, Any]) -> None:
        header = json.dumps({"schema": SCHEMA, **key}, sort_keys=True)
        digest = hashlib.sha256(header.encode()).hexdigest()[:24]
        self._path = None if folder is None else folder / f"{digest}.jsonl"
        self._header = header
        self.done: dict[str, dict[str, Raw]] = {}
        """By portion (its place in the plan, or an item's id) the raw answers of its items."""
        if self._path is not None:
            self._open(self._path)

    def add(self, portion: str, raws: Mapping[str, Raw]) -> None:
        """Keeps a portion's answers; they are on the disk when this returns.

        Raises:
            OutputError: the disk is full or the folder is gone.
        """
        self.done[portion] = dict(raws)
        if self._path is None:
            return
        line = json.dumps({"portion": portion, "raws": raws}, ensure_ascii=True) + "\n"
        try:
            with self._path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot keep what was measured in {self._path}: {error.strerror or error}. Free "
                "the disk and run the same command again: what is there already is used."
            ) from error

    def _open(self, path: Path) -> None:
        if path.is_file():
            whole = path.read_bytes()
            header, *lines = whole.split(b"\n")[:-1] or [b""]
            if header == self._header.encode():
                good = len(header) + 1
                for line in lines:
                    if not self._take(line):
                        break
                    good += len(line) + 1
                if good < len(whole):
                    with path.open("r+b") as file:
                        file.truncate(good)
                return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._header.encode() + b"\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}. Choose another --out."
            ) from error

    def _take(self, line: bytes) -> bool:
        """Whether a line is a portion that was kept; it is then among what is done."""
        try:
            entry = json.loads(line)
            portion, raws = entry["portion"], entry["raws"]
        except (ValueError, KeyError, TypeError):
            return False
        if not isinstance(portion, str) or not isinstance(raws, dict):
            return False
        self.done[portion] = raws
        return True


def partial_folder(out: Path) -> Path:
    """Where an unfinished measurement keeps what it has."""
    return out.with_name(f"{out.name}.partial")


def forget_partial(out: Path) -> None:
    """Deletes the journals of a finished measurement."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(partial_folder(out))
