"""A tune recipe says what it means: short forms, defaults, stages, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import RecipeError
from lamina.core.recipe import validate
from lamina.versatune.policies import POLICIES, parameters_of
from lamina.versatune.recipe import StageSection, TuneRecipe, read_tune_recipe

DOMAINS = {"law": "law.jsonl", "code": {"path": "code.parquet", "type": "alpaca"}}


def recipe(**keys: Any) -> TuneRecipe:
    values = {"model": "base", "domains": DOMAINS}
    return validate(TuneRecipe, values | keys, "recipe.yaml")


def test_a_model_and_domains_are_enough() -> None:
    made = recipe()
    assert [stage.policy for stage in made.mixture] == ["foster"]
    assert made.stage_windows == (made.train.windows,)
    assert made.domains["code"].sources[0].type == "alpaca"
    assert made.general == "default"


def test_a_policys_own_parameters_stand_beside_the_common_keys() -> None:
    (stage,) = recipe(mixture={"policy": "foster", "growth": 9, "floor": 0.1}).mixture
    assert stage.parameters == {"growth": 9}
    assert stage.floor == 0.1


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_takes_its_parameters_and_no_other(policy: str) -> None:
    own = {key: "law" if key == "target" else None for key in parameters_of(policy)}
    section = StageSection.model_validate({"policy": policy, **own})
    assert set(section.parameters) == set(own)
    with pytest.raises(ValueError, match="unknown key"):
        StageSection.model_validate({"policy": policy, **own, "zzz": 1})


def test_a_single_stage_may_have_the_windows() -> None:
    made = recipe(mixture={"policy": "uniform", "windows": 3})
    assert made.stage_windows == (3,)
    assert made.settled_train.windows == 3
    with pytest.raises(RecipeError, match=r"mixture.windows is 3, but train.windows is 4"):
        recipe(mixture={"policy": "uniform", "windows": 3}, train={"windows": 4})


def test_windows_of_stages_are_added_up() -> None:
    stages = [{"policy": "uniform", "windows": 3}, {"policy": "constant", "windows": 2}]
    assert recipe(mixture=stages).settled_train.windows == 5
    with pytest.raises(RecipeError, match=r"5 windows, but train.windows is 8"):
        recipe(mixture=stages, train={"windows": 8})
    with pytest.raises(RecipeError, match="the list of stages is empty"):
        recipe(mixture=[])


def test_self_distillation_may_be_a_bare_weight() -> None:
    made = recipe(self_distillation=0.5).self_distillation
    assert made is not None
    assert (made.weight, made.domains) == (0.5, None)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"general": None},
        {"general": "text.txt"},
        {"train": {"method": "full", "windows": 4}},
        {"mixture": {"policy": "expand", "target": "law", "windows": 3, "sigma": 0.5}},
        {
            "mixture": [
                {"policy": "foster", "windows": 2, "start": "by_size"},
                {"policy": "inverse", "windows": 1},
                {"policy": "odm", "windows": 1, "start": {"law": 0.25, "code": 0.75}},
            ]
        },
        {"self_distillation": {"weight": 1, "domains": ["law"]}, "max_forgetting": 0.05},
    ],
    ids=["least", "no general", "general", "full", "one stage", "stages", "gates"],
)
def test_what_is_written_down_is_the_same_recipe(keys: dict[str, Any], tmp_path: Path) -> None:
    made = recipe(**keys)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(made.to_mapping(), sort_keys=False))
    again = read_tune_recipe(tmp_path / "r.yaml")
    assert again.to_mapping() == made.to_mapping()
    assert again.general == made.general
    assert again.stage_windows == made.stage_windows
    given_starts = [
        [number == 0 or "start" in stage.model_fields_set for number, stage in enumerate(r.mixture)]
        for r in (made, again)
    ]
    assert given_starts[0] == given_starts[1]


@given(
    weights=st.lists(st.integers(0, 9), min_size=2, max_size=2).filter(any),
    floor=st.floats(0, 1),
)
def test_weights_and_floors_are_taken_if_and_only_if_they_can_be(
    weights: list[int], floor: float
) -> None:
    start = dict(zip(DOMAINS, (w / 10 for w in weights), strict=True))
    fits = abs(sum(start.values()) - 1) < 1e-6 and 2 * floor <= 1
    mixture = {"policy": "constant", "start": start, "floor": floor}
    if fits:
        recipe(mixture=mixture)
        return
    with pytest.raises(RecipeError) as told:
        recipe(mixture=mixture)
    assert ("sum to" in str(told.value)) == (abs(sum(start.values()) - 1) >= 1e-6)
    assert ("mixture.floor" in str(told.value)) == (2 * floor > 1)


def test_a_reference_is_given_or_it_is_not() -> None:
    with pytest.raises(RecipeError, match="must hold a number for every domain"):
        recipe(mixture={"policy": "foster", "reference": {"way": "given"}})
    with pytest.raises(RecipeError, match="write way: given"):
        recipe(mixture={"policy": "foster", "reference": {"losses": {"law": 1.0}}})


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
def test_names_of_domains_can_be_shown(name: str) -> None:
    with pytest.raises(RecipeError, match="names of domains"):
        recipe(domains={name: "law.jsonl"})


def test_trackers_may_be_one_name_or_none() -> None:
    assert recipe(train={"report_to": "wandb"}).train.report_to == ("wandb",)
    assert recipe(train={"report_to": "none"}).train.report_to == ()


def test_overrides_reach_every_key(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"model": "base", "domains": DOMAINS}))
    made = read_tune_recipe(path, ["train.windows=2", "mixture.policy=odm", "mixture.scale=5"])
    assert made.train.windows == 2
    assert made.mixture[0].parameters == {"scale": 5}


def test_keys_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(RecipeError, match="used with `start: detected` alone"):
        recipe(mixture={"policy": "foster", "detected": "known"})
    with pytest.raises(RecipeError, match="schedule `constant` has no warmup"):
        recipe(train={"schedule": "constant", "warmup": 0.1})
    made = recipe(train={"schedule": "constant"})
    assert validate(TuneRecipe, made.to_mapping(), "again").to_mapping() == made.to_mapping()


def test_a_beta_of_one_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"train\.betas"):
        recipe(train={"betas": [0.9, 1.0]})


def test_a_constant_rate_goes_through_the_file_and_back(tmp_path: Path) -> None:
    values = {"model": "m", "domains": {"law": "a.jsonl"}, "train": {"schedule": "constant"}}
    recipe = TuneRecipe.model_validate(values | {"mixture": {"policy": "uniform"}})
    assert TuneRecipe.model_validate(recipe.to_mapping()) == recipe
