"""The demo's ranking and tunings of some modules are recipes that differ in the plan alone."""

from pathlib import Path

import pytest

from lamina.core.yaml import dump_yaml
from lamina.jobs import demo, demo_layers
from lamina.jobs.rank import read_rank_recipe
from lamina.versatune.recipe import read_tune_recipe

RANKING, TUNINGS = demo.layer_recipes(demo.list_members())


def test_the_ranking_is_a_recipe_of_the_raw_model_beside_exact_leave_one_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rank.yaml"
    path.write_text(dump_yaml(RANKING))
    recipe, home = read_rank_recipe(str(path))
    assert home == tmp_path
    assert recipe.model == demo.list_members()["base"]
    assert "leave_one_out" in recipe.beside
    assert recipe.seeds == 2
    assert 40 <= recipe.train.steps <= 60
    assert [source.path for source in recipe.domains["instruct"].sources] == [
        str(demo.demo_folder() / "domains" / "general.jsonl.gz")
    ]


@pytest.mark.parametrize(
    ("name", "rule", "parameters"),
    [
        ("all", "all", {}),
        ("lowest_quarter_frozen", "top", {"share": 0.75}),
        ("top_30", "top", {"share": 0.3}),
        ("random_30", "matched_random", {"share": 0.3, "seed": 1}),
    ],
)
def test_each_tuning_is_a_recipe_with_a_plan(
    tmp_path: Path, name: str, rule: str, parameters: dict
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(dump_yaml(TUNINGS[name]))
    plan = read_tune_recipe(path).plan
    assert plan is not None
    assert (plan.rule, plan.parameters) == (rule, parameters)
    assert plan.problems("lora") == []


def test_the_tunings_have_the_same_rows_steps_and_seed() -> None:
    assert list(TUNINGS) == ["all", "lowest_quarter_frozen", "top_30", "random_30"]
    rest = [{key: value for key, value in one.items() if key != "plan"} for one in TUNINGS.values()]
    assert all(one == rest[0] for one in rest)
    assert rest[0]["domains"] == RANKING["domains"]
    assert rest[0]["data"] == RANKING["data"]


def test_scores_are_found_beside_the_folder_of_the_tunings(tmp_path: Path) -> None:
    folder = tmp_path / demo_layers.LAYERS
    named = [one["plan"]["scores"] for one in TUNINGS.values() if "scores" in one["plan"]]
    assert len(named) == 3
    for scores in named:
        found = (folder / scores).resolve()
        assert found == tmp_path.resolve() / demo_layers.RANKED / "scores.json"


def test_pairs_are_of_tunings_that_there_are() -> None:
    assert {name for pair in demo_layers.PAIRS for name in pair} == TUNINGS.keys()
    assert demo_layers.PLANS.keys() == TUNINGS.keys()
