"""A model folder that appears whole or not at all, and goes on where a killed run stopped.

Everything is written into `.NAME.lamina-part` beside the output; a journal there gets a line, with
a checksum, for every finished tensor. The same run started again checks those tensors against
their checksums and makes the others. `commit` flushes to the disk, then renames once. A lock makes
sure that two runs never write into one output.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
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
from lamina.weights.place import lock_file, part_folder
from lamina.weights.sources import MappedFile, checksum_range

JOURNAL, RUN = "journal.jsonl", "run"


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
                lines.append(_line(record))
        part = self.folder / f"{JOURNAL}.new"
        part.write_bytes(b"".join(lines))
        part.replace(self.folder / JOURNAL)

    def write(self, output: str, place: Place, first_byte: int, data: memoryview) -> None:
        """Put bytes at their final offset, counted from the beginning of the tensor."""
        _write_at(self._files[output, place.file], data, place.begin + first_byte)

    def finish(self, output: str, tensor: str, record: Mapping[str, Any]) -> None:
        """A tensor is whole: remember it, with its checksum, in the journal."""
        full = {"output": output, "tensor": tensor, **record}
        place = self.layouts[output].places[tensor]
        _start_writing(self._files[output, place.file], place.begin, place.end)
        with self._lock:
            _write_all(self._journal, _line(full))
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


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


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
    with locked(out):
        try:
            folder.mkdir(exist_ok=True)
            journal = _read_journal(folder, run, layouts)
            if journal is None:
                _clear(folder, run)
            else:
                _tidy(folder, layouts)
            partial = PartialOutput(folder, layouts, journal or [])
            try:
                yield partial, bool(partial.done)
            finally:
                partial.close()
        except LaminaError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except OSError as error:
            if error.errno not in TROUBLE:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise OutputError(
                f"writing {out} failed: {error.strerror}. Nothing was left behind; free some room "
                "(or raise the limit) and run it again."
            ) from None


TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})
"""A disk that is full, over a limit, broken or read-only."""


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold an output's lock. The file goes with its holder, so who gets it looks whether it still
    has its name.
    """
    file = lock_file(out)
    while True:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{out.parent} cannot be written to: {error.strerror}.") from None
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"another lamina is writing {out} right now. Wait for it, or choose another "
                    "output."
                ) from None
            if _is_named(lock, file):
                try:
                    yield
                finally:
                    file.unlink(missing_ok=True)
                return
        finally:
            os.close(lock)


def _is_named(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _read_journal(
    folder: Path, run: str, layouts: Mapping[str, Layout]
) -> list[dict[str, Any]] | None:
    """The finished tensors of an interrupted run of this very kind; None if there was none.

    A line counts if its own checksum fits; the first that does not (a kill tore it) ends the list.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if (folder / RUN).read_text(encoding="utf-8") != run:
            return None
        records = []
        for line in (folder / JOURNAL).read_bytes().splitlines():
            text, _, digest = line.rpartition(b"\t")
            if _line_digest(text) != digest:
                break
            record = json.loads(text)
            if record["tensor"] in layouts[record["output"]].places:
                records.append(record)
        return records
    return None


def _line_digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=8).hexdigest().encode()


def _line(record: Mapping[str, Any]) -> bytes:
    """A line of the journal: the record and its own checksum."""
    text = json.dumps(record).encode()
    return text + b"\t" + _line_digest(text) + b"\n"


def _clear(folder: Path, run: str) -> None:
    for entry in folder.iterdir():
        _remove(entry)
    (folder / RUN).write_text(run, encoding="utf-8")


def _tidy(folder: Path, layouts: Mapping[str, Layout]) -> None:
    """Remove all but weights and journal: a kill may have left half of any other file."""
    kept = {folder / name for name in (JOURNAL, RUN, *layouts)}
    kept |= {folder / sub / s.file for sub, layout in layouts.items() for s in layout.shards}
    for home in {folder / sub for sub in ("", *layouts)}:
        for entry in list(home.iterdir()) if home.is_dir() else []:
            if entry not in kept:
                _remove(entry)


def _remove(entry: Path) -> None:
    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _start_writing(descriptor: int, begin: int, end: int) -> None:
    """Let the system begin to bring a range to the disk, so that the flush at the end finds little
    left to do. Linux only; elsewhere the flush does it all.
    """
    if _SYNC_RANGE is not None:
        _SYNC_RANGE(descriptor, begin, end - begin, SYNC_FILE_RANGE_WRITE)


SYNC_FILE_RANGE_WRITE = 2


def _sync_range() -> Any:
    library = ctypes.CDLL(None)
    try:
        function = library.sync_file_range
    except AttributeError:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


_SYNC_RANGE = _sync_range()


def commit(out: Path) -> None:
    """Flush the finished folder and give it its name; what stood there before goes only then.

    An older output changes places with the new one in one step where the system can do that.
    """
    folder, old = part_folder(out), out.with_name(f".{out.name}.lamina-old")
    for name in (JOURNAL, RUN):
        (folder / name).unlink(missing_ok=True)
    for entry in [*folder.rglob("*"), folder]:
        _sync(entry)
    if not out.exists():
        folder.rename(out)
    elif _exchange(folder, out):
        shutil.rmtree(folder)
    else:
        if old.exists():
            shutil.rmtree(old)
        out.rename(old)
        folder.rename(out)
    _sync(out.parent)
    if old.exists():
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux's renameat2); False where this system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0
