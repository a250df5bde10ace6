"""LATA (arXiv 2502.20186) against numbers worked by hand for three layers of four weights.

The base is 8 everywhere. Per layer the instruction vector u = instruct - base and the task vector
t = expert - instruct are chosen so that every length is a whole number:

    layer  u          t           c = u + t   A=<u,u>  B=<t,t>  C=<t,u>  |c|  s = (A+C)/(|u||c|)
    0      (3,4,0,0)  (0,0,0,12)  (3,4,0,12)  25       144      0        13   25/(5*13) = 5/13
    1      (2,0,0,0)  (1,4,0,0)   (3,4,0,0)   4        17       2        5    6/(2*5)   = .6
    2      (0,6,0,0)  (0,2,6,0)   (0,8,6,0)   36       40       12       10   48/(6*10) = .8

By falling s: layer 2 has rank 1, layer 1 rank 2, layer 0 rank 3.

    rule                   layer 0   layer 1          layer 2
    linear  r/L            1         2/3              1/3
    log     ln r/ln L      1         ln 2/ln 3=.6309  0
    threshold .6, .7       1, 1      0, 1             0, 0      (.6 < .6 is false: the edge is out)

Merged with weight 1/2: instruct + 1/2 * coefficient * t.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.scores import LayerScores
from lamina.jobs import run_merge
from lamina.lata.choose import choose
from lamina.lata.measure import Gram, TensorGram, lineage_warning, similarity

U = [(3, 4, 0, 0), (2, 0, 0, 0), (0, 6, 0, 0)]
T = [(0, 0, 0, 12), (1, 4, 0, 0), (0, 2, 6, 0)]
S = [5 / 13, 0.6, 0.8]
RANKS = [3, 2, 1]
COEFFICIENTS: dict[str, tuple[dict[str, object], list[float]]] = {
    "linear_drop": ({}, [1.0, 2 / 3, 1 / 3]),
    "log_drop": ({}, [1.0, math.log(2) / math.log(3), 0.0]),
    "threshold at the edge": ({"rule": "threshold", "threshold": 0.6}, [1.0, 0.0, 0.0]),
    "threshold": ({"rule": "threshold", "threshold": 0.7}, [1.0, 1.0, 0.0]),
}
NAME = "model.layers.{}.self_attn.q_proj.weight"


def write(folder: Path, rows: list[Any], loose: tuple[float, ...] = (8, 8)) -> None:
    """A model of three blocks of one (1, 4) weight each, and a final norm."""
    tensors = {
        NAME.format(i): np.array(row, np.float32).reshape(1, 4) for i, row in enumerate(rows)
    }
    tensors["model.norm.weight"] = np.array(loose, np.float32)
    tf.write_model(folder, tensors, "F32")
    config = {"model_type": "llama", "num_hidden_layers": len(rows)}
    (folder / "config.json").write_text(json.dumps(config))


def add(*vectors: Any) -> list[Any]:
    return [np.sum(rows, axis=0) for rows in zip(*vectors, strict=True)]


BASE = [(8, 8, 8, 8)] * 3
INSTRUCT = add(BASE, U)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write(tmp_path / "base", BASE)
    write(tmp_path / "instruct", INSTRUCT)
    write(tmp_path / "expert", add(INSTRUCT, T), loose=(8, 10))
    return tmp_path


def recipe(home: Path, **parameters: object) -> Path:
    keys = {"rule": "linear_drop"} | parameters
    weight = keys.pop("weight", 0.5)
    text = {
        "merge_method": "lata",
        "base_model": "./base",
        "instruct_model": "./instruct",
        "models": [{"model": "./expert", "parameters": {"weight": weight}}],
        "parameters": keys,
    }
    (home / "recipe.yaml").write_text(json.dumps(text))
    return home / "recipe.yaml"


def read_scores(out: Path) -> LayerScores:
    return LayerScores.model_validate(
        json.loads((out / "scores.json").read_text())["experts"]["expert"]
    )


def test_sums_and_similarities(home: Path) -> None:
    run_merge(recipe(home), home / "out")
    scores = read_scores(home / "out")
    units = ["0", "1", "2"]
    assert [scores.values[u] for u in units] == pytest.approx(S, rel=1e-12)
    assert [scores.columns["A"][u] for u in units] == [25, 4, 36]
    assert [scores.columns["B"][u] for u in units] == [144, 17, 40]
    assert [scores.columns["C"][u] for u in units] == [0, 2, 12]
    assert [scores.columns["rank"][u] for u in units] == RANKS
    rho = [12 / 5, math.sqrt(17) / 2, math.sqrt(40) / 6]
    assert [scores.columns["rho"][u] for u in units] == pytest.approx(rho)
    # phi: t is at a right angle to u in layer 0; cos = 2/(2 sqrt 17), 12/(6 sqrt 40) in the others
    phi = [90.0, math.degrees(math.acos(1 / 17**0.5)), math.degrees(math.acos(2 / 40**0.5))]
    assert [scores.columns["phi_degrees"][u] for u in units] == pytest.approx(phi)
    # The final norm moved by (0, 2): |t|^2 = 4 of 144 + 17 + 40 + 4 = 205 lies outside the blocks.
    shares = [144 / 205, 17 / 205, 40 / 205]
    assert [scores.columns["norm_share"][u] for u in units] == pytest.approx(shares)
    manifest = json.loads((home / "out" / "manifest.json").read_text())
    assert manifest["results"]["others_share"]["expert"] == pytest.approx(4 / 205)
    where = json.loads((home / "out" / "scores.json").read_text())["where"]["expert"]
    assert where["attention"] == pytest.approx(201 / 205)
    assert where["norm"] == pytest.approx(4 / 205)


@pytest.mark.parametrize("rule", COEFFICIENTS)
def test_rules(rule: str, home: Path) -> None:
    more, coefficients = COEFFICIENTS[rule]
    run_merge(recipe(home, **({"rule": rule} | more)), home / "out")
    plan = json.loads((home / "out" / "plan.json").read_text())["experts"]["expert"]
    assert list(plan["coefficients"].values()) == pytest.approx(coefficients, rel=1e-12)
    assert plan["weight"] == 0.5
    merged = tf.read_model(home / "out")
    for i in range(3):
        wanted = INSTRUCT[i] + 0.5 * coefficients[i] * np.array(T[i])
        assert merged[NAME.format(i)].reshape(-1) == pytest.approx(wanted, rel=1e-6)
    assert merged["model.norm.weight"].tolist() == [8, 8]


def test_linear_drop_value_by_value(home: Path) -> None:
    # layer 0: (11,12,8,8) + 1/2 * 1   * (0,0,0,12) = (11, 12, 8, 14)
    # layer 1: (10,8,8,8)  + 1/2 * 2/3 * (1,4,0,0)  = (10 1/3, 9 1/3, 8, 8)
    # layer 2: (8,14,8,8)  + 1/2 * 1/3 * (0,2,6,0)  = (8, 14 1/3, 9, 8)
    run_merge(recipe(home), home / "out")
    merged = tf.read_model(home / "out")
    assert merged[NAME.format(0)].tolist() == [[11, 12, 8, 14]]
    assert merged[NAME.format(1)][0] == pytest.approx([10 + 1 / 3, 9 + 1 / 3, 8, 8], rel=1e-6)
    assert merged[NAME.format(2)][0] == pytest.approx([8, 14 + 1 / 3, 9, 8], rel=1e-6)


def test_log_drop_leaves_the_most_instruction_like_layer_alone(home: Path) -> None:
    run_merge(recipe(home, rule="log_drop"), home / "out")
    merged = tf.read_bytes(home / "out")
    assert merged[NAME.format(2)] == tf.read_bytes(home / "instruct")[NAME.format(2)]


def test_forgetting_takes_away(home: Path) -> None:
    # threshold .7 keeps layers 0 and 1; weight 1 and the sign are `forget`'s own:
    # layer 0: (11,12,8,8) - (0,0,0,12) = (11, 12, 8, -4); layer 1: (10,8,8,8) - (1,4,0,0)
    path = recipe(home, rule="threshold", threshold=0.7, weight=1)
    run_merge(path, home / "out", forget=True)
    merged = tf.read_model(home / "out")
    assert merged[NAME.format(0)].tolist() == [[11, 12, 8, -4]]
    assert merged[NAME.format(1)].tolist() == [[9, 4, 8, 8]]
    assert merged[NAME.format(2)].tolist() == [[8, 14, 8, 8]]


def test_forgetting_by_default_is_the_papers(home: Path) -> None:
    """Without rule and weight: threshold .95 and lambda' = 1; all three layers are below .95."""
    text = json.loads(recipe(home).read_text())
    del text["parameters"], text["models"][0]["parameters"]
    (home / "recipe.yaml").write_text(json.dumps(text))
    run_merge(home / "recipe.yaml", home / "out", forget=True)
    merged = tf.read_model(home / "out")
    for i in range(3):
        assert merged[NAME.format(i)].tolist() == [(INSTRUCT[i] - np.array(T[i])).tolist()]


