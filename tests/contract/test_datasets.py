"""What we rely on in `datasets` when a set of the Hub, or a folder with subsets, is read."""

import json
from pathlib import Path

import datasets
import pytest


def _write(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_script_beside_the_rows_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "set.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    _write(folder / "a.jsonl", {"text": "a"})
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        datasets.load_dataset(str(folder), "x", cache_dir=str(tmp_path / "cache"))
    assert not ran.exists()


def test_without_a_split_a_dict_of_splits_comes_back(tmp_path: Path) -> None:
    folder, cache = tmp_path / "set", str(tmp_path / "cache")
    folder.mkdir()
    _write(folder / "train.jsonl", {"text": "a"})
    _write(folder / "test.jsonl", {"text": "b"})
    loaded = datasets.load_dataset(str(folder), None, split=None, cache_dir=cache)
    assert isinstance(loaded, dict)
    assert sorted(map(str, loaded)) == ["test", "train"]
    one = datasets.load_dataset(str(folder), None, split="train", cache_dir=cache)
    assert one.to_list() == [{"text": "a"}]


def test_rows_keep_lists_of_messages(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _write(tmp_path / "a.jsonl", {"messages": said})
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == [{"messages": said}]


def test_offline_an_unknown_name_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises((ConnectionError, FileNotFoundError)):
        datasets.load_dataset("no-such/set", cache_dir=str(tmp_path))
