"""The output in the making: resumed, locked, cleaned up, and given its name at once."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_family import random_model, snapshot, write_model

from lamina.core.errors import CheckpointError, OutputError
from lamina.weights import kernels, writer
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.layout import Layout, plan_layout
from lamina.weights.place import lock_file, part_folder
from lamina.weights.sources import digest_of
from lamina.weights.writer import JOURNAL, PartialOutput, commit, partial_output

RUN = "a" * 64


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    model = open_checkpoint(write_model(tmp_path / "model", random_model()))
    return plan_layout(model, dict.fromkeys(model.tensors, "BF16"), 60_000)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "out"


def data_of(name: str, size: int) -> np.ndarray:
    return np.random.default_rng(len(name)).integers(0, 256, size, dtype=np.uint8)


def put(partial: PartialOutput, name: str, output: str = "") -> None:
    """Write one tensor in two pieces and say that it is done."""
    place = partial.layouts[output].places[name]
    data = data_of(name, place.end - place.begin)
    half = data.size // 512 * 256
    partial.write(output, place, half, memoryview(data[half:]))
    partial.write(output, place, 0, memoryview(data[:half]))
    lanes = np.zeros(32, np.uint64)
    kernels.checksum(np.uint64(data.ctypes.data), data.size, lanes)
    partial.finish(output, name, {"checksum": digest_of(lanes, data.size), "changed": 7})


def put_all(partial: PartialOutput) -> None:
    for output, layout in partial.layouts.items():
        for name in layout.places:
            if (output, name) not in partial.done:
                put(partial, name, output)


class Killed(BaseException):
    """Stands for an end that cleans nothing up."""


@contextmanager
def until_killed(
    out: Path, layouts: dict[str, Layout], run: str = RUN
) -> Iterator[tuple[PartialOutput, bool]]:
    """`partial_output` that is killed at the end."""
    try:
        with partial_output(out, run, layouts) as found:
            yield found
            raise Killed
    except Killed:
        return


def interrupted(out: Path, layout: Layout, names: list[str], run: str = RUN) -> Path:
    with until_killed(out, {"": layout}, run) as (partial, _):
        for name in names:
            put(partial, name)
    return part_folder(out)


def done_after(out: Path, layout: Layout, run: str = RUN) -> list[str]:
    """What a restarted run finds done; the part is left as it was."""
    found: list[str] = []
    with until_killed(out, {"": layout}, run) as (partial, resumed):
        found = [name for _, name in partial.done]
        assert resumed == bool(found)
        assert all(record["changed"] == 7 for record in partial.done.values())
    return found


def test_an_output_is_written_read_back_and_named(out: Path, layout: Layout) -> None:
    with partial_output(out, RUN, {"": layout}) as (partial, resumed):
        assert not resumed
        put_all(partial)
        assert partial.read_back() == []
        assert not out.exists()
        commit(out)
    assert sorted(file.name for file in out.iterdir()) == sorted(s.file for s in layout.shards)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    for place in layout.places.values():
        raw = (out / place.file).read_bytes()[place.begin : place.end]
        assert raw == data_of(place.name, len(raw)).tobytes()


def test_a_restarted_run_keeps_what_is_done(out: Path, layout: Layout) -> None:
    names = list(layout.places)[:9]
    interrupted(out, layout, names)
    assert done_after(out, layout) == names
    assert done_after(out, layout) == names


def test_a_changed_byte_is_not_believed(out: Path, layout: Layout) -> None:
    names = list(layout.places)[:9]
    part = interrupted(out, layout, names)
    place = layout.places[names[4]]
    with (part / place.file).open("r+b") as stream:
        stream.seek(place.end - 1)
        last = stream.read(1)[0]
        stream.seek(place.end - 1)
        stream.write(bytes([last ^ 1]))
    assert done_after(out, layout) == names[:4] + names[5:]


def test_a_torn_last_line_costs_one_tensor(out: Path, layout: Layout) -> None:
    names = list(layout.places)[:5]
    journal = interrupted(out, layout, names) / JOURNAL
    whole = journal.read_bytes()
    last = len(whole) - whole[:-1].rfind(b"\n") - 1
    for cut in (2, 10, last // 2, last - 1, last):
        journal.write_bytes(whole[:-cut])
        assert done_after(out, layout) == names[:4], cut
        journal.write_bytes(whole)


@pytest.mark.parametrize(
    "junk",
    [b"\0\0\0\n", b"{}\n", b"[]\n", b"null\n", b"\xff\n", b"\n", b'{"tensor": 1}\n'],
)
def test_junk_in_the_journal_never_breaks_a_run(junk: bytes, out: Path, layout: Layout) -> None:
    names = list(layout.places)[:3]
    journal = interrupted(out, layout, names) / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + junk)
    assert done_after(out, layout) == names
    journal.write_bytes(junk + whole)
    assert done_after(out, layout) == []


def test_a_changed_number_in_the_journal_is_not_believed(out: Path, layout: Layout) -> None:
    names = list(layout.places)[:3]
    journal = interrupted(out, layout, names) / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b'"changed": 7', b'"changed": 9', 1))
    assert done_after(out, layout) == []


def test_a_shard_of_another_size_is_made_anew(out: Path, layout: Layout) -> None:
    names = list(layout.places)
    part = interrupted(out, layout, names)
    lost = layout.shards[0].file
    os.truncate(part / lost, 100)
    kept = [name for name in names if layout.places[name].file != lost]
    assert done_after(out, layout) == kept
    (part / layout.shards[1].file).unlink()
    kept = [n for n in kept if layout.places[n].file != layout.shards[1].file]
    assert done_after(out, layout) == kept


def test_another_run_begins_anew(out: Path, layout: Layout) -> None:
    part = interrupted(out, layout, list(layout.places)[:5])
    (part / "stray").write_text("x")
    (part / "sub").mkdir()
    assert done_after(out, layout, run="b" * 64) == []
    assert not (part / "stray").exists()
    assert not (part / "sub").exists()
    assert done_after(out, layout) == []


def test_several_outputs_in_one_run(out: Path, layout: Layout) -> None:
    layouts = {"a": layout, "b": layout}
    with partial_output(out, RUN, layouts) as (partial, _):
        put_all(partial)
        assert partial.read_back() == []
        commit(out)
    assert snapshot(out / "a").keys() == snapshot(out / "b").keys()
    assert len(snapshot(out)) == 2 * len(layout.shards)


def test_reading_back_tells_what_differs(out: Path, layout: Layout) -> None:
    names = list(layout.places)
    with until_killed(out, {"": layout}) as (partial, _):
        put_all(partial)
        del partial.done["", names[0]]
        place = layout.places[names[3]]
        partial.write("", place, 0, memoryview(b"xx"))
        problems = partial.read_back()
        assert sorted(problems) == sorted(
            [f"{names[0]}: was never written", f"{names[3]}: reads back with another checksum"]
        )


def test_a_second_run_is_refused(out: Path, layout: Layout) -> None:
    with until_killed(out, {"": layout}) as (partial, _):
        put(partial, next(iter(layout.places)))
        before = snapshot(part_folder(out))
        for run in (RUN, "b" * 64):
            with pytest.raises(OutputError, match="another lamina is writing"):  # noqa: SIM117
                with partial_output(out, run, {"": layout}):
                    pytest.fail("two at once")
        assert snapshot(part_folder(out)) == before
    assert not lock_file(out).exists()


def test_a_lock_that_a_killed_run_left_is_no_lock(out: Path, layout: Layout) -> None:
    lock_file(out).write_text("")
    assert done_after(out, layout) == []


def test_a_lock_that_lost_its_name_is_not_trusted(
    out: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run ended, and removed its lock, between our open and our flock."""
    lock, calls, real = lock_file(out), [], fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            lock.unlink()
        real(descriptor, how)

    monkeypatch.setattr(writer.fcntl, "flock", flock)
    with until_killed(out, {"": layout}):
        assert len(calls) == 2
        assert lock.exists()


