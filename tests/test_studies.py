"""The studies: their arithmetic by hand, their recipes read, their tables those of the docs."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lamina.core.manifest import read_json
from lamina.ila.recipe import RankRecipe
from lamina.jobs.rank import read_rank_recipe
from lamina.merge.recipe import load_forgetting, load_recipe
from lamina.versatune.recipe import read_tune_recipe

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies"
pytestmark = pytest.mark.skipif(not STUDIES.is_dir(), reason="the studies are in the repository")


def loaded(name: str) -> ModuleType:
    """A study's program as a module."""
    spec = importlib.util.spec_from_file_location(f"{name}_study", STUDIES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return loaded("versatune")


def run(mix: str, seed: int, start: float, end: float, **ends: float) -> dict:
    names = ("law", "medicine", "finance", "science", "code", "general")
    return {
        "mix": mix,
        "seed": seed,
        "start": dict.fromkeys(names, start),
        "end": dict.fromkeys(names, end) | ends,
    }


def test_the_interval_is_students_t(study: ModuleType) -> None:
    mean, half = study.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / 3**0.5)


def test_mixes_are_compared_seed_by_seed(study: ModuleType) -> None:
    """Seeds differ by 1, mixes by .1 and .3: paired, the seeds cancel."""
    runs = [run("uniform", seed, 5.0, 4.0 + seed) for seed in (0, 1)]
    runs += [run("foster", seed, 5.0, 3.9 + seed - 0.2 * seed) for seed in (1, 0)]
    value, half = study.paired(runs, "foster", "uniform")
    assert value == pytest.approx(0.2)
    assert half == pytest.approx(12.706 * 0.1)
    assert study.verdict(value, half) == "not told apart"
    assert study.verdict(0.2, 0.1) == "holds"
    assert study.verdict(-0.2, 0.1) == "the other way round"


def test_what_the_target_gains_and_what_the_others_lose(study: ModuleType) -> None:
    one = run("expand", 0, 5.0, 5.1, science=4.2)
    assert study.gain(one) == pytest.approx(0.8)
    assert study.rises(one) == pytest.approx(0.5)
    assert study.rises(one, ["law"]) == pytest.approx(0.1)


def test_every_mix_is_a_recipe_of_as_many_steps(study: ModuleType, tmp_path: Path) -> None:
    mixes = [(model, mix) for model, of in study.MODELS.items() for mix in of]
    assert len(mixes) == 10
    reference = dict.fromkeys(study.NAMES, 1.0)
    steps = set()
    for model, mix in mixes:
        mixed = study.mixture(mix, detected="detected", reference=reference)
        path = study.written(study.recipe(model, mixed, seed=3), tmp_path / "recipe.yaml")
        recipe = read_tune_recipe(path)
        steps.add(recipe.settled_train.steps)
        assert recipe.train.seed == 3
        assert recipe.data.seed == 0
    assert len(steps) == 1


def test_the_tables_of_the_docs_are_those_of_the_results(study: ModuleType) -> None:
    results = read_json(study.RESULTS)
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert len(results["runs"]) == 50
    assert {found["seed"] for found in results["runs"]} == set(range(5))
    for one in study.tables(results).split("\n\n"):
        assert one in page
    assert results["commit"][:7] in page


# ILA


@pytest.fixture(scope="module")
def ila() -> ModuleType:
    return loaded("ila")


def tuned(condition: str, seed: int, end: float, start: float = 5.0) -> dict:
    return {"condition": condition, "seed": seed, "start": start, "end": end}


def test_conditions_are_compared_seed_by_seed(ila: ModuleType) -> None:
    runs = [tuned("all modules", seed, 4.0 + seed) for seed in (0, 1)]
    runs += [tuned("top 30 %", seed, 4.1 + 1.2 * seed) for seed in (1, 0)]
    value, half = ila.paired(runs, "top 30 %", "all modules")
    assert value == pytest.approx(0.2)
    assert half == pytest.approx(12.706 * 0.1)
    assert ila.verdict(value, half) == "not told apart"
    assert (ila.verdict(-0.2, 0.1), ila.verdict(0.2, 0.1)) == ("lower", "higher")


def test_the_part_of_the_gain_that_is_kept(ila: ModuleType) -> None:
    runs = [tuned("all modules", seed, 4.0) for seed in (0, 1)]
    runs += [tuned("top 30 %", 0, 4.2), tuned("top 30 %", 1, 4.4)]
    assert ila.kept_of(runs, "top 30 %")[0] == pytest.approx(0.7)


