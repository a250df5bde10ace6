import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import DataError
from lamina.data.recipe import SourceSpec
from lamina.data.sources import files_of, locate, read_source


def _jsonl(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def _texts(home: Path, path: Any, **keys: Any) -> list[str]:
    rows = read_source(SourceSpec(path=str(path), **keys), home=home)
    return [row["text"] for _, row in rows]


def _refused(home: Path, path: Any, *words: str, **keys: Any) -> None:
    with pytest.raises(DataError) as refusal:
        read_source(SourceSpec(path=str(path), **keys), home=home)
    for word in (str(path), *words):
        assert word in str(refusal.value), (word, str(refusal.value))


def test_a_file_beside_the_recipe_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    _jsonl(home / "a.jsonl", "home")
    _jsonl(here / "a.jsonl", "here")
    _jsonl(here / "b.jsonl", "here b")
    monkeypatch.chdir(here)
    assert _texts(home, "a.jsonl") == ["home"]
    assert _texts(home, "b.jsonl") == ["here b"]
    assert _texts(home, here / "a.jsonl") == ["here"]
    assert locate("c.jsonl", home=home) is None
    assert locate("a" * 5000, home=home) is None
    assert locate("a\0b", home=home) is None
    assert locate("~nobody-here/a", home=home) is None


def test_a_missing_file_is_refused_with_a_near_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _jsonl(tmp_path / "data" / "law.jsonl", "a")
    monkeypatch.chdir(tmp_path / "data")
    _refused(tmp_path, "data/lwa.jsonl", "No such file", str(tmp_path), "did you mean `law.jsonl`")
    _refused(tmp_path, "../no/such/folder", "No such file")


def test_split_and_subset_of_a_file_are_refused(tmp_path: Path) -> None:
    _jsonl(tmp_path / "a.jsonl", "a")
    _refused(tmp_path, "a.jsonl", "`split` can only be said", split="train")
    _refused(tmp_path, "a.jsonl", "`split` and `subset`", split="train", subset="x")


def test_a_folder_gives_its_files_in_order(tmp_path: Path) -> None:
    _jsonl(tmp_path / "set" / "b.jsonl", "b1", "b2")
    _jsonl(tmp_path / "set" / "a" / "z.jsonl", "a")
    (tmp_path / "set" / "c.txt").write_text("c")
    _jsonl(tmp_path / "set" / ".hidden.jsonl", "no")
    _jsonl(tmp_path / "set" / ".git" / "x.jsonl", "no")
    (tmp_path / "set" / "README.md").write_text("no rows")
    assert _texts(tmp_path, "set") == ["a", "b1", "b2", "c"]
    places = [place for place, _ in read_source(SourceSpec(path="set/"), home=tmp_path)]
    assert places == ["set/a/z.jsonl:1", "set/b.jsonl:1", "set/b.jsonl:2", "set/c.txt:1"]
    names = [path.name for path in files_of(SourceSpec(path="set"), home=tmp_path)]
    assert names == ["z.jsonl", "b.jsonl", "c.txt"]


def test_a_folder_with_splits_needs_one_to_be_named(tmp_path: Path) -> None:
    _jsonl(tmp_path / "set" / "data" / "train-00000-of-00002.jsonl", "a")
    _jsonl(tmp_path / "set" / "data" / "train-00001-of-00002.jsonl", "b")
    _jsonl(tmp_path / "set" / "dev.jsonl", "c")
    assert _texts(tmp_path, "set", split="train") == ["a", "b"]
    assert _texts(tmp_path, "set", split="validation") == _texts(tmp_path, "set", split="dev")
    _refused(tmp_path, "set", "has the splits train, validation", "split: train")
    _refused(tmp_path, "set", "no split `trian`; did you mean `train`?", split="trian")
    _refused(tmp_path, "set", "no split `test`", split="test")


def test_a_word_inside_a_word_names_no_split(tmp_path: Path) -> None:
    _jsonl(tmp_path / "set" / "retraining.jsonl", "a")
    _jsonl(tmp_path / "set" / "contest.jsonl", "b")
    assert _texts(tmp_path, "set") == ["b", "a"]


def test_broken_files_of_a_folder_are_told_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _jsonl(tmp_path / "set" / f"{name}.jsonl").write_text("{")
    _refused(tmp_path, "set", "set/a.jsonl: 1 row of 1", "set/b.jsonl: 1 row of 1", "line 1")


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    _refused(tmp_path, "set", "is a folder without a file of rows", ".jsonl")


def test_a_folder_with_subsets_goes_through_datasets(tmp_path: Path) -> None:
    _jsonl(tmp_path / "set" / "data" / "x.jsonl", "a", "b")
    _jsonl(tmp_path / "set" / "data" / "y.jsonl", "c")
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: data/x.jsonl\n"
        "- config_name: two\n  data_files: data/y.jsonl\n---\n"
    )
    assert _texts(tmp_path, "set", subset="one") == ["a", "b"]
    assert _texts(tmp_path, "set", subset="two", split="train") == ["c"]
    rows = read_source(SourceSpec(path="set", subset="one"), home=tmp_path)
    assert [place for place, _ in rows] == ["set/one:1", "set/one:2"]
    _refused(tmp_path, "set", "cannot load it", "'three' not found", "one", subset="three")
    _refused(tmp_path, "set", 'Unknown split "tset"', subset="one", split="tset")


