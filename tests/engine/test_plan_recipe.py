"""`plan:` in a recipe: what may stand there, what is refused, that it reads back the same."""

from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import RecipeError
from lamina.core.recipe import validate
from lamina.engine.plan_recipe import PlanSection
from lamina.versatune.recipe import TuneRecipe, read_tune_recipe


def recipe(plan: Any, **train: Any) -> TuneRecipe:
    values = {"model": "m", "domains": {"a": "a.jsonl"}, "train": train, "plan": plan}
    return validate(TuneRecipe, values, "r.yaml")


def refused(plan: Any, **train: Any) -> str:
    with pytest.raises(RecipeError) as error:
        recipe(plan, **train)
    return str(error.value)


def test_a_text_is_a_file() -> None:
    assert recipe("plan.json").plan == PlanSection(file="plan.json")


def test_parameters_of_the_rule_stand_beside_the_common_keys() -> None:
    plan = recipe({"scores": "s.json", "rule": "per_type", "share": 0.3}).plan
    assert plan is not None
    assert (plan.rule, plan.parameters) == ("per_type", {"share": 0.3})


def test_a_budget_of_parameters_is_no_map_of_parameters() -> None:
    plan = recipe({"scores": "s.json", "rule": "budget", "parameters": 1000}).plan
    assert plan is not None
    assert plan.parameters == {"parameters": 1000}
    inner = {"scores": "s.json", "rule": "budget", "parameters": {"share_of_parameters": 0.2}}
    assert PlanSection.model_validate(inner).parameters == {"share_of_parameters": 0.2}


@pytest.mark.parametrize(
    "plan",
    [
        "plan.json",
        {"scores": "s.json", "share": 0.3, "unfreeze": "norm"},
        {"scores": "s.json", "expert": "math", "rule": "budget", "parameters": 1000},
        {"rule": "random", "share": 0.25, "seed": 3, "cache_prefix": True},
        {"rule": "all", "unfreeze": ["norm", "lm_head"], "start": "adapter", "check_base": False},
    ],
)
def test_a_recipe_with_a_plan_reads_back_the_same(plan: Any) -> None:
    first = recipe(plan)
    values = first.to_mapping()
    assert "targets" not in values["train"]
    assert TuneRecipe.model_validate(values) == first
    assert TuneRecipe.model_validate(values).to_mapping() == values


def test_an_override_reaches_into_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("model: m\ndomains: {a: a.jsonl}\nplan: {scores: s.json, share: 0.3}\n")
    plan = read_tune_recipe(file, ["plan.share=0.1"]).plan
    assert plan is not None
    assert plan.parameters == {"share": 0.1}


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"file": "p.json", "scores": "s.json"}, "either `file` (a plan) or `scores`"),
        ({"share": 0.3}, "neither `file` nor `scores` is given, and rule `top` needs scores"),
        ({"file": "p.json", "share": 0.3}, "share would change nothing"),
        ({"file": "p.json", "rule": "top"}, "rule would change nothing"),
        ({"file": "p.json", "unfreez": "norm"}, "plan.unfreez: unknown key; did you mean `unf"),
        ({"file": "p.json", "expert": "math"}, "plan.expert is used with `scores` of a merge"),
        ({"scores": "s.json", "rule": "tpo", "share": 0.3}, "did you mean `top`?"),
        ({"scores": "s.json", "shar": 0.3}, "plan.shar: unknown key; did you mean `share`?"),
        ({"scores": "s.json"}, "share: missing; a number above 0 and at most 1"),
        ({"scores": "s.json", "share": 0}, "share: a number above 0 and at most 1"),
        ({"scores": "s.json", "share": 1.5}, "share: a number above 0 and at most 1"),
        (
            {"scores": "s.json", "share": 0.3, "seed": 1},
            "plan.seed: rule `top` does not use it (matched_random, random: yes)",
        ),
        ({"rule": "all", "unfreeze": ["norm", "norm"]}, "plan.unfreeze names norm twice"),
        ({"scores": "s.json", "rule": "budget"}, "give either parameters (a number) or share_of_"),
    ],
)
def test_what_a_plan_cannot_say_is_told(plan: Any, told: str) -> None:
    assert told in refused(plan)


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = refused({"scores": "s.json", "shar": 0.3, "unfreeze": ["norm", "norm"]}, targets="x")
    assert "plan.shar: unknown key" in told
    assert "share: missing" in told
    assert "names norm twice" in told
    assert "train.targets and `plan` both say which modules are tuned" in told


def test_an_adapter_to_start_from_needs_an_adapter() -> None:
    assert "plan.start gives adapters" in refused({"rule": "all", "start": "a"}, method="full")
