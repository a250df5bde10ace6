"""The models of a recipe: roles, warnings, common rows of vocabularies, adapters as experts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf

from lamina.core.errors import CheckpointError
from lamina.jobs import run_merge
from lamina.merge.inputs import open_inputs, same_files
from lamina.merge.recipe import from_dict
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.checkpoint import open_checkpoint

F = np.float32
VOCABULARY = ("lm_head.weight", "model.embed_tokens.weight")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tf.write_family(tmp_path, "F32")
    return tmp_path


def lata(**more: Any) -> dict[str, Any]:
    return {
        "merge_method": "lata",
        "base_model": "./base",
        "instruct_model": "./instruct",
        "models": [{"model": "./math", "parameters": {"weight": 0.5}}],
        "parameters": {"rule": "linear_drop", "others": "merge"},
    } | more


def arithmetic(**more: Any) -> dict[str, Any]:
    models = [{"model": "./math", "parameters": {"weight": 0.5}}]
    return {"merge_method": "task_arithmetic", "base_model": "./instruct", "models": models} | more


def merge(home: Path, recipe: dict[str, Any], out: str = "out") -> dict[str, Any]:
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    return run_merge(home / "recipe.yaml", home / out)


def open_all(home: Path, recipe: dict[str, Any]) -> Any:
    return open_inputs(from_dict(recipe, "test"), home)


def with_vocabulary(home: Path, name: str, rows: int) -> tf.Tensors:
    """The member again, with its vocabulary cut, or lengthened by rows of its own."""
    tensors = tf.members()[name]
    for key in VOCABULARY:
        extra = np.full((max(0, rows - tf.VOCABULARY), tf.HIDDEN), 0.5, F)
        tensors[key] = np.concatenate([tensors[key], extra])[:rows]
    (home / name / "model.safetensors").unlink()
    tf.write_model(home / name, tensors, "F32", config={"vocab_size": rows})
    return tensors


# Roles


def test_roles(home: Path) -> None:
    found = open_all(home, lata())
    assert found.target is found.reference
    assert found.target.path.name == "instruct"
    assert found.base.path.name == "base"
    assert list(found.experts) == ["math"]
    assert found.typed == {
        "reference": "./instruct", "base": "./base", "target": "./instruct", "math": "./math"
    }  # fmt: skip
    assert list(found.named()) == ["target", "reference", "base", "math"]
    assert found.warnings == ()


def test_roles_of_linear_and_slerp(home: Path) -> None:
    linear = open_all(home, {
        "merge_method": "linear",
        "models": [{"model": f"./{n}", "parameters": {"weight": 1}} for n in ("math", "code")],
    })  # fmt: skip
    assert (linear.reference, linear.base, linear.target.path.name) == (None, None, "math")
    slerp = open_all(home, {
        "merge_method": "slerp",
        "base_model": "./instruct",
        "models": [{"model": "./math"}],
        "parameters": {"t": 0.5},
    })  # fmt: skip
    assert list(slerp.experts) == ["base", "math"]
    assert slerp.target.path.name == "instruct"


def test_paths_begin_at_the_recipe_or_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "math")
    assert open_all(home, lata()).target.path == home / "instruct"
    assert open_all(home / "base", lata(
        base_model="../base", instruct_model="../instruct",
        models=[{"model": "../math", "parameters": {"weight": 1}}],
    )).base.path.resolve() == home / "base"  # fmt: skip


def test_same_files(home: Path) -> None:
    (home / "way").symlink_to(home / "math")
    (home / "linked").mkdir()
    for file in ("config.json", "model.safetensors"):
        (home / "linked" / file).hardlink_to(home / "math" / file)
    math, way, linked, code = (open_checkpoint(home / n) for n in ("math", "way", "linked", "code"))
    assert same_files(math, way)
    assert not same_files(math, linked)  # two names of one inode: caught by the values
    assert not same_files(math, code)


# Vocabularies of different sizes


@pytest.mark.parametrize("rows", [90, 104])
@pytest.mark.parametrize("which", ["math", "base"])
def test_common_rows(which: str, rows: int, home: Path) -> None:
    """The first common rows are merged as if there were no others; the rest is the target's."""
    whole = merge(home, lata(), "whole")
    assert whole["warnings"] == []
    scores = json.loads((home / "whole" / "scores.json").read_text())
    with_vocabulary(home, which, rows)
    told = merge(home, lata())["warnings"]
    assert sum("another vocabulary" in line for line in told) == 2
    common = min(rows, tf.VOCABULARY)
    one, other = tf.read_model(home / "whole"), tf.read_model(home / "out")
    instruct = tf.read_model(home / "instruct")
    for name, values in other.items():
        if name in VOCABULARY and which == "math":
            assert np.array_equal(values[:common], one[name][:common])
            assert np.array_equal(values[common:], instruct[name][common:])
        else:
            assert np.array_equal(values, one[name])
    again = json.loads((home / "out" / "scores.json").read_text())
    assert again["experts"]["math"]["values"] == scores["experts"]["math"]["values"]