def test_scores_of_modules_add_up_to_those_of_sub_layers_and_blocks(ila: ModuleType) -> None:
    values = {"0.self_attn.q_proj": 1.0, "0.self_attn.v_proj": 2.0, "0.mlp.up_proj": 4.0}
    assert ila.grouped(values, "sublayer") == {"0.attention": 3.0, "0.mlp": 4.0}
    assert ila.grouped(values, "block") == {"0": 7.0}


def test_a_way_is_held_against_leave_one_out_of_rows_that_it_did_not_see(ila: ModuleType) -> None:
    """Its own seed agrees fully, the other one's leave-one-out has the opposite order."""
    up, down = {"a": 0.0, "b": 1.0, "c": 2.0}, {"a": 2.0, "b": 1.0, "c": 0.0}
    steep = {unit: 3 * value for unit, value in up.items()}
    exact = {"granularity": "module", "values": ila.mean_of([steep, down]), "seeds": [steep, down]}
    found = {"granularity": "module", "values": up, "seeds": [up, down]}
    assert ila.against_exact(found, exact) == (1.0, -1.0)
    assert ila.between(found["seeds"]) == -1.0


def test_every_condition_is_a_recipe_of_as_many_steps(ila: ModuleType, tmp_path: Path) -> None:
    assert len(ila.CONDITIONS) == 15
    steps = set()
    for condition in ila.CONDITIONS:
        values = ila.tune_recipe(condition, "general", seed=3, ranked=tmp_path)
        recipe = read_tune_recipe(ila.written(values, tmp_path / "recipe.yaml"))
        steps.add(recipe.settled_train.steps)
        assert (recipe.plan is None) == (condition == "all modules")
        assert recipe.train.seed == 3
        if condition.startswith("random"):
            assert recipe.plan is not None
            assert recipe.plan.parameters["seed"] == 3
    assert len(steps) == 1
    assert {name for pair in ila.PAIRS for name in pair} <= set(ila.CONDITIONS)


def test_the_ranking_is_a_recipe_with_the_default_way_first(
    ila: ModuleType, tmp_path: Path
) -> None:
    sizes = {
        "seeds": 3,
        "data": {},
        "train": {"windows": 4},
        "gates": {"batches": 8, "rows": 2, "samples": 2},
    }
    values = ila.rank_recipe("model", "rows.jsonl", seed=1, ways=ila.WAYS, sizes=sizes)
    recipe, _ = read_rank_recipe(str(ila.written(values, tmp_path / "recipe.yaml")))
    assert recipe.way == ila.WAYS[0] == RankRecipe.model_fields["way"].default
    assert (recipe.train.seed, recipe.train.windows, recipe.gates.batches) == (1, 4, 8)
    assert set(recipe.beside) == set(ila.WAYS[1:])


def test_the_tables_of_ila_in_the_docs_are_those_of_the_results(ila: ModuleType) -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    for part in ila.tables().split("\n\n"):
        assert part in page
    for one in (*ila.lines(ila.RANKING), *ila.lines(ila.TUNING)):
        assert one["commit"][:7] in page


# LATA


@pytest.fixture(scope="module")
def lata_tables() -> ModuleType:
    return loaded("lata_tables")


@pytest.fixture(scope="module")
def lata() -> Iterator[ModuleType]:
    """The program, which imports what lies beside it."""
    sys.path.insert(0, str(STUDIES))
    yield loaded("lata")
    sys.path.remove(str(STUDIES))


def merged(seed: int, control: str, nats: list[float], part: str = "learning") -> dict:
    """A merge of one domain with two documents of 10 and 30 tokens."""
    losses = {"retained": {"nats": nats, "tokens": [10, 30]}}
    return {
        "part": part,
        "seed": seed,
        "method": "linear_drop",
        "control": control,
        "losses": losses,
    }


def test_a_measure_weighs_domains_not_tokens(lata_tables: ModuleType) -> None:
    losses = {
        "long": {"nats": [300.0, 100.0], "tokens": [150, 50]},
        "short": {"nats": [8.0], "tokens": [2]},
    }
    shares = {"long": 0.5, "short": 0.5}
    assert lata_tables.loss(losses, shares) == pytest.approx((2.0 + 4.0) / 2)
    rows = lata_tables.items(losses, shares)
    assert sum(nats for nats, _ in rows) / sum(count for _, count in rows) == pytest.approx(3.0)
    against = lata_tables.items(losses, {"long": 1.0, "short": -1.0})
    ratio = sum(nats for nats, _ in against) / sum(count for _, count in against)
    assert ratio == pytest.approx(2.0 - 4.0)


