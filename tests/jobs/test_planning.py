"""`lamina plan`: with the model, without it, and the file it writes."""

import json

import pytest
from plan_kit import model_of, scores_of, write_merge_scores, write_scores

from lamina.core.errors import CheckpointError, LayerError, OutputError, RecipeError
from lamina.jobs.plan_file import read_plan
from lamina.jobs.planning import run_plan


@pytest.fixture
def model(tmp_path):
    return model_of(tmp_path / "model")


def planned(file, *, rule="top", **more):
    return run_plan(file, rule=rule, overrides=more.pop("overrides", ("share=.25",)), **more)


def test_the_plan_is_written_whole_and_reads_back(model, tmp_path):
    path, out = write_scores(tmp_path, scores_of(model)), tmp_path / "plan.json"
    found = planned(path, out=out)
    assert read_plan(out) == found.plan == read_plan(tmp_path)
    assert found.plan.from_scores == str(path)
    assert json.loads(out.read_text())["schema"] == "lamina.layer_plan/1"
    assert not [one for one in tmp_path.iterdir() if one.name.endswith(".part")]
    first = out.read_bytes()
    planned(tmp_path, out=out)  # the folder will do, and an earlier plan is replaced
    assert out.read_bytes() == first


def test_the_trade_off_is_of_as_many_modules_as_the_plan_has(model, tmp_path):
    found = planned(write_scores(tmp_path, scores_of(model)))
    assert [offer.lowest_block for offer in found.offers] == [2]
    values = {one: -value for one, value in scores_of(model).values.items()}
    lifted = {one: value + 30 for one, value in values.items()}
    found = planned(write_scores(tmp_path, scores_of(model, values=lifted)))
    assert [offer.lowest_block for offer in found.offers] == [0, 1, 2]
    assert found.offers[0].kept == 1.0 > found.offers[1].kept > found.offers[2].kept
    assert found.offers[0].step > found.offers[1].step > found.offers[2].step
    assert planned(tmp_path, rule="random").offers == ()


def test_without_the_model_the_scores_sizes_do(model, tmp_path):
    scores = scores_of(model)
    here = planned(write_scores(tmp_path, scores), rank=4)
    away = scores.model_copy(update={"model": "gone/away/model"})
    there = planned(write_scores(tmp_path, away))
    assert there.plan.coefficients == here.plan.coefficients
    assert there.plan.price["parameters"] == here.plan.price["parameters"]
    assert there.plan.price["lowest_block"] == here.plan.price["lowest_block"]
    assert "not at hand" in there.notes[0]
    assert here.notes == ()


def test_without_the_model_and_without_sizes_it_says_what_is_needed(model, tmp_path):
    blocks = {"granularity": "block", "values": {"0": 1.0, "1": 2.0, "2": 3.0}, "columns": {}}
    for more in ({"columns": {}}, blocks):
        scores = scores_of(model, **more).model_copy(update={"model": "gone"})
        path = write_scores(tmp_path, scores)
        with pytest.raises(RecipeError, match=r"gone is not here.*give --model FOLDER"):
            planned(path)
        assert planned(path, model=str(model)).plan.chosen
    for more in ({"rank": 8}, {"unfreeze": ("norm",)}):
        with pytest.raises(RecipeError, match="--rank and --unfreeze need"):
            planned(path, **more)


def test_another_model_than_the_ranked_one(model, tmp_path):
    path = write_scores(tmp_path, scores_of(model))
    with pytest.raises(LayerError, match="on another model"):
        planned(path, model=str(model_of(tmp_path / "other", seed=5)))
    with pytest.raises(LayerError, match="do not fit a model of 28"):
        planned(path, model=str(model_of(tmp_path / "deep", blocks=4)))
    with pytest.raises(CheckpointError, match="does not exist"):
        planned(path, model=str(tmp_path / "nowhere"))


def test_a_merges_expert_is_named(model, tmp_path):
    path = write_merge_scores(tmp_path, math=scores_of(model), code=scores_of(model))
    assert planned(path, expert="code", rule="bottom").plan.chosen


def test_nothing_that_is_no_plan_of_ours_is_overwritten(model, tmp_path):
    path = write_scores(tmp_path, scores_of(model))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is no plan of lamina"):
        planned(path, out=path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="is a folder"):
        planned(path, out=tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        planned(path, out=tmp_path / "no" / "plan.json")
    merges = tmp_path / "plan.json"
    merges.write_text('{"schema": "lamina.plan/1", "experts": {}}')
    with pytest.raises(OutputError, match="is no plan of lamina"):
        planned(path, out=merges)


def test_nothing_is_written_where_the_plan_fails(model, tmp_path):
    path, out = write_scores(tmp_path, scores_of(model)), tmp_path / "plan.json"
    with pytest.raises(RecipeError, match="a budget of 3"):
        planned(path, rule="budget", overrides=("parameters=3",), out=out)
    with pytest.raises(RecipeError, match="did you mean `prefix_friendly`"):
        planned(path, rule="prefix_friendl", out=out)
    with pytest.raises(RecipeError, match="at least 1, not 0"):
        planned(path, rank=0, out=out)
    assert not out.exists()
