"""A model folder that appears whole or not at all, and goes on where a killed run stopped.

Everything is written into `.NAME.lamina-part` beside the output; a journal there gets a line, with
a checksum, for every finished tensor. The same run started again checks those tensors against
their checksums and makes the others. `commit` flushes to the disk, then renames once. A lock makes
sure that two runs never write into one output.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lamina.core.errors import LaminaError, OutputError
from lamina.weights.headers import read_header
from lamina.weights.layout import Layout, Place
from lamina.weights.place import part_folder
from lamina.weights.sources import MappedFile, checksum_range

JOURNAL, LOCK = "journal.jsonl", "lock"


class PartialOutput:
    """One or several model folders in the making (`layouts`: sub-folder, "" for none -> layout)."""

    def __init__(self, folder: Path, layouts: Mapping[str, Layout], journal: list[dict[str, Any]]):
        self.folder = folder
        self.layouts = layouts
        self.done: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], int] = {}
        for sub, layout in layouts.items():
            (folder / sub).mkdir(exist_ok=True)
            for shard in layout.shards:
                self._files[sub, shard.file] = self._create(folder / sub / shard.file, shard.size)
                _write_at(self._files[sub, shard.file], memoryview(shard.header), 0)
        self._keep_good(journal)
        self._journal = os.open(folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    @staticmethod
    def _create(path: Path, size: int) -> int:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if os.fstat(descriptor).st_size != size:
            os.ftruncate(descriptor, 0)
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                os.ftruncate(descriptor, size)
        return descriptor

    def _keep_good(self, journal: list[dict[str, Any]]) -> None:
        """Believe a journal line only if the bytes on the disk still have its checksum."""
        mapped: dict[Path, MappedFile] = {}
        lines = []
        for record in journal:
            sub, name = record["output"], record["tensor"]
            place = self.layouts[sub].places[name]
            path = self.folder / sub / place.file
            if path not in mapped:
                mapped[path] = MappedFile(read_header(path))
            if checksum_range(mapped[path], place.begin, place.end) == record["checksum"]:
                self.done[sub, name] = record
                lines.append(json.dumps(record) + "\n")
        part = self.folder / f"{JOURNAL}.new"
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(self.folder / JOURNAL)

    def write(self, output: str, place: Place, first_byte: int, data: memoryview) -> None:
        """Put bytes at their final offset, counted from the beginning of the tensor."""
        _write_at(self._files[output, place.file], data, place.begin + first_byte)

    def finish(self, output: str, tensor: str, record: Mapping[str, Any]) -> None:
        """A tensor is whole: remember it, with its checksum, in the journal."""
        full = {"output": output, "tensor": tensor, **record}
        line = (json.dumps(full) + "\n").encode()
        with self._lock:
            os.write(self._journal, line)
            self.done[output, tensor] = full

    def flush(self) -> None:
        """Bring all weights to the disk."""
        for descriptor in self._files.values():
            os.fsync(descriptor)

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        os.close(self._journal)
        self._files = {}

    def read_back(self) -> list[str]:
        """Read every header and every byte again: what does not fit what was meant, in words."""
        problems: list[str] = []
        for sub, layout in self.layouts.items():
            for shard in layout.shards:
                path = self.folder / sub / shard.file
                header = read_header(path)
                found = {t.name: (t.dtype, t.shape, t.begin, t.end) for t in header.tensors}
                meant = {
                    place.name: (place.dtype, place.shape, place.begin, place.end)
                    for place in layout.places.values()
                    if place.file == shard.file
                }
                if found != meant:
                    problems.append(f"{path.name}: the header read back is not the one written")
                    continue
                file = MappedFile(header)
                for name, (_, _, begin, end) in meant.items():
                    record = self.done.get((sub, name))
                    if record is None:
                        problems.append(f"{name}: was never written")
                    elif checksum_range(file, begin, end) != record["checksum"]:
                        problems.append(f"{name}: reads back with another checksum")
        return problems


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


@contextmanager
def partial_output(
    out: Path, run: str, layouts: Mapping[str, Layout]
) -> Iterator[tuple[PartialOutput, bool]]:
    """The output in the making, and whether it continues an interrupted run of the same `run`.

    A full disk, a failed check or any other error removes it: there is nothing worth going on with.
    Ctrl-C or a kill leaves it to be resumed.

    Raises:
        OutputError: another run is writing there, or the disk is full or not writable.
    """
    folder = part_folder(out)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"{folder.parent} cannot be written to: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"another lamina is writing {out} right now. Wait for it, or choose another output."
            ) from None
        journal = _read_journal(folder, run, layouts)
        if journal is None:
            _clear(folder, run)
        try:
            partial = PartialOutput(folder, layouts, journal or [])
            try:
                yield partial, bool(partial.done)
            except LaminaError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            finally:
                partial.close()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise OutputError(
                f"writing {out} failed: {error.strerror}. Nothing was left behind; free some room "
                "(or raise the limit) and run it again."
            ) from None
    finally:
        os.close(lock)


def _read_journal(
    folder: Path, run: str, layouts: Mapping[str, Layout]
) -> list[dict[str, Any]] | None:
    """The finished tensors of an interrupted run of this very kind; None if there was none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if (folder / "run").read_text(encoding="utf-8") != run:
            return None
        records = []
        for line in (folder / JOURNAL).read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                break
            if record["tensor"] in layouts[record["output"]].places:
                records.append(record)
        return records
    return None


def _clear(folder: Path, run: str) -> None:
    for entry in folder.iterdir():
        if entry.name == LOCK:
            continue
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (folder / "run").write_text(run, encoding="utf-8")


def commit(out: Path) -> None:
    """Flush the finished folder and give it its name; what stood there before goes only then."""
    folder = part_folder(out)
    for name in (JOURNAL, "run"):
        (folder / name).unlink(missing_ok=True)
    for entry in [*folder.rglob("*"), folder]:
        descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    (folder / LOCK).unlink(missing_ok=True)
    old = out.with_name(f".{out.name}.lamina-old")
    if out.exists():
        out.rename(old)
    folder.rename(out)
    parent = os.open(out.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
    if old.exists():
        shutil.rmtree(old)