@pytest.mark.parametrize("number", sorted(writer.TROUBLE))
def test_a_full_disk_leaves_nothing(
    number: int, out: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.pwrite, [5]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data, offset)

    monkeypatch.setattr(writer.os, "pwrite", pwrite)
    with (
        pytest.raises(OutputError, match=os.strerror(number)) as caught,
        partial_output(out, RUN, {"": layout}) as (partial, _),
    ):
        put_all(partial)
    assert "Nothing was left behind" in str(caught.value)
    assert list(out.parent.iterdir()) == []


def test_our_own_error_leaves_nothing(out: Path, layout: Layout) -> None:
    with pytest.raises(CheckpointError), partial_output(out, RUN, {"": layout}):
        raise CheckpointError("NaN")
    assert list(out.parent.iterdir()) == []


def test_a_missing_file_inside_is_not_taken_for_a_lost_lock(out: Path, layout: Layout) -> None:
    with pytest.raises(FileNotFoundError), partial_output(out, RUN, {"": layout}):
        raise FileNotFoundError(errno.ENOENT, "gone")
    assert part_folder(out).is_dir(), "no trouble of the disk: it can be resumed"


LIMITED = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
from lamina.core.errors import OutputError
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.layout import plan_layout
from lamina.weights.writer import partial_output
model = open_checkpoint(Path(sys.argv[1]))
layout = plan_layout(model, dict.fromkeys(model.tensors, "BF16"), None)
try:
    with partial_output(Path(sys.argv[2]), "run", {"": layout}) as (partial, _):
        for place in layout.places.values():
            partial.write("", place, 0, memoryview(bytes(place.end - place.begin)))
