"""The recipes in `recipes/`: each is read, says what its name says, and reads back the same."""

from pathlib import Path

import pytest

from lamina.core.yaml import load_yaml
from lamina.merge.recipe import MergeRecipe, from_dict, load_forgetting, load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
METHODS = {
    "dare": "dare_ties",
    "forget": "lata",
    "lata": "lata",
    "lata_controls": "lata",
    "lata_modules": "lata",
    "lata_ties": "lata",
    "linear": "linear",
    "slerp": "slerp",
    "sweep": "lata",
    "task_arithmetic": "task_arithmetic",
    "ties_global": "ties",
}


def read(name: str) -> MergeRecipe:
    load = load_forgetting if name == "forget" else load_recipe
    return load(FOLDER / f"{name}.yaml")


def test_every_recipe_of_the_folder_is_known_here():
    found = sorted(path.stem for path in FOLDER.iterdir())
    assert found == sorted(METHODS)
    assert len(found) == 11


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
