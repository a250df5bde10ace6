"""A ranking from a file drives a merge: every grain, what does not fit, what is told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf

from lamina.core.errors import DataError, LayerError
from lamina.jobs import run_merge
from lamina.weights.checkpoint import open_checkpoint


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tf.write_family(tmp_path, "F32")
    return tmp_path


def recipe(home: Path, model: dict[str, Any] | None = None, **parameters: Any) -> Path:
    text = {
        "merge_method": "lata",
        "instruct_model": "./instruct",
        "models": [{"model": "./math", "parameters": {"weight": 0.5, **(model or {})}}],
        "parameters": {"rule": "scores", "scores": "./ranked.json", **parameters},
    }
    (home / "recipe.yaml").write_text(json.dumps(text))
    return home / "recipe.yaml"


def merge(home: Path, out: str = "out", *, model: Any = None, **parameters: Any) -> dict[str, Any]:
    run_merge(recipe(home, model, **parameters), home / out, threads=1)
    return read(home / out / "plan.json")["experts"]["math"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def refused(home: Path, kind: type[Exception], **parameters: Any) -> str:
    with pytest.raises(kind) as caught:
        run_merge(recipe(home, **parameters), home / "out")
    assert not (home / "out").exists()
    return str(caught.value)


def check_tensors(home: Path, coefficient: Callable[[str], float]) -> None:
    """That every tensor is instruct + .5 * coefficient * (math - instruct), rounded once."""
    instruct, math = tf.read_model(home / "instruct"), tf.read_model(home / "math")
    merged = tf.read_model(home / "out")
    for name, values in merged.items():
        wanted = instruct[name] + 0.5 * coefficient(name) * (math[name] - instruct[name])
        assert np.allclose(values, wanted, rtol=0, atol=2e-8), name
        if coefficient(name) == 0.0:
            assert values.tobytes() == instruct[name].tobytes(), name


def unit_of(name: str, grain: str) -> str | None:
    """The unit that a tensor of the tiny model belongs to, by its name."""
    parts = name.removeprefix("model.layers.").removesuffix(".weight").split(".")
    if not parts[0].isdigit():
        return None
    if grain == "block":
        return parts[0]
    if len(parts) < 3:
        return None
    part = "attention" if parts[1] == "self_attn" else "mlp"
    return f"{parts[0]}.{part}" if grain == "sublayer" else ".".join(parts)


@pytest.mark.parametrize("others", ["keep", 0.25])
@pytest.mark.parametrize("grain", tf.RANKED)
def test_each_grain_scales_its_tensors_and_norms_are_as_the_others(
    grain: str, others: Any, home: Path
):
    values = tf.write_ranking(home, grain)
    plan = merge(home, others=others)
    count = len(values)
    beside = 0.0 if others == "keep" else others

    def coefficient(name: str) -> float:
        unit = unit_of(name, grain)
        return beside if unit is None else (values[unit] + 1) / count

    check_tensors(home, coefficient)
    assert plan["granularity"] == ("block" if grain == "block" else "module")
    assert max(plan["coefficients"].values()) == 1.0
    if grain != "block":
        assert plan["coefficients"]["0.input_layernorm"] == beside


def test_the_top_share_is_taken_whole_and_the_rest_stays_to_the_bit(home: Path):
    values = tf.write_ranking(home)
    plan = merge(home, shape="top", share=0.3)
    taken = sorted(values, key=lambda unit: -values[unit])[:7]
    assert sorted(u for u, c in plan["coefficients"].items() if c) == sorted(taken)
    check_tensors(home, lambda name: float(unit_of(name, "module") in taken))


def test_the_output_tells_where_its_numbers_come_from(home: Path):
    values = tf.write_ranking(home)
    plan = merge(home, shape="top", share=0.3)
    assert (plan["rule"], plan["from_scores"]) == ("scores", "./ranked.json")
    assert plan["parameters"] == {"shape": "top", "share": 0.3}
    told = read(home / "out" / "scores.json")["experts"]["math"]
    assert {u: v for u, v in told["values"].items() if v is not None} == values
    assert (told["method"], told["model"]) == ("integrate", "./instruct")
    assert set(told["inputs"]) == {"model", "data", "scores"}
    manifest = read(home / "out" / "manifest.json")
    assert set(manifest["inputs"]) == {"instruct", "math"}
    assert manifest["recipe"]["parameters"]["shape"] == "top"
    assert (
        "the ranking of a file (the most important layer is taken whole)"
        in (home / "out" / "report.html").read_text()
    )


def test_norms_that_nobody_ranked_are_not_told_to_be_left_out(home: Path):
    tf.write_ranking(home)
    merge(home)
    assert (
        "left out" not in (home / "out" / "report.html").read_text().split("left out there is")[0]
    )
    merge(home, "top", shape="top", share=0.3)
    assert "14 layers were left out" in (home / "top" / "report.html").read_text()


def test_what_was_left_out_counts_in_the_norms_all_the_same(home: Path):
    """A coefficient of zero does not say that the expert did not move there."""
    tf.write_ranking(home)
    merge(home, shape="top", share=0.1)
    scores = read(home / "out" / "scores.json")
    instruct, math = tf.read_model(home / "instruct"), tf.read_model(home / "math")
    squares = {n: float(((math[n] - instruct[n]) ** 2).sum()) for n in instruct}
    total = sum(squares.values())
    for unit, share in scores["experts"]["math"]["columns"]["norm_share"].items():
        name = f"model.layers.{unit}.weight"
        assert share == pytest.approx(squares[name] / total, rel=1e-5)
    outside = sum(v for n, v in squares.items() if ".layers." not in n) / total
    manifest = read(home / "out" / "manifest.json")
    assert manifest["results"]["others_share"]["math"] == pytest.approx(outside, rel=1e-5)


def test_the_recipe_in_the_output_runs_again_to_the_same_weights(home: Path):
    tf.write_ranking(home)
    merge(home)
    run_merge(home / "out" / "recipe.yaml", home / "again", threads=1)
    assert tf.read_bytes(home / "out") == tf.read_bytes(home / "again")


@pytest.mark.parametrize("grain", ["block", "module"])
def test_a_merges_own_cosines_give_latas_rule_to_the_bit(grain: str, home: Path):
    """Two ways to one result: LATA measures and ranks, or its scores.json is given."""
    text = json.loads(recipe(home).read_text()) | {"base_model": "./base"}
    text["parameters"] = {"rule": "linear_drop", "granularity": grain}
    (home / "lata.yaml").write_text(json.dumps(text))
    run_merge(home / "lata.yaml", home / "measured", threads=1)
    merge(home, scores="./measured/scores.json")
    assert tf.read_bytes(home / "out") == tf.read_bytes(home / "measured")


def test_one_of_several_experts_is_named(home: Path):
    values = tf.write_ranking(home)
    one = read(home / "ranked.json")
    several = {"schema": one.pop("schema"), "experts": {"a": one, "math": one, "c": one}}
    (home / "several.json").write_text(json.dumps(several))
    assert merge(home, scores="./several.json")["coefficients"]
    assert merge(home, "named", model={"scores": "./several.json", "expert": "c"})
    with pytest.raises(DataError, match=r"has none of `kode`.*known: a, math, c"):
        merge(home, "wrong", model={"scores": "./several.json", "expert": "kode"})
    several["experts"] = {"a": one}
    (home / "several.json").write_text(json.dumps(several))
    assert len(merge(home, "only", scores="./several.json")["coefficients"]) > len(values)
    several["experts"] = {"a": one, "b": one}
    (home / "several.json").write_text(json.dumps(several))
    with pytest.raises(DataError, match="scores of several models"):
        merge(home, "none", scores="./several.json")


def test_scores_that_do_not_fit_are_refused_before_a_byte_is_read(home: Path):
    values = tf.write_ranking(home)
    assert "no file" in refused(home, DataError, scores="./rankd.json")
    assert "a folder; name its scores.json" in refused(home, DataError, scores="./instruct")

    short = dict(list(values.items())[1:])
    tf.write_ranking(home, values=short)
    assert "no value for 0.self_attn.q_proj" in refused(home, LayerError)
    tf.write_ranking(home, values=values | {"3.mlp.up_proj": 1.0})
    assert "the model has no 3.mlp.up_proj" in refused(home, LayerError)
    tf.write_ranking(home, values=values | {"0.mlp.up_proj": float("nan")})
    assert "no finite score (0.mlp.up_proj: nan)" in refused(home, LayerError)
    tf.write_ranking(home, values=values | {"0.mlp.up_proj": None})
    assert "no finite score (0.mlp.up_proj: None)" in refused(home, LayerError)
    tf.write_ranking(home, values={})
    assert "no `values`" in refused(home, DataError)
    tf.write_ranking(home, schema="lamina.layer_plan/1")
    assert "this has 'lamina.layer_plan/1'" in refused(home, DataError)
    tf.write_ranking(home, granularity="modul")
    assert "granularity" in refused(home, DataError)
    (home / "ranked.json").write_text("[]")
    assert "this has None" in refused(home, DataError)
    (home / "ranked.json").write_text("{")
    assert "is not JSON" in refused(home, DataError)


def test_scores_of_other_weights_are_refused_unless_that_is_meant(home: Path):
    tf.write_ranking(
        home, inputs={"model": open_checkpoint(home / "base").fingerprint}, model="./base"
    )
    told = refused(home, LayerError)
    assert "measured on other weights (./base) than `math`" in told
    assert "check_base: false" in told
    assert merge(home, check_base=False)


def test_problems_of_all_models_are_told_at_once(home: Path):
    tf.write_ranking(home, values={"0.mlp.up_proj": 1.0})
    text = json.loads(recipe(home).read_text())
    text["models"].append({"model": "./code", "parameters": {"weight": 1, "scores": "./not.json"}})
    text["models"].append({"model": "./base", "parameters": {"weight": 1, "scores": "./nor.json"}})
    (home / "recipe.yaml").write_text(json.dumps(text))
    with pytest.raises(DataError, match=r"(?s)not\.json.*nor\.json"):
        run_merge(home / "recipe.yaml", home / "out")
