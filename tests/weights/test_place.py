"""Where an output may stand."""

from collections import namedtuple
from pathlib import Path

import pytest

from lamina.core.errors import OutputError
from lamina.weights import place
from lamina.weights.place import check_disk, check_output, free_bytes, part_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    return folder


def refuse(out: Path, inputs: list[Path], *says: str, overwrite: bool = False) -> None:
    with pytest.raises(OutputError) as caught:
        check_output(out, inputs, overwrite=overwrite)
    for word in says:
        assert word in str(caught.value), (word, str(caught.value))


def test_in_or_around_an_input_is_refused_even_to_overwrite(model: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(model)
    around = [model, model / "out", model / "a" / "b", model.parent, tmp_path, tmp_path / "alias"]
    for out in [*around, tmp_path / "alias" / "out", model / ".." / "base" / "x"]:
        for overwrite in (False, True):
            refuse(out, [model], str(model), "never written into", overwrite=overwrite)
    check_output(model.parent / "base2", [model], overwrite=False)
    check_output(model.parent / "bas", [model], overwrite=False)


def test_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_output(out, [], overwrite=False)
    (out / "x").write_text("mine")
    refuse(out, [], "not empty", "--overwrite")
    refuse(out, [], "not written by lamina", "manifest.json", overwrite=True)
    (out / "manifest.json").write_text("{}")
    refuse(out, [], "not empty", "--overwrite")
    check_output(out, [], overwrite=True)


def test_a_file_a_link_and_no_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for overwrite in (False, True):
        refuse(tmp_path / "file", [], "is a file", overwrite=overwrite)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    refuse(tmp_path / "link", [], "is a link", str(tmp_path / "there"))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    refuse(tmp_path / "dangling", [], "is a link")
    for name in (".", "..", "/"):
        refuse(Path(name), [], "no name for an output")
    refuse(tmp_path / ("x" * 250), [], "too long a name")
    refuse(tmp_path / ("ü" * 120), [], "too long a name")


def test_the_disk_must_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "out"
    assert free_bytes(out) > 0
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(place.shutil, "disk_usage", lambda _: usage(0, 0, 100 << 20))
    check_disk(out, 36 << 20)
    with pytest.raises(OutputError, match=r"needs 37,748,737 bytes .* 104,857,600 left. Free 1 "):
        check_disk(out, (36 << 20) + 1)
    part = part_folder(out)
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(bytes(1 << 20))
    check_disk(out, (36 << 20) + 1)  # what an interrupted run left is room
