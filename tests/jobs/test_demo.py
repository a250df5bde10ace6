"""The demo on its own models, with a few held-out rows instead of all."""

import gzip
import json
from pathlib import Path

import pytest

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import read_json
from lamina.core.yaml import dump_yaml
from lamina.jobs import controls, demo
from lamina.jobs.watch import Watcher
from lamina.versatune.recipe import read_tune_recipe
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
        if domain in ("code", "math", "unwanted", "instruct"):
            rows = [json.loads(line) for line in _lines(path)[:3]]
            texts[domain] = tmp_path / f"{domain}.jsonl"
            texts[domain].write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(texts) == 4
    monkeypatch.setattr(controls, "bundled_texts", lambda: texts)
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))
    small = _small(demo.tune_recipes(demo.list_members()), tmp_path)
    monkeypatch.setattr(demo, "tune_recipes", lambda members: small)
    layers = _small_layers(demo.layer_recipes(demo.list_members()), small)
    monkeypatch.setattr(demo, "layer_recipes", lambda members: layers)
    out = tmp_path / "demo"
    watch = Lines()
    told = demo.run_demo(out, watch)
    metrics = read_json(out / "metrics.json")
    assert metrics["order"] == [
        "base", "instruct", "math", "code", "unwanted", "LATA", "task arithmetic",
        "with unwanted", "forget", "forget by rank",
    ]  # fmt: skip
    assert set(metrics["models"]) == set(metrics["order"])
    before = metrics["models"]["with unwanted"]["unwanted"]["loss"]
    assert metrics["models"]["forget"]["unwanted"]["loss"] > before
    assert len(metrics["controls"]["rows"]) == 1 + 1 + 5 + 1
    page = Path(told["page"]).read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!DOCTYPE html>")
    assert "What the instruct model knows" in page
    assert "Tuning it with weights that move" in page
    assert "Which modules of the raw model matter" in page
    assert "What this does not show" in page
    numbers = read_json(out / "layers.json")
    modules = {name: run["price"]["modules"] for name, run in numbers["runs"].items()}
    assert modules == {"all": 56, "top_30": 17}
    assert [(pair["first"], pair["second"]) for pair in numbers["pairs"]] == [("top_30", "all")]
    tuned = open_adapter(out / "layers" / "top_30" / "model")
    assert len(tuned.modules) == 17
    assert (out / "layers" / "top_30.yaml").is_file()
    shares = read_json(out / "detect" / "shares.json")["shares"]
    lines = [json.loads(line) for line in _lines(out / "tune" / "domains.jsonl")]
    assert lines[0]["weights"] == pytest.approx(shares, abs=1e-3)
    assert len(lines) == 2
    assert (out / "tune" / "model" / "model.safetensors").is_file()
    assert not [line for line in watch.lines if line.startswith(" ")]
    (out / "mine.txt").write_text("kept?")
    (out / demo.MARK).unlink()
    with pytest.raises(OutputError, match="no earlier demo"):
        demo.run_demo(out, Watcher())
    assert (out / "mine.txt").is_file()


def test_the_demos_tuning_is_a_recipe_for_six_domains_that_begins_at_what_is_known(
    tmp_path: Path,
) -> None:
    recipes = demo.tune_recipes(demo.list_members())
    path = tmp_path / "tune.yaml"
    path.write_text(dump_yaml(recipes["tune"]))
    recipe = read_tune_recipe(path)
    assert tuple(recipe.domains) == demo.DOMAINS
    assert [stage.policy for stage in recipe.mixture] == ["foster"]
    assert recipe.mixture[0].detected == "detect"
    assert recipe.mixture[0].reference.way == "tuned"
    assert recipes["detect"]["domains"] == recipes["tune"]["domains"]


def test_rows_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = demo.list_members()
    monkeypatch.setattr(demo, "demo_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"rows are missing.*law_text\.jsonl\.gz"):
        demo.tune_recipes(members)


class Lines(Watcher):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def _small(recipes: dict, folder: Path) -> dict:
    """The demo's detection and tuning on 40 rows of two domains, in seconds."""
    domains = {}
    for name in ("law", "code"):
        path = folder / f"{name}_rows.jsonl"
        path.write_text("\n".join(_lines(demo.demo_folder() / f"domains/{name}.jsonl.gz")[:40]))
        domains[name] = [str(path)]
    detect, tune = recipes["detect"], recipes["tune"]
    mixture = tune["mixture"] | {"reference": {"way": "fraction"}}
    train = tune["train"] | {"windows": 2, "window_steps": 1, "batch_size": 1}
    return {
        "detect": {"domains": domains, "detect": detect["detect"] | {"texts": 4, "repeats": 2}},
        "tune": tune | {"domains": domains, "mixture": mixture, "train": train, "general": None},
    }


def _small_layers(recipes: tuple, small: dict) -> tuple:
    """The demo's ranking and two of its tunings, in seconds."""
    ranking, tunings = recipes
    shared = {
        "domains": {"instruct": small["tune"]["domains"]["code"]},
        "data": {"max_length": 128, "heldout_rows": 2},
    }
    train = ranking["train"] | {"windows": 1, "window_steps": 1, "batch_size": 1}
    gates = {"batches": 1, "rows": 1}
    ranking |= shared | {"train": train, "gates": gates, "beside": ["delta_norm"]}
    for recipe in tunings.values():
        recipe |= shared | {"train": recipe["train"] | {"window_steps": 1, "batch_size": 1}}
    return ranking, {name: tunings[name] for name in ("all", "top_30")}


def _lines(path: Path) -> list[str]:
    """Split at line feeds only: a row may hold other line ends."""
    found = path.read_bytes()
    text = gzip.decompress(found) if path.suffix == ".gz" else found
    return text.decode().rstrip("\n").split("\n")