def test_others(home: Path) -> None:
    # The norm: 8 + 1/2 * 1 * (0, 2) with `merge`, 8 + 1/2 * 1/4 * (0, 2) with 0.25
    run_merge(recipe(home, others="merge"), home / "all")
    assert tf.read_model(home / "all")["model.norm.weight"].tolist() == [8, 9]
    run_merge(recipe(home, others=0.25), home / "part")
    assert tf.read_model(home / "part")["model.norm.weight"].tolist() == [8, 8.25]


def test_every_expert_has_its_own_ranking(home: Path) -> None:
    """A second expert whose vectors stand in the other order: its ranks are its own."""
    # t = (0,0,0,1), (0,0,4,0), (0,0,0,24): s = 5/sqrt 26 = .98, 2/sqrt 20 = .447, 6/sqrt 612 = .24
    other = [(0, 0, 0, 1), (0, 0, 4, 0), (0, 0, 0, 24)]
    write(home / "other", add(INSTRUCT, other))
    text = json.loads(recipe(home).read_text())
    text["models"].append({"model": "./other", "parameters": {"weight": 1}})
    (home / "recipe.yaml").write_text(json.dumps(text))
    run_merge(home / "recipe.yaml", home / "out")
    found = json.loads((home / "out" / "scores.json").read_text())["experts"]["other"]
    expected = [5 / 26**0.5, 2 / 20**0.5, 6 / 612**0.5]
    assert list(found["values"].values()) == pytest.approx(expected)
    # layer 2: rank 1 for the first expert (1/3), rank 3 for the second (1):
    # (8,14,8,8) + 1/2 * 1/3 * (0,2,6,0) + 1 * (0,0,0,24) = (8, 14 1/3, 9, 32)
    merged = tf.read_model(home / "out")[NAME.format(2)]
    assert merged[0] == pytest.approx([8, 14 + 1 / 3, 9, 32], rel=1e-6)