def test_a_folder_that_was_saved_to_disk_is_read(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list([{"text": "a"}])
    one.save_to_disk(tmp_path / "one")
    two = datasets.DatasetDict({"train": one, "test": datasets.Dataset.from_list([{"text": "b"}])})
    two.save_to_disk(tmp_path / "two")
    assert _texts(tmp_path, "one") == ["a"]
    assert _texts(tmp_path, "two", split="test") == ["b"]
    _refused(tmp_path, "two", "has the splits train, test")
    (tmp_path / "one" / "state.json").write_text("{")
    _refused(tmp_path, "one", "`datasets` cannot load it")


class Hub:
    """Stands for `datasets.load_dataset`: splits -> rows, and what it was asked."""

    def __init__(self, load: Callable[[str | None], Any]) -> None:
        self.load = load
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, path: str, name: str | None, *, split: Any, cache_dir: Any) -> Any:
        self.asked.append((path, name, split, cache_dir))
        return self.load(split)


def _hub(monkeypatch: pytest.MonkeyPatch, load: Callable[[str | None], Any]) -> Hub:
    import datasets

    hub = Hub(load)
    monkeypatch.setattr(datasets, "load_dataset", hub)
    return hub


def test_a_set_of_the_hub_is_asked_of_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    hub = _hub(monkeypatch, lambda split: rows if split else datasets.DatasetDict({"train": rows}))
    assert _texts(tmp_path, "org/name", split="train[:2]", subset="en") == ["a", "b"]
    assert _texts(tmp_path, "name") == ["a", "b"]
    assert hub.asked == [("org/name", "en", "train[:2]", None), ("name", None, None, None)]
    places = [place for place, _ in read_source(SourceSpec(path="org/name"), home=tmp_path)]
    assert places == ["org/name:1", "org/name:2"]
    assert files_of(SourceSpec(path="org/name"), home=tmp_path) == []
    assert not datasets.are_progress_bars_disabled()


def test_a_set_of_the_hub_with_splits_needs_one_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"text": "a"}])
    splits = datasets.DatasetDict({"train": rows, "test": rows})
    _hub(monkeypatch, lambda split: splits)
    _refused(tmp_path, "org/name", "has the splits train, test")


def test_a_set_of_the_hub_without_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    empty = datasets.Dataset.from_dict({"text": []})
    _hub(monkeypatch, lambda split: empty if split else datasets.DatasetDict())
    _refused(tmp_path, "org/name", "has no rows", split="train")
    _refused(tmp_path, "org/name", "has no splits")


@pytest.mark.parametrize("error", [OSError("down"), RuntimeError("down"), Exception("down")])
def test_whatever_the_hub_raises_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load(split: str | None) -> None:
        raise error

    _hub(monkeypatch, load)
    _refused(tmp_path, "org/name", f"{type(error).__name__}: down.", "no file or folder")


def test_a_name_that_the_hub_cannot_give_offline_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path, "no-such/set", "cannot load it", "Couldn't reach", str(tmp_path))


def test_a_local_file_needs_no_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.ModuleType("datasets"))
    _jsonl(tmp_path / "a.jsonl", "a")
    assert _texts(tmp_path, "a.jsonl") == ["a"]
