"""The demo on its own models, with a few held-out rows instead of all."""

import json
from pathlib import Path

import pytest

from lamina.core.errors import OutputError
from lamina.core.manifest import read_json
from lamina.jobs import controls, demo
from lamina.jobs.watch import Watcher
from lamina.weights.adapter import is_adapter, open_adapter
from lamina.weights.checkpoint import open_checkpoint


def test_members_are_models_and_adapters_of_one_family() -> None:
    members = {name: Path(folder) for name, folder in demo.list_members().items()}
    assert list(members) == ["base", "instruct", "math", "code", "unwanted"]
    whole = {name: open_checkpoint(p) for name, p in members.items() if not is_adapter(p)}
    assert set(whole) == {"base", "instruct", "math"}
    assert {model.layers.num_blocks for model in whole.values()} == {8}
    assert all(open_adapter(members[name]).modules for name in ("code", "unwanted"))
    weights = [f for folder in members.values() for f in folder.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in weights) <= 25_000_000


def test_losses_of_the_card_say_what_was_promised() -> None:
    """Each expert beats instruct on its own domain, the base beats a unigram model by far."""
    losses = read_json(demo.demo_folder() / "losses.json")["losses"]
    for expert in ("math", "code", "unwanted"):
        assert losses[expert][expert]["loss"] < losses["instruct"][expert]["loss"] - 1
    for domain, told in losses["unigram"].items():
        assert losses["base"][domain]["loss"] < told["loss"] - 1, domain


def test_the_demo_runs_and_replaces_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {}
    for domain, path in controls.bundled_texts().items():
        if domain in ("code", "math", "unwanted"):
            rows = [json.loads(line) for line in _lines(path)[:3]]
            texts[domain] = tmp_path / f"{domain}.jsonl"
            texts[domain].write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(texts) == 3
    monkeypatch.setattr(controls, "bundled_texts", lambda: texts)
    out = tmp_path / "demo"
    told = demo.run_demo(out, Watcher())
    metrics = read_json(out / "metrics.json")
    assert metrics["order"] == [
        "base", "instruct", "math", "code", "unwanted", "LATA", "task arithmetic",
        "with unwanted", "forget", "forget by rank",
    ]  # fmt: skip
    assert set(metrics["models"]) == set(metrics["order"])
    before = metrics["models"]["with unwanted"]["unwanted"]["loss"]
    assert metrics["models"]["forget"]["unwanted"]["loss"] > before
    assert len(metrics["controls"]["rows"]) == 1 + 1 + 5 + 1
    assert Path(told["page"]).read_text(encoding="utf-8").lstrip().startswith("<!DOCTYPE html>")
    (out / "mine.txt").write_text("kept?")
    (out / demo.MARK).unlink()
    with pytest.raises(OutputError, match="no earlier demo"):
        demo.run_demo(out, Watcher())
    assert (out / "mine.txt").is_file()


def _lines(path: Path) -> list[str]:
    import gzip

    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return stream.read().splitlines()
