"""Streamed merges against the same formulas in memory (numpy, fp32), bit for bit.

`in_memory` is the whole merge of one tensor as the papers have it, every step rounded to fp32 by
itself: delta, coefficient, sparsifier, weight, sum or election, divisor, lambda, target.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf

from lamina.jobs import run_merge
from lamina.merge.methods import noise_key
from lamina.weights import stream
from lamina.weights.sources import Source

F = np.float32
EXPERTS = ("math", "code")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The members in each dtype, and a mix: base fp32, math bf16, code fp16."""
    home = tmp_path_factory.mktemp("family")
    found = {dtype: tf.write_family(home / dtype, dtype) for dtype in ("F32", "F16", "BF16")}
    mixed = {"base": "F32", "instruct": "F32", "math": "BF16", "code": "F16"}
    found["mixed"] = {name: found[dtype][name] for name, dtype in mixed.items()}
    return found


def write_recipe(file: Path, members: dict[str, Path], method: str, **keys: Any) -> Path:
    """A recipe of math and code; `weights` and `densities` are theirs, other keys as they are."""
    weights, densities = keys.pop("weights", (0.5, 0.3)), keys.pop("densities", (None, None))
    models = []
    for name, weight, density in zip(EXPERTS, weights, densities, strict=True):
        own = {"weight": weight} | ({} if density is None else {"density": density})
        models.append({"model": str(members[name]), "name": name, "parameters": own})
    text: dict[str, Any] = {"merge_method": method, "models": models, "dtype": "float32"}
    if method == "lata":
        text |= {"base_model": str(members["base"]), "instruct_model": str(members["instruct"])}
    elif method != "linear":
        text |= {"base_model": str(members["instruct"])}
    file.write_text(json.dumps(text | keys))
    return file


# In memory


def trimmed(delta: np.ndarray, keep: int) -> np.ndarray:
    """The `keep` largest magnitudes; of equal ones the first."""
    order = np.argsort(-np.abs(delta), kind="stable")[:keep]
    kept = np.zeros_like(delta)
    kept[order] = delta[order]
    return kept


def kept_by_noise(size: int, key: int, density: float) -> np.ndarray:
    """splitmix64 of (key, element number): kept where its upper half is below density * 2^32."""
    with np.errstate(over="ignore"):
        h = np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
    return (h >> np.uint64(32)) < np.uint64(int(density * 2**32))


def sparse(delta: np.ndarray, how: str, density: float, rescale: bool, key: int) -> np.ndarray:
    if how == "" or density >= 1:
        return delta
    if how == "ties":
        kept = trimmed(delta, max(1, int(density * delta.size)))
        before, after = (float(np.abs(v).astype(np.float64).sum()) for v in (delta, kept))
        return kept * F(before / after) if rescale else kept
    kept = np.where(kept_by_noise(delta.size, key, density), delta, F(0))
    return kept * F(1 / density) if rescale else kept


def elected(deltas: list[np.ndarray], weights: list[float], normalize: bool) -> np.ndarray:
    mass = np.zeros_like(deltas[0])
    for delta in deltas:
        mass = mass + delta
    total, divisor = np.zeros_like(mass), np.zeros_like(mass)
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = np.where(mass >= 0, delta > 0, delta < 0)
        total = total + np.where(agrees, delta, F(0))
        divisor = divisor + np.where(agrees, F(weight), F(0))
    return total / np.where(divisor == 0, F(1), divisor) if normalize else total


