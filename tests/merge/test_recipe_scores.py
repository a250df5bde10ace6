"""The rule `scores` in a merge file: what it takes, what it needs, and what it takes no more."""

import pytest

from lamina.core.errors import RecipeError
from lamina.core.yaml import load_yaml
from lamina.merge.recipe import MergeRecipe, forgetting_from_dict, from_dict

SCORES = """
merge_method: lata
instruct_model: ./instruct
models:
  - {model: ./math, parameters: {weight: 0.5}}
  - {model: ./code, parameters: {weight: 0.5, scores: ./code.json, expert: kode}}
parameters: {rule: scores, scores: ./math.json}
"""


def read(text: str) -> MergeRecipe:
    return from_dict(load_yaml(text), "recipe.yaml")


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text)
    return str(caught.value)


def test_a_models_own_file_comes_before_that_of_all_and_no_base_is_needed():
    recipe = read(SCORES)
    assert [entry.scores for entry in recipe.models] == ["./math.json", "./code.json"]
    assert [entry.expert for entry in recipe.models] == [None, "kode"]
    assert (recipe.rule, recipe.shape, recipe.share, recipe.check_base) == (
        *("scores", "linear", None),
        True,
    )
    assert recipe.base_model is None
    assert recipe.warnings == ()


@pytest.mark.parametrize(
    "more", ["", ", shape: top, share: 0.3", ", shape: log, check_base: false"]
)
def test_it_reads_back_the_same(more: str):
    recipe = read(SCORES.replace("./math.json}", f"./math.json{more}}}"))
    assert from_dict(load_yaml(recipe.to_yaml()), "again") == recipe


def test_a_base_is_told_to_have_no_effect():
    recipe = read(SCORES + "base_model: ./base\n")
    assert recipe.base_model is None
    assert "no effect with `rule: scores`" in recipe.warnings[0]


def test_it_can_forget():
    text = SCORES.replace("{weight: 0.5}", "{weight: 0.5}")
    recipe = forgetting_from_dict(load_yaml(text), "recipe.yaml")
    assert recipe.rule == "scores"
    assert all(setting.value == -0.5 for entry in recipe.models for setting in entry.weight or ())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (", scores: ./math.json", "", "models[0].parameters.scores: is missing"),
        ("./math.json}", "./math.json, shape: tpo}", "did you mean `top`"),
        ("./math.json}", "./math.json, shape: top}", "parameters.share: is missing"),
        ("./math.json}", "./math.json, share: 0.3}", "without `shape: top`"),
        ("./math.json}", "./math.json, shape: top, share: 0}", "above 0, at most 1"),
        ("./math.json}", "./math.json, shape: top, share: 1.5}", "is 1.5"),
        ("./math.json}", "./math.json, threshold: 0.9}", "no effect with `rule: scores`"),
        ("./math.json}", "./math.json, granularity: block}", "the scores have theirs"),
        ("./math.json}", "[1]}", "parameters.scores: needs a text"),
        ("rule: scores, scores: ./math.json", "rule: log_drop", "models[1].parameters.scores: has"),
        ("rule: scores", "rule: log_drop", "parameters.scores: has no effect without"),
        ("rule: scores", "rule: score", "did you mean `scores`"),
        ("merge_method: lata", "merge_method: ties", "parameters.scores: belongs to lata"),
        ("weight: 0.5, scores", "weight: 0.5, shape: top, scores", "is not a model's own"),
    ],
)
def test_what_does_not_go_together_is_told(old: str, new: str, says: str):
    assert old in SCORES
    assert says in refused(SCORES.replace(old, new))


def test_a_misspelt_rule_is_one_problem():
    told = refused(SCORES.replace("rule: scores", "rule: scroes") + "base_model: ./base\n")
    assert told.startswith("1 problem in recipe.yaml")
    assert "did you mean `scores`" in told