@pytest.mark.parametrize("rows", [90, 104])
def test_target_of_another_vocabulary(rows: int, home: Path) -> None:
    """The output has the target's rows; the sums of the first pass know how many are common."""
    merge(home, lata(), "whole")
    tf.write_model(home / "german", tf.moved(tf.members()["instruct"], 8), "F32")
    extra = np.full((rows, tf.HIDDEN), 0.5, F)
    target = tf.moved(tf.members()["instruct"], 8)
    for name in VOCABULARY:
        target[name] = np.concatenate([target[name], extra])[:rows]
    tf.write_model(home / "german", target, "F32", config={"vocab_size": rows})
    merge(home, lata(target_model="./german"))
    found, common = tf.read_model(home / "out"), min(rows, tf.VOCABULARY)
    instruct, math = tf.members()["instruct"], tf.members()["math"]
    for name in VOCABULARY:
        assert found[name].shape == (rows, tf.HIDDEN)
        update = (math[name] - instruct[name])[:common] * F(0.5)
        assert np.array_equal(found[name][:common], target[name][:common] + update)
        assert np.array_equal(found[name][common:], target[name][common:])
    table = json.loads((home / "out" / "scores.json").read_text())["where"]["math"]
    fresh = {n: (math[n] - instruct[n]).astype(np.float64) for n in math}
    for name in VOCABULARY:
        fresh[name] = fresh[name][:common]
    total = sum(float((v**2).sum()) for v in fresh.values())
    embedding = float((fresh["model.embed_tokens.weight"] ** 2).sum())
    assert table["embedding"] == pytest.approx(embedding / total, rel=1e-5)


@pytest.mark.parametrize("method", ["ties", "dare_linear"])
def test_common_rows_with_a_sparsifier(method: str, home: Path) -> None:
    """The density is a share of the common rows."""
    math = with_vocabulary(home, "math", 90)
    recipe = arithmetic(merge_method=method, parameters={"density": 0.3, "normalize": False})
    merge(home, recipe | {"dtype": "float32"})
    instruct, found = tf.read_model(home / "instruct"), tf.read_model(home / "out")
    for name in VOCABULARY:
        changed = found[name] != instruct[name]
        assert not changed[90:].any()
        if method == "ties":
            assert changed.sum() <= int(0.3 * math[name].size)
            assert changed.sum() > 0.29 * math[name].size


# Adapters


def write_adapter(home: Path, seed: int = 5, name: str = "lora", scale: float = 2.0) -> tf.Tensors:
    """A LoRA adapter of rank 2 on q_proj and up_proj; returns the instruct model with it in."""
    rng = np.random.default_rng(seed)
    (home / name).mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2 * scale, "bias": "none"}
    config |= {"target_modules": ["q_proj", "up_proj"], "base_model_name_or_path": "../instruct"}
    (home / name / "adapter_config.json").write_text(json.dumps(config))
    merged, entries = tf.members()["instruct"], {}
    for key, values in merged.items():
        if "q_proj" in key or "up_proj" in key:
            a = (0.1 * rng.standard_normal((2, values.shape[1]))).astype(F)
            b = (0.1 * rng.standard_normal((values.shape[0], 2))).astype(F)
            module = f"base_model.model.{key.removesuffix('.weight')}"
            entries[f"{module}.lora_A.weight"] = ("F32", a.shape, tf.raw_of(a, "F32"))
            entries[f"{module}.lora_B.weight"] = ("F32", b.shape, tf.raw_of(b, "F32"))
            merged[key] = values + F(scale) * (b @ a)
    tf.write_safetensors(home / name / "adapter_model.safetensors", entries)
    return merged


def test_adapter_is_opened_on_the_instruct_model(home: Path) -> None:
    write_adapter(home)
    models = [{"model": "./lora", "parameters": {"weight": 1}}]
    found = open_all(home, lata(models=models))
    assert isinstance(found.experts["lora"], AdaptedCheckpoint)
    assert found.experts["lora"].base is found.reference


@pytest.mark.parametrize("kind", ["lata", "task_arithmetic", "ties"])
def test_adapter_equals_the_merged_folder(kind: str, home: Path) -> None:
    merged = write_adapter(home)
    tf.write_model(home / "merged", merged, "F32")
    found, scores = {}, {}
    for name in ("lora", "merged"):
        models = [
            {"model": f"./{name}", "name": "x", "parameters": {"weight": 0.5}},
            {"model": "./math", "parameters": {"weight": 0.5}},
        ]
        recipe = lata(models=models) if kind == "lata" else arithmetic(models=models)
        if kind == "ties":
            recipe |= {"merge_method": "ties", "parameters": {"density": 0.5}}
        merge(home, recipe, f"out-{name}")
        found[name] = tf.read_model(home / f"out-{name}")
        table = json.loads((home / f"out-{name}" / "scores.json").read_text())
        scores[name] = table["experts"]["x"]["values"]
    for name, values in found["lora"].items():
        assert np.allclose(values, found["merged"][name], rtol=1e-5, atol=1e-6), name
    for unit, value in scores["lora"].items():
        assert value == pytest.approx(scores["merged"][unit], rel=1e-4)


def test_adapter_in_a_linear_merge(home: Path) -> None:
    """`linear` adds whole models: the adapter is one on its own base."""
    merged = write_adapter(home)
    models = [
        {"model": "./instruct", "parameters": {"weight": 1}},
        {"model": "./lora", "parameters": {"weight": 3}},
    ]
    merge(home, {"merge_method": "linear", "models": models})
    for name, values in tf.read_model(home / "out").items():
        wanted = 0.25 * tf.members()["instruct"][name] + 0.75 * merged[name]
        assert np.allclose(values, wanted, rtol=1e-5, atol=1e-6), name


def test_all_misfits_at_once(home: Path) -> None:
    for name in ("math", "code"):
        tensors = tf.members()[name]
        del tensors["model.layers.0.mlp.up_proj.weight"]
        tf.write_model(home / name, tensors, "F32")
    models = [{"model": f"./{n}", "parameters": {"weight": 1}} for n in ("math", "code")]
    with pytest.raises(CheckpointError, match=r"(?s)\./math.*missing.*\./code.*missing"):
        open_all(home, lata(models=models))
