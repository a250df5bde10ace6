"""The same file, read to take the experts away."""

import pytest

from lamina.core.errors import RecipeError
from lamina.core.yaml import load_yaml
from lamina.merge.recipe import MergeRecipe, Setting, forgetting_from_dict, from_dict

TEXT = """
merge_method: lata
base_model: ./base
instruct_model: ./instruct
target_model: ./german
models: [{model: ./unwanted}]
"""


def read(text: str) -> MergeRecipe:
    return forgetting_from_dict(load_yaml(text), "forget.yaml")


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text)
    return str(caught.value)


def test_weight_and_rule_have_the_papers_values() -> None:
    recipe = read(TEXT)
    assert recipe.models[0].weight == (Setting(-1.0),)
    assert (recipe.rule, recipe.threshold) == ("threshold", 0.95)
    assert recipe.target_model == "./german"


def test_given_weights_change_their_sign() -> None:
    recipe = read(TEXT + "parameters: {weight: [0, 0.5], rule: log_drop}\nsweep: [{weight: 2}]\n")
    assert recipe.models[0].weight == (Setting((0.0, -0.5)),)
    assert recipe.sweep[0].weights == {"unwanted": (Setting(-2.0),)}
    assert recipe.sweep[0].name == "weight-2"
    assert (recipe.rule, recipe.threshold) == ("log_drop", None)


def test_threshold_alone_chooses_its_rule() -> None:
    recipe = read(TEXT + "parameters: {threshold: 0.9}\n")
    assert (recipe.rule, recipe.threshold) == ("threshold", 0.9)


def test_what_was_forgotten_can_be_run_again_as_a_merge() -> None:
    recipe = read(TEXT)
    assert from_dict(load_yaml(recipe.to_yaml()), "again") == recipe


def test_task_arithmetic_forgets_too() -> None:
    text = "merge_method: task_arithmetic\nbase_model: ./instruct\nmodels: [{model: ./unwanted}]\n"
    recipe = read(text)
    assert recipe.models[0].weight == (Setting(-1.0),)
    assert recipe.rule is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (TEXT + "parameters: {weight: -1}\n", "is -1: forgetting puts the minus there"),
        (TEXT + "parameters: {normalize: true}\n", "would undo the minus"),
        (TEXT + "parameters: {lambda: -1}\n", "parameters.lambda: is -1"),
        (
            "merge_method: ties\nbase_model: b\nmodels: [{model: a}]\n",
            "`ties` cannot forget; use `lata` or `task_arithmetic`",
        ),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    message = refused(text)
    assert told in message
    assert "forget.yaml" in message