def test_a_target_of_another_kind(home: Path) -> None:
    """Eq. 11: the vector is added to the target; the ranking never sees the target."""
    write(home / "german", add(INSTRUCT, [(1, 1, 1, 1)] * 3))
    text = json.loads(recipe(home).read_text()) | {"target_model": "./german"}
    (home / "recipe.yaml").write_text(json.dumps(text))
    run_merge(home / "recipe.yaml", home / "out")
    assert tf.read_model(home / "out")[NAME.format(0)].tolist() == [[12, 13, 9, 15]]
    assert list(read_scores(home / "out").values.values()) == pytest.approx(S)


# The formula

LAYERS = st.lists(
    st.tuples(*[st.floats(-4, 4, width=32) for _ in range(3)]), min_size=2, max_size=40
).map(lambda rows: np.array(rows, np.float64).T)


@given(LAYERS)
def test_similarity_from_three_sums_is_the_cosine(columns: np.ndarray) -> None:
    base, instruct, expert = columns
    u, t, c = instruct - base, expert - instruct, expert - base
    if u @ u < 1e-6 or t @ t < 1e-6 or c @ c < 1e-6:
        return
    direct = (c @ u) / math.sqrt((c @ c) * (u @ u))
    assert similarity(Gram(u @ u, t @ t, t @ u)) == pytest.approx(direct, abs=1e-6)


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(-1, 1))
def test_similarity_from_rho_and_phi(length: float, rho: float, cos_phi: float) -> None:
    gram = Gram(length**2, (rho * length) ** 2, rho * length**2 * cos_phi)
    below = 1 + 2 * rho * cos_phi + rho**2
    if below < 1e-6:
        return
    direct = (1 + rho * cos_phi) / math.sqrt(below)
    assert similarity(gram) == pytest.approx(direct, abs=1e-6)


@pytest.mark.parametrize(("sigma", "rho"), [(0.95, 0.329), (0.90, 0.484), (0.99, 0.142)])
def test_what_a_threshold_means_at_a_right_angle(sigma: float, rho: float) -> None:
    # s = 1/sqrt(1 + rho^2) < sigma  <=>  rho > sqrt(1/sigma^2 - 1)
    assert math.sqrt(1 / sigma**2 - 1) == pytest.approx(rho, abs=5e-4)
    assert similarity(Gram(1.0, (rho + 1e-3) ** 2, 0.0)) < sigma
    assert similarity(Gram(1.0, (rho - 1e-3) ** 2, 0.0)) > sigma


