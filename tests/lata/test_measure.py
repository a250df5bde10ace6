"""The first pass of LATA: sums against numpy, the cache, what a broken cache costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf

from lamina.jobs import run_merge
from lamina.lata import measure as module
from lamina.lata.measure import Gram, cache_folder, layer_grams, measure, scores
from lamina.merge.inputs import Inputs, open_inputs
from lamina.merge.recipe import from_dict
from lamina.merge.sources import Sources
from lamina.weights import stream


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tf.write_family(tmp_path)
    return tmp_path


def recipe(*experts: str, **parameters: Any) -> dict[str, Any]:
    return {
        "merge_method": "lata",
        "base_model": "./base",
        "instruct_model": "./instruct",
        "models": [{"model": f"./{e}", "parameters": {"weight": 0.5}} for e in experts],
        "parameters": {"rule": "linear_drop"} | parameters,
    }


def merge(home: Path, text: dict[str, Any], out: str, **options: Any) -> dict[str, Any]:
    (home / "recipe.yaml").write_text(json.dumps(text))
    return run_merge(home / "recipe.yaml", home / out, **options)


def opened(home: Path, *experts: str) -> tuple[Inputs, Sources]:
    inputs = open_inputs(from_dict(recipe(*experts), "test"), home)
    return inputs, Sources(inputs)


def measured(home: Path, *experts: str, threads: int = 2) -> Any:
    return measure(*opened(home, *experts), threads=threads, progress=lambda n: None)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The experts that every first pass read."""
    seen: list[list[str]] = []
    real = module._pass

    def counted(inputs: Inputs, sources: Sources, experts: list[str], **more: Any) -> Any:
        seen.append(experts)
        return real(inputs, sources, experts, **more)

    monkeypatch.setattr(module, "_pass", counted)
    return seen


def test_sums_against_numpy(home: Path) -> None:
    read = {name: tf.read_model(home / name) for name in ("base", "instruct", "math", "code")}
    grams = measured(home, "math", "code")
    for expert in ("math", "code"):
        assert grams[expert].keys() == read["base"].keys()
        for name, found in grams[expert].items():
            u = (read["instruct"][name] - read["base"][name]).astype(np.float64)
            t = (read[expert][name] - read["instruct"][name]).astype(np.float64)
            length = float(np.linalg.norm(t) * np.linalg.norm(u))
            a, b, c = found.gram.A, found.gram.B, found.gram.C
            assert a == pytest.approx((u * u).sum(), rel=1e-6)
            assert b == pytest.approx((t * t).sum(), rel=1e-6)
            assert c == pytest.approx((t * u).sum(), abs=1e-6 * length)
            assert found.nonfinite == {}


def test_layers_are_sums_of_tensors(home: Path) -> None:
    inputs, _ = opened(home, "math")
    grams = measured(home, "math")["math"]
    blocks = layer_grams(grams, inputs.layers, "block")
    modules = layer_grams(grams, inputs.layers, "module")
    assert list(blocks) == ["0", "1", "2"]
    assert len(modules) == 3 * 9
    for unit, gram in blocks.items():
        parts = [g for u, g in modules.items() if u.split(".")[0] == unit]
        total = sum(parts, Gram(0.0, 0.0, 0.0))
        found_sums, wanted = [gram.A, gram.B, gram.C], [total.A, total.B, total.C]
        assert found_sums == pytest.approx(wanted)
    found = scores(grams, inputs.layers, "module", model="m", inputs={})
    assert set(found.columns["rank"].values()) == set(range(1, 28))


def test_same_sums_for_any_threads_and_chunks(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = []
    for threads, chunk in ((1, 1 << 20), (4, 1 << 20), (3, 2048), (1, 4096)):
        monkeypatch.setattr(stream, "CHUNK", chunk)
        monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / f"cache-{threads}-{chunk}"))
        found.append(measured(home, "math", "code", threads=threads))
    assert all(one == found[0] for one in found)


def test_experts_together_as_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = measured(home, "math", "code")
    monkeypatch.setenv("LAMINA_CACHE", str(home / "other"))
    assert measured(home, "code")["code"] == together["code"]


def test_another_rule_reads_no_expert_again(home: Path, passes: list[list[str]]) -> None:
    merge(home, recipe("math", "code"), "first")
    assert passes == [["math", "code"]]
    merge(home, recipe("math", "code", rule="log_drop", granularity="module"), "second")
    merge(home, recipe("code"), "third")
    assert passes == [["math", "code"]]
    merge(home, recipe("math", "code", others="merge"), "fourth")
    tables = [json.loads((home / o / "scores.json").read_text()) for o in ("first", "fourth")]
    assert tables[0] == tables[1]
    first, fourth = (
        json.loads((home / o / "manifest.json").read_text()) for o in ("first", "fourth")
    )
    assert first["inputs"] == fourth["inputs"]


def test_a_new_expert_is_measured_alone(home: Path, passes: list[list[str]]) -> None:
    merge(home, recipe("math"), "first")
    merge(home, recipe("math", "code"), "second")
    assert passes == [["math"], ["code"]]


def test_a_changed_expert_is_measured_again(home: Path, passes: list[list[str]]) -> None:
    before = measured(home, "math")
    tf.write_model(home / "math", tf.moved(tf.members()["instruct"], 77))
    after = measured(home, "math")
    assert passes == [["math"], ["math"]]
    assert before != after
    tf.write_model(home / "base", tf.random_model(0))
    measured(home, "math")
    assert len(passes) == 3


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"schema": "lamina.gram/1"}', b"\xff\xfe", b'{"schema": "lamina.gram/0"}'],
)
def test_a_broken_cache_costs_one_pass(damage: bytes, home: Path, passes: list[list[str]]) -> None:
    good = measured(home, "math")
    (file,) = cache_folder().rglob("*.json")
    file.write_bytes(damage)
    assert measured(home, "math") == good
    assert len(passes) == 2
    assert measured(home, "math") == good
    assert len(passes) == 2


@pytest.mark.parametrize("how", ["a tensor short", "sums short", "text for a number"])
def test_a_cache_that_lies_about_its_shape(how: str, home: Path, passes: list[list[str]]) -> None:
    good = measured(home, "math")
    (file,) = cache_folder().rglob("*.json")
    held = json.loads(file.read_text())
    first = next(iter(held["tensors"]))
    if how == "a tensor short":
        del held["tensors"][first]
    elif how == "sums short":
        held["tensors"][first]["sums"] = [1.0]
    else:
        held["tensors"][first]["sums"] = ["1", 2.0, 3.0]
    file.write_text(json.dumps(held))
    assert measured(home, "math") == good
    assert len(passes) == 2


def test_a_cache_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("LAMINA_CACHE", str(home / "file"))
    assert measured(home, "math")["math"]


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LAMINA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "lamina"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lamina"
