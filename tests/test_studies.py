"""The studies: their arithmetic by hand, their recipes read, their tables those of the docs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from lamina.core.manifest import read_json
from lamina.versatune.recipe import read_tune_recipe

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "studies" / "versatune.py"
pytestmark = pytest.mark.skipif(not PROGRAM.is_file(), reason="the studies are in the repository")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("versatune_study", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
