"""`lamina compare`: names, experts, and what cannot be compared."""

import json

import pytest
from plan_kit import model_of, scores_of, write_merge_scores, write_scores

from lamina.core.errors import DataError, LaminaError, LayerError, RecipeError
from lamina.jobs.compare import run_compare


@pytest.fixture
def model(tmp_path):
    return model_of(tmp_path / "model")


def turned(scores):
    return scores.model_copy(update={"values": {one: -v for one, v in scores.values.items()}})


def test_files_and_folders_by_the_shortest_names_that_differ(model, tmp_path):
    one = scores_of(model)
    write_scores(tmp_path / "a" / "run", one)
    write_scores(tmp_path / "b" / "run", turned(one))
    other = tmp_path / "b" / "extra.json"
    other.write_text(one.to_json())
    found = run_compare(
        [tmp_path / "a" / "run", tmp_path / "b" / "run" / "scores.json", other], share=0.3
    )
    assert found.comparison.names == ("a/run", "b/run", "b/extra.json")
    assert found.comparison.spearman[0] == (1.0, -1.0, 1.0)
    assert found.comparison.shared[0] == (1.0, 0.0, 1.0)
    assert json.loads(json.dumps(found.to_dict()))["schema"] == "lamina.comparison/1"


def test_every_expert_of_a_merge_or_the_one_that_is_named_norms_left_out(model, tmp_path):
    one = scores_of(model)
    more = {**one.values, "0.input_layernorm": 3.0}
    merged = one.model_copy(update={"values": more, "columns": {}})
    write_merge_scores(tmp_path / "merge", math=merged, code=turned(merged))
    write_scores(tmp_path / "rank", one)
    every = run_compare([tmp_path / "merge", tmp_path / "rank"], share=0.3).comparison
    assert every.names == ("merge:math", "merge:code", "rank")
    assert every.units == 21
    named = run_compare([tmp_path / "merge", tmp_path / "rank"], share=0.3, expert="code")
    assert named.comparison.names == ("merge", "rank")
    assert named.comparison.spearman[0][1] == -1.0
    assert len(run_compare([tmp_path / "merge"], share=0.3).comparison.names) == 2


def test_what_is_refused(model, tmp_path):
    one = scores_of(model)
    write_scores(tmp_path / "a", one)
    write_scores(tmp_path / "deep", scores_of(model_of(tmp_path / "deep_model", blocks=4)))
    blocks = {"granularity": "block", "values": {"0": 1.0, "1": 2.0, "2": 3.0}, "columns": {}}
    write_scores(tmp_path / "blocks", one.model_copy(update=blocks))
    a = tmp_path / "a"
    for files, share, kind, told in (
        ([], 0.3, RecipeError, "0 ranking"),
        ([a], 0.3, RecipeError, "1 ranking"),
        ([a, a], 0.3, RecipeError, "given twice"),
        ([a, tmp_path / "deep"], 0.3, LayerError, r"21 units \(a\) and 28 \(deep\)"),
        ([a, tmp_path / "blocks"], 0.3, LayerError, "a by module, blocks by block"),
        ([a, tmp_path / "none"], 0.3, DataError, "no file"),
        ([a, tmp_path / "deep"], 0, RecipeError, "above 0 and at most 1"),
    ):
        with pytest.raises(kind, match=told):
            run_compare(files, share=share)


@pytest.mark.parametrize("wrong", [float("nan"), None])
def test_values_that_are_missing(model, tmp_path, wrong):
    write_scores(tmp_path / "a", scores_of(model))
    told = json.loads(scores_of(model).to_json())
    told["values"]["1.mlp.up_proj"] = wrong
    (tmp_path / "b.json").write_text(json.dumps(told))
    with pytest.raises(LaminaError, match=r"b\.json.*1\.mlp\.up_proj"):
        run_compare([tmp_path / "a", tmp_path / "b.json"], share=0.3)
