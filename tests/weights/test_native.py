"""Kept machine code: made anew when anything that it depends on changes, never trusted blindly."""

from pathlib import Path

import numpy as np
import pytest

from lamina.weights import kernel_code, kernels, native, pointers
from lamina.weights.native import Kernel

SIGNATURE = "u i u8:1 f4:2"


def lanes_of(kernel: Kernel, data: bytes) -> np.ndarray:
    lanes, work = np.zeros(32, np.uint64), native.rooms(4, kernels.BLOCK)
    memory = np.frombuffer(data + bytes(8), np.uint8)
    kernel(memory.ctypes.data, len(data), lanes, work)
    return lanes


def test_every_module_that_kernels_are_made_of_is_in_the_key() -> None:
    folder = Path(native.__file__).parent
    assert all((folder / source).is_file() for source in native.SOURCES)
    for module in (kernel_code, pointers, native):
        text = Path(str(module.__file__)).read_text()
        used = {line.split()[1] for line in text.splitlines() if line.startswith("from lamina.")}
        files = {name.rpartition(".")[2] + ".py" for name in used if name != "lamina.weights"}
        assert files <= set(native.SOURCES), files
        assert Path(str(module.__file__)).name in native.SOURCES


def test_another_signature_or_source_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = native._key(Kernel("checksum", SIGNATURE))
    assert key == native._key(Kernel("checksum", SIGNATURE))
    assert key != native._key(Kernel("checksum", "u i u8:1 f4:1"))
    for source in native.SOURCES:
        (tmp_path / source).write_bytes(Path(native.__file__).with_name(source).read_bytes())
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    assert native._key(Kernel("checksum", SIGNATURE)) == key
    seen = {key}
    for source in native.SOURCES:
        with (tmp_path / source).open("a") as stream:
            stream.write("# changed\n")
        seen.add(native._key(Kernel("checksum", SIGNATURE)))
    assert len(seen) == 1 + len(native.SOURCES)


def test_damaged_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 3
    whole = np.zeros(32, np.uint64)
    kernels.checksum(np.frombuffer(data, np.uint8).ctypes.data, len(data), whole)
    monkeypatch.setattr(native, "cache_folders", lambda: [tmp_path / "gone" / "x", tmp_path])
    (tmp_path / "gone").write_text("a file where a folder is needed")
    assert (lanes_of(Kernel("checksum", SIGNATURE), data) == whole).all()
    (kept,) = tmp_path.glob("*.o")
    good = kept.read_bytes()
    for bad in (b"", good[:100], good[:-1], good[:-1] + bytes([good[-1] ^ 1])):
        kept.write_bytes(bad)
        assert native._read(kept) is None
    monkeypatch.setattr(native, "_compile", lambda _: good[16:])
    assert (lanes_of(Kernel("checksum", SIGNATURE), data) == whole).all()
    assert kept.read_bytes() == good


def test_where_nothing_can_be_kept_it_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    compiled = []
    real = native._compile

    def compile_again(kernel: Kernel) -> bytes:
        compiled.append(kernel.name)
        return real(kernel)

    monkeypatch.setattr(native, "cache_folders", lambda: [tmp_path / "file" / "x"])
    monkeypatch.setattr(native, "_compile", compile_again)
    assert lanes_of(Kernel("checksum", SIGNATURE), b"abc").any()
    assert compiled == ["checksum"]


def test_wrong_arguments_never_reach_the_machine_code() -> None:
    lanes = np.zeros(32, np.uint64)
    work = native.rooms(4, kernels.BLOCK)
    kernel = Kernel("checksum", SIGNATURE)
    for wrong in (lanes.astype(np.int64), lanes.reshape(4, 8), np.zeros(64, np.uint64)[::2]):
        with pytest.raises(AssertionError):
            kernel(0, 0, wrong, work)
    with pytest.raises(ValueError, match="zip"):
        kernel(0, 0, lanes)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(native.os.path, "expanduser", lambda path: path)
    assert native.cache_folders() == [Path(native.__file__).parent / "__pycache__"]
