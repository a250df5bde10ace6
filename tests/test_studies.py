"""The studies: their arithmetic by hand, their recipes read, their tables those of the docs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lamina.core.manifest import read_json
from lamina.ila.recipe import RankRecipe
from lamina.jobs.rank import read_rank_recipe
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
