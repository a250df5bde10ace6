import errno
import json
import os

import pytest

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import Manifest, read_json, write_json_atomic


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    written = Manifest(
        kind="merge",
        status="done",
        versions={"lamina": "0"},
        recipe={"merge_method": "lata"},
        inputs={"base": {"path": "base", "bytes": 3}},
        outputs={"model.safetensors": {"bytes": 3, "checksum": "x"}},
        results={"tensors": 1},
        warnings=["one"],
    )
    path = written.write(tmp_path)
    assert read_json(path)["schema"] == "lamina.manifest/1"
    assert Manifest(**read_json(path)) == written
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_the_same_object_gives_the_same_bytes(tmp_path):
    write_json_atomic(tmp_path / "a.json", {"b": 1, "a": {"d": "é", "c": 2.5}})
    write_json_atomic(tmp_path / "b.json", {"a": {"c": 2.5, "d": "é"}, "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_json_atomic(target, {"old": 1})
    with pytest.raises(TypeError, match="object"):
        write_json_atomic(target, {"new": object()})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*a\.json: No space left on device"):
        write_json_atomic(target, {"new": 1})
    assert json.loads(target.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*a\.json: No such file"):
        write_json_atomic(tmp_path / "missing" / "a.json", {})
    (tmp_path / "dir.json").mkdir()
    with pytest.raises(OutputError):
        write_json_atomic(tmp_path / "dir.json", {})
    assert [p.name for p in tmp_path.iterdir()] == ["dir.json"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not JSON"),
        (b'{"a": 1, "a": 2}', "`a` stands twice"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not JSON"),
        (b"", "not JSON"),
    ],
)
def test_broken_json_is_told(tmp_path, content, told):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_json(tmp_path / "x.json")


def test_a_missing_json_is_told(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*x\.json: No such file"):
        read_json(tmp_path / "x.json")


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomic(path, {"a": [float("nan"), 1.5, (float("inf"),)], "b": {"c": -float("inf")}})
    assert read_json(path) == {"a": [None, 1.5, [None]], "b": {"c": None}}