def in_memory(
    name: str,
    target: np.ndarray | None,
    reference: np.ndarray | None,
    experts: list[np.ndarray],
    weights: list[float],
    *,
    coefficients: tuple[float, ...] = (1.0, 1.0),
    how: str = "",
    densities: tuple[float, ...] = (1.0, 1.0),
    rescale: bool = False,
    elect: bool = False,
    normalize: bool = False,
    factor: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """One tensor, merged."""
    zeros = np.zeros_like(experts[0])
    deltas = []
    for k, expert in enumerate(experts):
        delta = expert - (zeros if reference is None else reference)
        delta = delta if coefficients[k] == 1 else delta * F(coefficients[k])
        key = noise_key(seed, name, k)
        shape = delta.shape
        delta = sparse(delta.reshape(-1), how, densities[k], rescale, key).reshape(shape)
        deltas.append(delta * F(weights[k]))
    if elect:
        update = elected(deltas, weights, normalize)
    else:
        update = zeros
        for delta in deltas:
            update = update + delta
        update = update / F(sum(weights)) if normalize and sum(weights) != 1 else update
    update = update if factor == 1 else update * F(factor)
    return (zeros if target is None else target) + update


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "linear": ("linear", {}, {"normalize": True}),
    "linear, sum 1": ("linear", {"weights": (0.25, 0.75)}, {"normalize": True}),
    "linear, not normalized": ("linear", {"parameters": {"normalize": False}}, {}),
    "task_arithmetic": ("task_arithmetic", {}, {}),
    "task_arithmetic, negative": ("task_arithmetic", {"weights": (1.0, -0.7)}, {}),
    "task_arithmetic, normalized": (
        "task_arithmetic",
        {"parameters": {"normalize": True, "lambda": 0.7}},
        {"normalize": True, "factor": 0.7},
    ),
    "ties": (
        "ties",
        {"densities": (0.3, 0.5)},
        {"how": "ties", "densities": (0.3, 0.5), "elect": True, "normalize": True},
    ),
    "ties, one value": (
        "ties",
        {"densities": (1e-9, 1.0), "parameters": {"normalize": False}},
        {"how": "ties", "densities": (1e-9, 1.0), "elect": True},
    ),
    "dare_linear": (
        "dare_linear",
        {"densities": (0.3, 0.9), "parameters": {"seed": 7}},
        {"how": "dare", "densities": (0.3, 0.9), "rescale": True, "seed": 7},
    ),
    "dare_linear, not rescaled": (
        "dare_linear",
        {"densities": (0.3, 0.9), "parameters": {"rescale": False}},
        {"how": "dare", "densities": (0.3, 0.9)},
    ),
    "dare_ties": (
        "dare_ties",
        {"densities": (0.3, 0.9)},
        {"how": "dare", "densities": (0.3, 0.9), "rescale": True, "elect": True},
    ),
}


@pytest.mark.parametrize(("dtype", "chunk"), [("F32", 1 << 20), ("BF16", 2048), ("mixed", 4096)])
@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_in_memory(
    case: str,
    dtype: str,
    chunk: int,
    family: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "CHUNK", chunk)
    method, keys, numbers = CASES[case]
    members = family[dtype]
    run_merge(write_recipe(tmp_path / "r.yaml", members, method, **keys), tmp_path / "out")
    read = {name: tf.read_model(path) for name, path in members.items()}
    weights = list(keys.get("weights", (0.5, 0.3)))
    merged = tf.read_model(tmp_path / "out")
    assert merged.keys() == read["base"].keys()
    for name, found in merged.items():
        reference = None if method == "linear" else read["instruct"][name]
        experts = [read[expert][name] for expert in EXPERTS]
        wanted = in_memory(name, reference, reference, experts, weights, **numbers)
        assert found.tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("out_dtype", ["float32", "float16", "bfloat16", None])
def test_rounded_once(
    out_dtype: str | None, family: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    """fp32 inside; `out_dtype`, else `dtype`, else as the target."""
    members = family["BF16"]
    more = {"out_dtype": out_dtype} if out_dtype else {"dtype": None}
    run_merge(
        write_recipe(tmp_path / "r.yaml", members, "task_arithmetic", **more), tmp_path / "out"
    )
    read = {name: tf.read_model(path) for name, path in members.items()}
    code = {"float32": "F32", "float16": "F16"}.get(out_dtype or "", "BF16")
    for name, (found, shape, raw) in tf.read_raw(tmp_path / "out").items():
        reference = read["instruct"][name]
        experts = [read[expert][name] for expert in EXPERTS]
        wanted = in_memory(name, reference, reference, experts, [0.5, 0.3])
        assert (found, shape) == (code, reference.shape)
        assert raw == tf.raw_of(wanted, code), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == (out_dtype or "bfloat16")


SPARSIFIERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}),
    "ties": ({"method": "ties", "density": 0.4}, {"how": "ties", "elect": True}),
    "dare": ({"method": "dare", "density": 0.4, "seed": 3}, {"how": "dare", "rescale": True}),
}


