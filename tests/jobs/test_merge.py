"""A merge from recipe to finished folder: sweeps, checksums, resuming, what the manifest says."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf

from lamina.core.errors import CheckpointError, OutputError
from lamina.jobs import merge as module
from lamina.jobs import run_merge
from lamina.jobs.verify import verify_folder
from lamina.merge import apply as apply_module


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tf.write_family(tmp_path)
    return tmp_path


def lata(**more: Any) -> dict[str, Any]:
    return {
        "merge_method": "lata",
        "base_model": "./base",
        "instruct_model": "./instruct",
        "models": [
            {"model": "./math", "parameters": {"weight": 0.5}},
            {"model": "./code", "parameters": {"weight": 0.5}},
        ],
        "parameters": {"rule": "linear_drop"},
    } | more


def arithmetic(**more: Any) -> dict[str, Any]:
    text = lata(merge_method="task_arithmetic", base_model="./instruct") | more
    return {key: value for key, value in text.items() if key not in ("instruct_model",)} | {
        "parameters": more.get("parameters", {})
    }


def merge(home: Path, text: dict[str, Any], out: str = "out", **options: Any) -> dict[str, Any]:
    (home / "recipe.yaml").write_text(json.dumps(text))
    return run_merge(home / "recipe.yaml", home / out, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the log."""
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name != "log.jsonl"
    }


# Sweeps


@pytest.mark.parametrize("make", [lata, arithmetic], ids=["lata", "task_arithmetic"])
def test_sweep_equals_single_runs(make: Any, home: Path) -> None:
    sweep = [{"weight": 0.25}, {"weights": {"math": 1.0, "code": 0}}]
    manifest = merge(home, make(sweep=sweep, max_shard_size="60KB"))
    assert manifest["kind"] == "sweep"
    folders = sorted(path.name for path in (home / "out").iterdir() if path.is_dir())
    assert folders == ["code-0_math-1", "weight-0.25"]
    assert set(manifest["results"]) == set(folders)
    for folder, weights in (("weight-0.25", (0.25, 0.25)), ("code-0_math-1", (1.0, 0))):
        one = make(max_shard_size="60KB")
        for model, weight in zip(one["models"], weights, strict=True):
            model["parameters"] = {"weight": weight}
        (home / "single").mkdir(exist_ok=True)
        merge(home, one, f"single/{folder}")
        assert contents(home / "out" / folder) == contents(home / "single" / folder)
    assert verify_folder(home / "out") == []


# Checksums