def test_where_the_paper_is_silent() -> None:
    assert similarity(Gram(4.0, 0.0, 0.0)) == 1.0  # the expert did not move
    assert similarity(Gram(0.0, 0.0, 0.0)) == 1.0  # nor did the instruct model
    assert similarity(Gram(0.0, 3.0, 0.0)) == 0.0  # only the expert moved
    assert similarity(Gram(4.0, 4.0, -4.0)) == 0.0  # the expert is the base: c = 0


# Ranks and rules


def ranked(*values: float) -> LayerScores:
    return LayerScores(
        method="lata_cosine",
        unit="cosine",
        granularity="block",
        higher_means="more like the instruction vector",
        values={str(i): value for i, value in enumerate(values)},
        model="m",
        inputs={},
    )


def coefficients(scores: LayerScores, rule: str, **more: Any) -> list[float]:
    return list(choose(scores, rule, others=0.0, **more).coefficients.values())


def test_equal_similarities_rank_in_the_order_of_the_layers() -> None:
    # .5 .9 .5 .9: ranks 3 1 4 2
    assert coefficients(ranked(0.5, 0.9, 0.5, 0.9), "linear_drop") == [0.75, 0.25, 1.0, 0.5]


@pytest.mark.parametrize("num_layers", [1, 2, 3, 32, 42])
def test_strength(num_layers: int) -> None:
    """The mean linear weight is (L+1)/2L; the log rule's is ln(L!)/(L ln L), about .74 of 32."""
    scores = ranked(*np.random.default_rng(0).random(num_layers))
    mean = float(np.mean(coefficients(scores, "linear_drop")))
    assert mean == pytest.approx((num_layers + 1) / (2 * num_layers))
    if num_layers == 32:
        log = float(np.mean(coefficients(scores, "log_drop")))
        assert log == pytest.approx(math.lgamma(33) / (32 * math.log(32)))
        assert log == pytest.approx(0.74, abs=0.01)


def test_a_single_layer() -> None:
    assert coefficients(ranked(0.3), "linear_drop") == [1.0]
    assert coefficients(ranked(0.3), "log_drop") == [1.0]


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=50))
def test_rules_fall_with_the_similarity(values: list[float]) -> None:
    scores = ranked(*values)
    for rule in ("linear_drop", "log_drop"):
        found = coefficients(scores, rule)
        assert min(found) == pytest.approx(1 / len(values) if rule == "linear_drop" else 0)
        assert max(found) == 1.0
        assert len(set(found)) == len(found)
        by_value = sorted(range(len(values)), key=lambda i: (-values[i], i))
        assert [found[i] for i in by_value] == sorted(found)
    keeps = coefficients(scores, "threshold", sigma=0.5)
    assert keeps == [float(value < 0.5) for value in values]


# Lineage


def as_grams(u: np.ndarray, t: np.ndarray) -> dict[str, TensorGram]:
    gram = Gram(float(u @ u), float(t @ t), float(t @ u))
    return {"weight": TensorGram(gram, {}, {})}


def test_lineage() -> None:
    rng = np.random.default_rng(0)
    u, step = rng.standard_normal(4096), 0.3 * rng.standard_normal(4096)
    assert lineage_warning("math", as_grams(u, step)) is None
    # tuned from the base: expert = base + step, so t = step - u, C near -A, |t| at least |u|
    told = lineage_warning("math", as_grams(u, step - u))
    assert told is not None
    assert "`math` does not look tuned from the given instruct model" in told
    assert lineage_warning("math", as_grams(u, 0 * u)) is None
    assert lineage_warning("math", as_grams(0 * u, step)) is None


def test_lineage_is_told(home: Path) -> None:
    """The expert is base + (0, 0, 1, 0): t = (0, 0, 1, 0) - u."""
    write(home / "expert", add(BASE, [(0, 0, 1, 0)] * 3))
    manifest = run_merge(recipe(home), home / "out")
    told = [w for w in manifest["warnings"] if "does not look tuned" in w]
    # <t,u>/<u,u> = -1; |t|^2/|u|^2 = (25 + 4 + 36 + 3)/65 = 1.046, its root 1.02
    assert len(told) == 1
    assert "= -1.00" in told[0]
    assert "= 1.02" in told[0]