@pytest.mark.parametrize("granularity", ["block", "module"])
@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
def test_lata_same_bits_as_in_memory(
    sparsifier: str,
    granularity: str,
    family: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan's coefficients first, then the sparsifier on the weighted vectors, then the sum."""
    monkeypatch.setattr(stream, "CHUNK", 4096)
    members = family["BF16"]
    more, numbers = SPARSIFIERS[sparsifier]
    parameters = {"rule": "log_drop", "granularity": granularity, "others": 0.5} | more
    recipe = write_recipe(tmp_path / "r.yaml", members, "lata", parameters=parameters)
    run_merge(recipe, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())["experts"]
    read = {name: tf.read_model(path) for name, path in members.items()}
    if sparsifier != "none":
        numbers = numbers | {"densities": (0.4, 0.4), "seed": more.get("seed", 0)}
    for name, found in tf.read_model(tmp_path / "out").items():
        parts = name.split(".")
        inside = parts[1] == "layers"
        unit = ".".join(parts[2:3] if granularity == "block" else parts[2:-1])
        coefficients = tuple(
            plan[e]["coefficients"][unit] if inside else plan[e]["others"] for e in EXPERTS
        )
        reference = read["instruct"][name]
        used = [k for k in range(2) if coefficients[k] != 0]
        experts = [read[EXPERTS[k]][name] if k in used else reference for k in range(2)]
        wanted = in_memory(
            name, reference, reference, experts, [0.5, 0.3], coefficients=coefficients, **numbers
        )
        assert np.array_equal(found, wanted), name


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(t: float, family: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    """The angle in fp64; nearly parallel tensors are interpolated linearly."""
    members = dict(family["F32"])
    far = {n: v + (0.3 if v.ndim == 2 else 0) * tf.random_model(9)[n] for n, v in
           tf.read_model(members["instruct"]).items()}  # fmt: skip
    members["far"] = tf.write_model(tmp_path / "far", far, "F32")
    text = {
        "merge_method": "slerp",
        "base_model": str(members["instruct"]),
        "models": [{"model": str(members["far"])}],
        "parameters": {"t": t},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(text))
    run_merge(tmp_path / "r.yaml", tmp_path / "out")
    first, merged = tf.read_model(members["instruct"]), tf.read_model(tmp_path / "out")
    bent = 0
    for name, found in merged.items():
        a, b = (v[name].astype(np.float64) for v in (first, far))
        cosine = float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))
        if abs(cosine) > 0.9995:
            wanted = (1 - t) * a + t * b
        else:
            bent += 1
            angle = np.arccos(cosine)
            wanted = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        assert np.allclose(found, wanted, rtol=1e-6, atol=1e-7), name
    assert bent > 5