def flip(file: Path, at: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(bytes(raw))


def test_verify_finds_one_flipped_bit(home: Path) -> None:
    merge(home, arithmetic(max_shard_size="60KB"))
    files = sorted((home / "out").glob("*.safetensors"))
    assert len(files) > 1
    assert verify_folder(home / "out") == []
    for file in files:
        size = file.stat().st_size
        for at in (size - 1, size // 2):
            flip(file, at)
            assert verify_folder(home / "out") == [f"{file.name}: other contents than were written"]
            flip(file, at)
    assert verify_folder(home / "out") == []
    with files[0].open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CheckpointError, match="end"):
        verify_folder(home / "out")
    files[0].unlink()
    assert verify_folder(home / "out") == [f"{files[0].name}: missing"]


def test_inputs_have_one_checksum_whatever_their_layout(home: Path) -> None:
    first = merge(home, lata(), "first")["inputs"]
    for name in ("base", "math"):
        tensors = tf.read_model(home / name)
        (home / name / "model.safetensors").unlink()
        tf.write_model(home / name, tensors, shards=3, order=-1)
    second = merge(home, lata(), "second")["inputs"]
    assert {n: e["checksum"] for n, e in first.items()} == {
        n: e["checksum"] for n, e in second.items()
    }
    assert first["math"]["fingerprint"] != second["math"]["fingerprint"]
    third = merge(home, arithmetic(), "third")["inputs"]
    assert third["math"]["checksum"] == first["math"]["checksum"]


def test_a_tensor_of_zeros_has_a_checksum_too(home: Path) -> None:
    """The checksum of an input is over all its tensors, those of zeros as well."""
    zeros = "model.layers.0.mlp.up_proj.weight"
    for name in ("base", "instruct", "math", "code"):
        tensors = tf.read_model(home / name) | {zeros: np.zeros((96, 48), np.float32)}
        tf.write_model(home / name, tensors)
    whole, passed = merge(home, arithmetic(), "one"), merge(home, lata(), "two")
    for name in ("math", "code"):
        assert whole["inputs"][name]["checksum"] == passed["inputs"][name]["checksum"]


# What an output is


def test_files_and_manifest(home: Path) -> None:
    (home / "instruct" / "tokenizer.json").write_text("{}")
    (home / "instruct" / "generation_config.json").write_text('{"eos_token_id": 2}')
    (home / "instruct" / "evil.py").write_text("")
    (home / "instruct" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# instruct\n")
    (home / "math" / "README.md").write_text("---\nlicense: mit\n---\n")
    told = merge(home, lata())
    names = {path.name for path in (home / "out").iterdir()}
    assert names == set(
        "model.safetensors config.json tokenizer.json generation_config.json README.md recipe.yaml "
        "scores.json plan.json manifest.json report.html log.jsonl".split()
    )
    assert (home / "out" / "config.json").read_bytes() == (
        home / "instruct" / "config.json"
    ).read_bytes()
    manifest = json.loads((home / "out" / "manifest.json").read_text())
    assert manifest == json.loads(json.dumps(told))
    assert list(manifest["inputs"]) == ["base", "code", "instruct", "math"]
    licenses = {name: entry["license"] for name, entry in manifest["inputs"].items()}
    assert licenses == {"base": None, "code": None, "instruct": "apache-2.0", "math": "mit"}
    size = (home / "out" / "model.safetensors").stat().st_size
    assert manifest["outputs"]["model.safetensors"]["bytes"] == size
    assert manifest["results"]["tensors"] == 30
    assert manifest["results"]["tensors_changed"] == 27
    assert manifest["status"] == "complete"
    card = (home / "out" / "README.md").read_text()
    for word in ("merge_method: lata", "apache-2.0", "mit", "linear_drop", "lamina"):
        assert word in card
    shares = json.loads((home / "out" / "scores.json").read_text())["where"]
    assert all(sum(table.values()) == pytest.approx(1) for table in shares.values())


def test_recipe_in_the_output_runs_again(home: Path) -> None:
    """recipe.yaml finds the models from where it lies and gives the same tensors."""
    merge(home, lata(parameters={"rule": "log_drop", "method": "dare", "density": 0.5, "seed": 4}))
    run_merge(home / "out" / "recipe.yaml", home / "again")
    assert tf.read_bytes(home / "again") == tf.read_bytes(home / "out")


def test_the_page_of_a_forgetting_tells_the_command_that_does_it_again(home: Path) -> None:
    merge(home, lata(models=[{"model": "./math"}]), forget=True)
    assert "lamina merge recipe.yaml ../again" in (home / "out" / "report.html").read_text()
    run_merge(home / "out" / "recipe.yaml", home / "again")
    assert tf.read_bytes(home / "again") == tf.read_bytes(home / "out")


def test_overwrite(home: Path) -> None:
    merge(home, arithmetic())
    old = tf.read_bytes(home / "out")
    (home / "out" / "extra.txt").write_text("from the run before")
    with pytest.raises(OutputError, match="not empty"):
        merge(home, lata())
    assert tf.read_bytes(home / "out") == old
    merge(home, lata(), overwrite=True)
    assert tf.read_bytes(home / "out") != old
    assert not (home / "out" / "extra.txt").exists()
    assert [p.name for p in home.iterdir() if "lamina" in p.name] == []


def test_a_refused_overwrite_keeps_the_old_output(home: Path) -> None:
    merge(home, arithmetic())
    before = contents(home / "out")
    tensors = tf.read_model(home / "math")
    tensors["model.norm.weight"][3] = np.nan
    tf.write_model(home / "math", tensors)
    with pytest.raises(CheckpointError, match="NaN"):
        merge(home, arithmetic(), overwrite=True)
    assert contents(home / "out") == before


def test_dry_run_writes_nothing(home: Path) -> None:
    (home / "recipe.yaml").write_text("")
    before = tf.snapshot(home)
    told = merge(home, lata(), dry_run=True)
    assert set(tf.snapshot(home)) == set(before)
    raw = sum(len(raw) for raw in tf.read_bytes(home / "math").values())
    assert told["bytes_to_write"] > raw
    assert told["bytes_to_write"] < 1.1 * raw + 10_000
    assert told["bytes_to_read"] >= 7 * raw * 0.99  # three passes over four models but one
    assert told["peak_memory_bytes"] < 400 << 20


# Going on


class Stop(Exception):
    """Stands for a kill: nothing is tidied up."""


def test_an_interrupted_run_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after n tensors and started again: the rest is made, all bytes are the same."""
    merge(home, lata(max_shard_size="60KB"))
    (home / "out").rename(home / "whole")
    made: list[str] = []
    real = apply_module._merge

    def counting(*arguments: Any) -> Any:
        if len(made) == limit:
            raise Stop
        made.append(arguments[3].name)
        return real(*arguments)

    monkeypatch.setattr(apply_module, "_merge", counting)
    limit = 11
    with pytest.raises(Stop):
        merge(home, lata(max_shard_size="60KB"), threads=1)
    assert not (home / "out").exists()
    assert (home / ".out.lamina-part").is_dir()
    first, limit = list(made), -1
    made.clear()
    merge(home, lata(max_shard_size="60KB"), threads=1)
    assert len(made) == 30 - 11
    assert not set(made) & set(first)
    assert contents(home / "out") == contents(home / "whole")
    assert not (home / ".out.lamina-part").exists()


@pytest.mark.parametrize("change", ["recipe", "input", "damage"])
def test_what_is_not_gone_on_with(change: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another recipe or another input begins anew; a tensor that was damaged is made again."""
    real = apply_module._merge
    made: list[str] = []

    def counting(*arguments: Any) -> Any:
        if len(made) == limit:
            raise Stop
        made.append(arguments[3].name)
        return real(*arguments)

    monkeypatch.setattr(apply_module, "_merge", counting)
    limit, text = 11, arithmetic()
    with pytest.raises(Stop):
        merge(home, text, threads=1)
    part = home / ".out.lamina-part" / "model.safetensors"
    if change == "recipe":
        text["models"][0]["parameters"]["weight"] = 0.75
    elif change == "input":
        tf.write_model(home / "math", tf.moved(tf.members()["instruct"], 55))
    else:
        raw = part.read_bytes()
        begin = 8 + int.from_bytes(raw[:8], "little")
        entry = json.loads(raw[8:begin])[made[4]]["data_offsets"][0]
        flip(part, begin + entry)
    wanted, limit = made[4], -1
    made.clear()
    merge(home, text, threads=1)
    assert made == [wanted, *made[1:]] if change == "damage" else len(made) == 30
    assert len(made) == (20 if change == "damage" else 30)
    monkeypatch.setattr(apply_module, "_merge", real)
    merge(home, text, "fresh")
    assert tf.read_bytes(home / "out") == tf.read_bytes(home / "fresh")


def test_disk_full_in_mid_write(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    calls = 0
    real = os.pwrite

    def full(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    before = tf.snapshot(home)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OutputError, match=r"No space left.*Nothing was left behind"):
        merge(home, arithmetic())
    monkeypatch.undo()
    left = {name for name in tf.snapshot(home) if not name.startswith("recipe")}
    assert left == set(before)
    assert not (home / ".out.lamina-part").exists()


def test_bytes_that_do_not_read_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a bit is found out before the output has its name."""
    real = module._read_back

    def damaged(partial: Any, out: Path) -> None:
        flip(partial.folder / "model.safetensors", -1)
        real(partial, out)

    monkeypatch.setattr(module, "_read_back", damaged)
    with pytest.raises(OutputError, match="does not read back"):
        merge(home, arithmetic())
    assert not (home / "out").exists()
    assert not (home / ".out.lamina-part").exists()


# Forgetting


def test_forgetting_and_learning_are_one_formula(home: Path) -> None:
    learnt = lata(parameters={"rule": "threshold", "threshold": 0.99})
    for model in learnt["models"]:
        model["parameters"]["weight"] = -1
    merge(home, learnt, "by-hand")
    forgotten = lata(parameters={}, target_model="./instruct")
    for model in forgotten["models"]:
        del model["parameters"]
    forgotten["parameters"] = {"rule": "threshold", "threshold": 0.99}
    manifest = merge(home, forgotten, "forgotten", forget=True)
    assert manifest["kind"] == "forget"
    assert tf.read_bytes(home / "forgotten") == tf.read_bytes(home / "by-hand")


@pytest.mark.parametrize(
    ("threshold", "says"), [(1.0, "every layer is taken whole"), (-1.0, "no layer is taken")]
)
def test_a_threshold_that_chooses_nothing_is_told(threshold: float, says: str, home: Path) -> None:
    parameters = {"rule": "threshold", "threshold": threshold}
    warnings = merge(home, lata(parameters=parameters))["warnings"]
    assert [says in warning for warning in warnings[:2]] == [True, True]
    assert "`math`" in warnings[0]


def test_what_came_into_the_output_during_the_run_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run ended first, or another program wrote there: nobody asked to overwrite it."""

    def apply(*arguments: Any, **options: Any) -> None:
        apply_module.apply(*arguments, **options)
        (home / "out").mkdir()
        (home / "out" / "mine.txt").write_text("mine")

    monkeypatch.setattr(module, "apply", apply)
    with pytest.raises(OutputError, match="is not empty"):
        merge(home, arithmetic())
    assert contents(home / "out") == {"mine.txt": b"mine"}
    assert not (home / ".out.lamina-part").exists()
