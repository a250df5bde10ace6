"""The recipes in `recipes/`: each is read, says what its name says, and reads back the same."""

from pathlib import Path

import pytest

from lamina.core.yaml import load_yaml
from lamina.jobs.plan import settle_plan
from lamina.jobs.prepare import prepare
from lamina.jobs.scores_file import read_scores
from lamina.merge.recipe import MergeRecipe, from_dict, load_forgetting, load_recipe
from lamina.versatune.recipe import TuneRecipe, read_tune_recipe
from lamina.weights.checkpoint import open_checkpoint

FOLDER = Path(__file__).parents[1] / "recipes"
METHODS = {
    "dare": "dare_ties",
    "forget": "lata",
    "lata": "lata",
    "lata_controls": "lata",
    "lata_modules": "lata",
    "lata_ties": "lata",
    "linear": "linear",
    "rank_merge": "lata",
    "slerp": "slerp",
    "sweep": "lata",
    "task_arithmetic": "task_arithmetic",
    "ties_global": "ties",
}
POLICIES = ("constant", "expand", "foster")
"""Recipes of `lamina tune`, each with the name of its policy."""
PLANNED = ("cosine_freeze", "ila")
"""Recipes of `lamina tune` with a plan."""
DATA = ("code_cosines", "code_ranking")
"""Scores that recipes read."""


def read(name: str) -> MergeRecipe:
    load = load_forgetting if name == "forget" else load_recipe
    return load(FOLDER / f"{name}.yaml")


def test_every_recipe_of_the_folder_is_known_here():
    found = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert found == sorted([*METHODS, *POLICIES, *PLANNED])
    assert len(found) == 17
    assert sorted(path.stem for path in FOLDER.glob("data/*.json")) == list(DATA)
    assert len([*FOLDER.iterdir()]) == 18


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_recipe_reads_without_a_warning_and_reads_back_the_same(name):
    recipe = read(name)
    assert recipe.method == METHODS[name]
    assert recipe.warnings == ()
    again = from_dict(load_yaml(recipe.to_yaml()), "again")
    assert again == recipe


def test_the_sweep_has_three_settings_of_which_two_are_named_by_their_weight():
    assert [s.name for s in read("sweep").sweep] == ["weight-0.25", "weight-0.5", "mostly-math"]


def test_the_recipe_that_forgets_has_a_minus_and_the_papers_threshold():
    recipe = read("forget")
    assert [s.value for s in recipe.models[0].weight] == [-1.0]
    assert (recipe.rule, recipe.threshold) == ("threshold", 0.95)


def test_the_controls_name_their_texts():
    recipe = read("lata_controls")
    assert dict(recipe.heldout) == {
        "general": "./heldout/general.txt",
        "math": "./heldout/math.jsonl",
    }
    assert recipe.controls.permutations == 8


def test_a_ranking_of_the_demos_model_drives_a_merge_of_the_demos_models():
    """The files in the repository fit one another: headers, layers and fingerprints."""
    prepared = prepare(FOLDER / "rank_merge.yaml")
    plan = prepared.given["code"].plan
    taken = {unit: c for unit, c in plan.coefficients.items() if c}
    assert len(taken) == 56
    assert sorted(taken.values())[-1] == 1.0
    assert plan.others == 0.0


def test_cosines_of_the_demos_models_choose_the_half_that_is_tuned():
    recipe = read_tune_recipe(FOLDER / "cosine_freeze.yaml")
    assert recipe.plan is not None
    model = FOLDER / recipe.model
    plan = settle_plan(
        recipe.plan,
        model_folder=model,
        model_name=recipe.model,
        fingerprint=open_checkpoint(model).fingerprint,
        home=FOLDER,
        rank=recipe.train.rank,
    )
    cosines = read_scores(FOLDER / str(recipe.plan.scores), "code").values
    tuned = set(plan.chosen)
    frozen = plan.coefficients.keys() - tuned
    assert (len(tuned), len(frozen)) == (28, 28)
    assert max(cosines[unit] for unit in tuned) <= min(cosines[unit] for unit in frozen)
    assert TuneRecipe.model_validate(recipe.to_mapping()) == recipe


@pytest.mark.parametrize("name", POLICIES)
def test_a_recipe_to_tune_finds_its_files_and_reads_back_the_same(name):
    recipe = read_tune_recipe(FOLDER / f"{name}.yaml")
    assert [stage.policy for stage in recipe.mixture] == [name]
    assert set(recipe.domains) == {"law", "medicine", "finance", "science", "code", "general"}
    paths = [source.path for domain in recipe.domains.values() for source in domain.sources]
    assert len(paths) == 12
    assert all((FOLDER / path).is_file() for path in paths)
    assert (FOLDER / recipe.model / "model.safetensors").is_file()
    assert TuneRecipe.model_validate(recipe.to_mapping()) == recipe
    assert "7B" in (FOLDER / f"{name}.yaml").read_text()


def test_expansion_keeps_a_share_of_general_requests():
    recipe = read_tune_recipe(FOLDER / "expand.yaml")
    stage = recipe.mixture[0]
    assert stage.parameters["target"] == "medicine"
    assert stage.floor > 0
    asked = recipe.domains["general"].sources[0]
    assert asked.path.endswith("general.jsonl.gz")
    assert asked.share == 0.6


def test_a_ranking_of_the_demos_model_chooses_what_is_tuned():
    recipe = read_tune_recipe(FOLDER / "ila.yaml")
    assert recipe.plan is not None
    model = FOLDER / recipe.model
    plan = settle_plan(
        recipe.plan,
        model_folder=model,
        model_name=recipe.model,
        fingerprint=open_checkpoint(model).fingerprint,
        home=FOLDER,
        rank=recipe.train.rank,
    )
    scores = read_scores(FOLDER / str(recipe.plan.scores)).values
    tuned = set(plan.chosen)
    assert (len(tuned), len(scores)) == (17, 56)
    assert min(scores[u] for u in tuned) >= max(v for u, v in scores.items() if u not in tuned)
    assert plan.full == ("norm",)
    assert TuneRecipe.model_validate(recipe.to_mapping()) == recipe