except OutputError as error:
    print(error)
    sys.exit(2)
"""


def test_a_limit_on_file_size_leaves_nothing(out: Path, layout: Layout, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "model"), str(out), "100000"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2, told.stderr
    assert "File too large" in told.stdout
    assert list(out.parent.iterdir()) == []


def test_a_parent_that_cannot_be_written_to(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(OutputError, match="cannot be written to"),
        partial_output(tmp_path / "file" / "out", RUN, {"": layout}),
    ):
        pytest.fail("wrote below a file")


# The name


@pytest.mark.parametrize("swaps", [True, False])
def test_an_old_output_is_replaced(
    swaps: bool, out: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(writer, "_exchange", lambda *_: False)
        left = out.with_name(".out.lamina-old")
        left.mkdir()  # of a run killed between two renames
        (left / "x").write_text("x")
    out.mkdir()
    (out / "old").write_text("old")
    with partial_output(out, RUN, {"": layout}) as (partial, _):
        put_all(partial)
        commit(out)
    assert sorted(file.name for file in out.iterdir()) == sorted(s.file for s in layout.shards)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_there_is_an_output_at_every_moment(out: Path, tmp_path: Path) -> None:
    """While one folder takes the place of another, a reader always finds one, and a whole one."""
    if not writer._exchange(make(tmp_path / "a", 0), make(tmp_path / "b", 1)):
        pytest.skip("this file system cannot swap names")
    make(out, 0)
    misses, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                names = sorted(path.name for path in out.iterdir())
            except FileNotFoundError:
                misses.append("nothing there")
                continue
            if names and names not in (["0"], ["1"]):
                misses.append(str(names))

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 60):
        make(part_folder(out), number % 2)
        commit(out)
    stop.set()
    reader.join()
    assert misses == []


def make(folder: Path, number: int) -> Path:
    folder.mkdir()
    (folder / str(number)).write_text("x")
    return folder


def test_everything_is_on_the_disk_before_it_has_its_name(
    out: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    with partial_output(out, RUN, {"": layout}) as (partial, _):
        put_all(partial)
        monkeypatch.setattr(writer.os, "fsync", synced)
        monkeypatch.setattr(Path, "rename", renamed)
        commit(out)
    at = events.index("rename")
    assert {shard.file for shard in layout.shards} | {part_folder(out).name} <= set(events[:at])
    assert events[at + 1 :] == ["home"]