# What must not matter


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties", "linear", "lata"])
def test_threads_layout_and_order_do_not_matter(
    method: str,
    family: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys: dict[str, Any] = {"dtype": "bfloat16"}
    if method in ("ties", "dare_ties"):
        keys["densities"] = (0.4, 0.6)
    if method == "lata":
        keys["parameters"] = {"rule": "linear_drop", "method": "dare", "density": 0.5}
    members = family["BF16"]
    recipe = write_recipe(tmp_path / "r.yaml", members, method, **keys)
    run_merge(recipe, tmp_path / "one", threads=1)
    wanted = tf.read_bytes(tmp_path / "one")
    scattered = {
        name: tf.write_model(
            tmp_path / name, tf.read_model(path), shards=2 + i, order=-1 if i % 2 else 1
        )
        for i, (name, path) in enumerate(members.items())
    }
    recipe = write_recipe(tmp_path / "s.yaml", scattered, method, **keys)
    monkeypatch.setattr(stream, "CHUNK", 2048)
    run_merge(recipe, tmp_path / "many", threads=5)
    assert tf.read_bytes(tmp_path / "many") == wanted
    again = write_recipe(tmp_path / "t.yaml", members, method, max_shard_size="40KB", **keys)
    run_merge(again, tmp_path / "small", threads=3)
    assert tf.read_bytes(tmp_path / "small") == wanted
    assert len(list((tmp_path / "small").glob("*.safetensors"))) > 2


def test_same_recipe_twice_same_files(family: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    """Every file but the log has the same bytes; the inputs stay as they were."""
    before = {name: tf.snapshot(path) for name, path in family["BF16"].items()}
    parameters = {"rule": "linear_drop"}
    recipe = write_recipe(tmp_path / "r.yaml", family["BF16"], "lata", parameters=parameters)
    found = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        run_merge(recipe, tmp_path / run / "out", threads=1 if run == "first" else 4)
        files = {f: digest for f, (digest, _) in tf.snapshot(tmp_path / run / "out").items()}
        assert files.pop("log.jsonl")
        found.append(files)
    assert found[0] == found[1]
    assert len(found[0]) >= 7
    assert {name: tf.snapshot(path) for name, path in family["BF16"].items()} == before


# Zero


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties", "lata"])
def test_zero_weights_give_the_target_bit_for_bit(
    method: str, family: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    keys: dict[str, Any] = {"weights": (0, 0.0), "dtype": "bfloat16"}
    if method == "lata":
        keys["parameters"] = {"rule": "linear_drop", "others": "merge"}
    members = family["BF16"]
    manifest = run_merge(
        write_recipe(tmp_path / "r.yaml", members, method, **keys), tmp_path / "out"
    )
    assert tf.read_raw(tmp_path / "out") == tf.read_raw(members["instruct"])
    assert manifest["results"]["tensors_changed"] == 0
    assert any("bit for bit" in warning for warning in manifest["warnings"])


def test_zero_plan_gives_the_target_bit_for_bit(
    family: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    """No layer has a cosine below -1: the threshold keeps nothing."""
    parameters = {"rule": "threshold", "threshold": -1}
    members = family["BF16"] | {"instruct": family["BF16"]["instruct"]}
    recipe = write_recipe(
        tmp_path / "r.yaml", members, "lata", parameters=parameters, dtype="bfloat16"
    )
    run_merge(recipe, tmp_path / "out")
    assert tf.read_raw(tmp_path / "out") == tf.read_raw(members["instruct"])


def test_negative_zeros_and_small_values_survive(tmp_path: Path) -> None:
    """A target that no expert moves keeps its bits: -0.0, subnormal and largest values too."""
    special = np.array([-0.0, 0.0, 1e-40, -1e-40, 1.17e-38, 3.3e38, -3.3e38, 1.0], F)
    tensors = tf.random_model(1)
    tensors["model.norm.weight"] = np.resize(special, tf.HIDDEN)
    for dtype in ("F32", "BF16"):
        home = tmp_path / dtype
        members = {n: tf.write_model(home / n, tensors, dtype) for n in ("instruct", *EXPERTS)}
        recipe = write_recipe(home / "r.yaml", members, "task_arithmetic", dtype=None)
        run_merge(recipe, home / "out")
        found = tf.read_bytes(home / "out")["model.norm.weight"]
        assert found == tf.read_bytes(members["instruct"])["model.norm.weight"]


# Counts and sums


def test_counts_of_changed_and_vanished(family: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    members = family["BF16"]
    recipe = write_recipe(
        tmp_path / "r.yaml", members, "task_arithmetic", weights=(0.01, 0.0), dtype="bfloat16"
    )
    results = run_merge(recipe, tmp_path / "out")["results"]
    target, merged = tf.read_model(members["instruct"]), tf.read_model(tmp_path / "out")
    math = tf.read_model(members["math"])
    changed = sum(int((merged[n] != v).sum()) for n, v in target.items())
    update = {n: (math[n] - v) * F(0.01) for n, v in target.items()}
    vanished = sum(int(((merged[n] == v) & (update[n] != 0)).sum()) for n, v in target.items())
    assert (results["values_changed"], results["values_vanished"]) == (changed, vanished)
    assert vanished > changed > 0
    square = sum(float((u.astype(np.float64) ** 2).sum()) for u in update.values())
    whole = sum(float((v.astype(np.float64) ** 2).sum()) for v in target.values())
    assert results["relative_change"] == pytest.approx((square / whole) ** 0.5, rel=1e-5)


def test_inputs_are_only_read(family: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    """A folder that nobody may write to is a fine input."""
    home = tmp_path / "home"
    members = tf.write_family(home)
    for path in [home, *home.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        recipe = write_recipe(tmp_path / "r.yaml", members, "task_arithmetic")
        run_merge(recipe, tmp_path / "out")
        assert os.access(tmp_path / "out" / "model.safetensors", os.W_OK)
    finally:
        for path in [home, *home.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize(("method", "passes"), [("slerp", 2), ("ties", 4)])
def test_every_pass_gives_its_pages_back(
    method: str,
    passes: int,
    family: dict[str, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """slerp's first pass, and TIES' sample, threshold and rescaling, release what they read."""
    released: dict[tuple[str, str], int] = {}
    real = Source.release

    def release(self: Source, name: str, first: int, n: int) -> None:
        key = (self.checkpoint.path.name, name)
        released[key] = released.get(key, 0) + n
        real(self, name, first, n)

    monkeypatch.setattr(Source, "release", release)
    monkeypatch.setattr("lamina.jobs.merge.require_related", lambda *_, **__: [])
    members = family["BF16"]
    file = write_recipe(tmp_path / "r.yaml", members, "ties", densities=(0.5, 0.5))
    text = json.loads(file.read_text()) | {"parameters": {"rescale": True}}
    if method == "slerp":
        models = [{"model": str(members["math"])}]
        text |= {"merge_method": "slerp", "models": models, "parameters": {"t": 0.5}}
    file.write_text(json.dumps(text))
    run_merge(file, tmp_path / "out")
    name = "model.layers.1.mlp.up_proj.weight"
    assert released["math", name] == passes * tf.INTERMEDIATE * tf.HIDDEN