def test_permuted_merges_are_averaged_document_by_document(lata_tables: ModuleType) -> None:
    lines = [merged(1, "permuted 1", [10.0, 30.0]), merged(1, "permuted 2", [30.0, 50.0])]
    found = lata_tables.by_seed(
        [*lines, merged(1, "", [0.0, 0.0])], "learning", "linear_drop", "permuted"
    )
    assert found == {1: {"retained": {"nats": [20.0, 40.0], "tokens": [10, 30]}}}


def test_merges_are_compared_seed_by_seed(lata_tables: ModuleType) -> None:
    """Seeds differ by a whole nat; the first is .1 and .3 lower: paired, the seeds cancel."""
    second = {seed: {"a": {"nats": [40.0 * (seed + 1)], "tokens": [40]}} for seed in (0, 1)}
    first = {
        seed: {"a": {"nats": [40.0 * (seed + 1) - 4 - 8 * seed], "tokens": [40]}} for seed in (0, 1)
    }
    found = lata_tables.compared(first, second, {"a": 1.0})
    assert found["value"] == pytest.approx(-0.2)
    assert found["half"] == pytest.approx(12.706 * 0.1)
    assert (found["wins"], found["seeds"]) == (2, 2)


def test_a_difference_is_shown_over_seeds_and_over_items_or_not_at_all(
    lata_tables: ModuleType,
) -> None:
    rows = [
        {"value": -0.2, "half": 0.1, "p": 0.001},
        {"value": 0.2, "half": 0.1, "p": 0.002},
        {"value": -0.2, "half": 0.3, "p": 0.001},
        {"value": -0.2, "half": 0.1, "p": 0.04},
    ]
    none = "no difference shown"
    told = lata_tables.corrected(rows)
    assert [row["verdict"] for row in told] == ["lower", "higher", none, "lower"]
    assert [row["holm"] for row in told] == pytest.approx([0.004, 0.004, 0.004, 0.04])
    assert lata_tables.corrected([*rows, rows[3]])[3]["verdict"] == none  # one more comparison


@pytest.mark.parametrize("root", [0.3, 1.7, 5.0])
def test_the_weight_of_equal_forgetting_is_found(lata: ModuleType, root: float) -> None:
    asked: list[float] = []

    def gap(weight: float) -> float:
        asked.append(weight)
        return weight**2 - root**2

    assert lata.solve(gap, -(root**2), 9) == pytest.approx(root, rel=0.01)
    assert len(asked) == 9
    assert lata.solve(lambda weight: weight - 100, -100, 2) == 2.0  # the nearest that was tried


def test_every_method_is_a_recipe(lata: ModuleType, tmp_path: Path) -> None:
    assert len(lata.LEARNING) == 7
    for method in lata.LEARNING:
        values = lata.recipe(method, 0.5, {"math": tmp_path / "math", "code": tmp_path / "code"})
        recipe = load_recipe(lata.written(values, tmp_path / "recipe.yaml"))
        assert len(recipe.models) == 2
        assert (recipe.method == "lata") == (method in lata.RANKED)
    for method in lata.METHODS:
        values = lata.forgetting_recipe(method, 0.5, tmp_path / "unwanted", tmp_path / "knowing")
        recipe = load_forgetting(lata.written(values, tmp_path / "recipe.yaml"))
        assert recipe.models[0].weight is not None
        assert [one.value for one in recipe.models[0].weight] == [-0.5]
        assert recipe.sparsifier == (method.lower() if method in ("TIES", "DARE") else None)


def test_a_solution_loses_the_calculators_marks(lata: ModuleType) -> None:
    assert (
        lata.plain_solution("He has 2*3=<<2*3=6>>6 pens.\n#### 6") == "He has 2*3=6 pens.\n#### 6"
    )


def test_the_tables_of_lata_in_the_docs_are_those_of_the_results(lata_tables: ModuleType) -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    lines = lata_tables.read_lines()
    assert {one["seed"] for one in lines if one["part"] != "sweep"} >= {1, 2, 3}
    for part in lata_tables.tables().split("\n\n"):
        assert part in page
    for one in lines:
        assert one["commit"][:7] in page


def test_the_differences_in_the_words_on_lata_are_those_of_the_tables(
    lata_tables: ModuleType,
) -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    section = page[page.index("## LATA on") :]
    words = section.replace(lata_tables.tables(), "")
    told = re.findall(r"(\d\.\d{3}) ± (\d\.\d{3})", words)
    lines = lata_tables.read_lines()
    asked = [("learning", lata_tables.LEARNING["all three"])]
    asked += [("forgetting", shares) for shares in lata_tables.SPARED.values()]
    known = {
        (f"{abs(row['value']):.3f}", f"{row['half']:.3f}")
        for part, shares in asked
        for row in lata_tables.comparisons(lines, part, shares)
    }
    assert len(told) > 20
    assert set(told) <= known
