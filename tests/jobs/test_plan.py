"""A recipe's `plan:` settled on a model: what it chooses, and everything that does not fit."""

import json

import pytest
from plan_kit import model_of, scores_of, section, write_merge_scores, write_scores

from lamina.core.errors import CheckpointError, DataError, LaminaError, LayerError, RecipeError
from lamina.core.plan import LayerPlan
from lamina.engine.plan_recipe import PlanSection
from lamina.jobs.plan import settle_plan, whole_model
from lamina.weights.checkpoint import open_checkpoint


@pytest.fixture
def model(tmp_path):
    return model_of(tmp_path / "model")


def settled(model, home, asked, *, rank=4, fingerprint=None):
    return settle_plan(
        asked,
        model_folder=model,
        model_name="tiny",
        fingerprint=fingerprint or open_checkpoint(model).fingerprint,
        home=home,
        rank=rank,
    )


def plan_file(home, plan, **changes):
    (home / "plan.json").write_text(plan.model_copy(update=changes).to_json())
    return section(file="plan.json", parameters={})


def test_a_rule_on_scores_with_everything_a_plan_holds(model, tmp_path):
    write_scores(tmp_path, scores_of(model))
    plan = settled(model, tmp_path, section(scores="scores.json"))
    assert plan.chosen == tuple(plan.coefficients)[-6:]
    assert len(plan.coefficients) == 21
    assert (plan.granularity, plan.rule, plan.from_scores) == ("module", "top", "scores.json")
    assert (plan.parameters, plan.prefix, plan.model) == ({"share": 0.25}, "model.layers", "tiny")
    assert plan.inputs == {"model": open_checkpoint(model).fingerprint, "data": "fd"}
    assert (plan.price["lowest_block"], plan.price["modules"]) == (2, 6)
    assert LayerPlan.from_json(plan.to_json()) == plan


def test_a_folder_of_scores_and_a_path_from_the_working_folder(model, tmp_path, monkeypatch):
    write_scores(tmp_path / "run", scores_of(model))
    monkeypatch.chdir(tmp_path)
    plan = settled(model, tmp_path / "elsewhere", section(scores="run"))
    assert len(plan.chosen) == 6


def test_the_budget_is_in_adapter_values_or_in_whole_matrices(model, tmp_path):
    write_scores(tmp_path, scores_of(model))
    asked = section(scores="scores.json", rule="budget", parameters={"parameters": 5000})
    plan = settled(model, tmp_path, asked, rank=4)
    assert plan.chosen[-1] == "2.mlp.up_proj"
    assert plan.price["parameters"] <= 5000
    whole = settled(model, tmp_path, asked, rank=None)
    assert whole.chosen == ("2.mlp.up_proj",)
    assert whole.price["parameters"] == 48 * 96


@pytest.mark.parametrize("rule", ["all", "random", "first", "last"])
def test_baselines_need_no_scores(model, tmp_path, rule):
    parameters = {} if rule == "all" else {"share": 0.3}
    plan = settled(model, tmp_path, PlanSection(rule=rule, parameters=parameters))
    assert len(plan.chosen) == (21 if rule == "all" else 7)
    assert plan.from_scores == ""


def test_scores_of_blocks_and_sublayers_choose_the_modules_in_them(model, tmp_path):
    blocks = scores_of(
        model, granularity="block", values={"0": 3.0, "1": 1.0, "2": 2.0}, columns={}
    )
    write_scores(tmp_path, blocks)
    asked = section(scores="scores.json", parameters={"share": 1 / 3})
    assert {one[0] for one in settled(model, tmp_path, asked).chosen} == {"0"}
    halves = {
        f"{b}.{part}": float(part == "mlp") for b in range(3) for part in ("attention", "mlp")
    }
    write_scores(tmp_path, scores_of(model, granularity="sublayer", values=halves, columns={}))
    asked = section(scores="scores.json", rule="threshold", parameters={"at_least": 0.5})
    assert {one.split(".")[1] for one in settled(model, tmp_path, asked).chosen} == {"mlp"}


def test_scores_of_a_merge_by_expert_norms_left_out(model, tmp_path):
    one = scores_of(model, method="lata_cosine", inputs={"base": "b", "instruct": "i"})
    values = {**one.values, **{f"{b}.input_layernorm": 99.0 for b in range(3)}}
    merged = one.model_copy(update={"values": values, "columns": {}})
    write_merge_scores(tmp_path, math=merged, code=merged)
    asked = section(scores="scores.json", expert="math")
    plan = settled(model, tmp_path, asked, fingerprint="i")
    assert plan.chosen == tuple(plan.coefficients)[-6:]
    with pytest.raises(LayerError, match="on another model"):
        settled(model, tmp_path, asked, fingerprint="e")
    with pytest.raises(DataError, match="expert"):
        settled(model, tmp_path, section(scores="scores.json"))


def test_a_plan_file_is_taken_as_it_is_and_priced_for_this_rank(model, tmp_path):
    write_scores(tmp_path, scores_of(model))
    first = settled(model, tmp_path, section(scores="scores.json"), rank=4)
    again = settled(model, tmp_path, plan_file(tmp_path, first), rank=8)
    assert (again.coefficients, again.rule) == (first.coefficients, "top")
    assert again.price["parameters"] == 2 * first.price["parameters"]


def test_a_plan_by_block_becomes_one_by_module(model, tmp_path):
    by_block = LayerPlan(
        granularity="block",
        coefficients={"0": 0.0, "1": 0.0, "2": 1.0},
        others=0.0,
        rule="by_hand",
        from_scores="",
    )
    plan = settled(model, tmp_path, plan_file(tmp_path, by_block))
    assert {one[0] for one in plan.chosen} == {"2"}
    assert len(plan.chosen) == 7


def test_whole_modules_get_no_adapter_and_are_counted(model, tmp_path):
    write_scores(tmp_path, scores_of(model))
    names = ("norm", "lm_head", "2.mlp.up_proj", "1.input_layernorm")
    plan = settled(model, tmp_path, section(scores="scores.json", unfreeze=names))
    assert plan.full == names
    assert "2.mlp.up_proj" not in plan.chosen
    assert plan.price["lowest_block"] == 1
    adapters = settled(model, tmp_path, section(scores="scores.json")).price["parameters"]
    own = 4 * (48 + 96)
    assert plan.price["parameters"] == adapters - own + 48 + 96 * 48 + 48 * 96 + 48
    again = settled(model, tmp_path, plan_file(tmp_path, plan))
    assert (again.full, again.coefficients) == (plan.full, plan.coefficients)


def test_unknown_modules_to_unfreeze_are_told_all_at_once(model, tmp_path):
    asked = PlanSection(rule="all", unfreeze=("norms", "2.mlp.up_pro"))
    with pytest.raises(RecipeError, match=r"names 2 module.*`norm`.*`2.mlp.up_proj`"):
        settled(model, tmp_path, asked)


def test_a_tied_head_is_told_to_be_the_embedding(tmp_path):
    from tiny_family import random_model, write_model

    tensors = random_model()
    del tensors["lm_head.weight"]
    tied = write_model(tmp_path / "tied", tensors, config={"tie_word_embeddings": True})
    with pytest.raises(RecipeError, match="shares its weights with the input embedding"):
        settled(tied, tmp_path, PlanSection(rule="all", unfreeze=("lm_head",)))
    plan = settled(tied, tmp_path, PlanSection(rule="all", unfreeze=("embed_tokens",)))
    assert plan.price["lowest_block"] == 0


def test_scores_of_another_base_are_refused_unless_told(model, tmp_path):
    write_scores(tmp_path, scores_of(model_of(tmp_path / "other", seed=7)))
    with pytest.raises(LayerError, match=r"measured on another model: tiny has.*rank this one"):
        settled(model, tmp_path, section(scores="scores.json"))
    plan = settled(model, tmp_path, section(scores="scores.json", check_base=False))
    assert plan.inputs["model"] == open_checkpoint(model).fingerprint
    other = plan.model_copy(update={"inputs": {"model": "of-another"}})
    with pytest.raises(LayerError, match=r"plan.json was made on another model"):
        settled(model, tmp_path, plan_file(tmp_path, other))


def test_the_base_of_a_tuned_adapter_is_the_same_model(model, tmp_path):
    write_scores(tmp_path, scores_of(model))
    mine = f"{open_checkpoint(model).fingerprint}+adapter"
    assert settled(model, tmp_path, section(scores="scores.json"), fingerprint=mine).chosen


def test_scores_of_another_architecture(model, tmp_path):
    path = write_scores(tmp_path, scores_of(model_of(tmp_path / "deep", blocks=4)))
    with pytest.raises(LayerError, match=r"of 28 units do not fit a model of 21.*3\.self_attn"):
        settled(model, tmp_path, section(scores=str(path)))


def test_modules_that_an_adapter_did_not_have_are_frozen_and_not_counted(model, tmp_path):
    one = scores_of(model)
    some = {unit: v for unit, v in one.values.items() if unit.endswith(("q_proj", "v_proj"))}
    write_scores(tmp_path, one.model_copy(update={"values": some, "columns": {}}))
    plan = settled(model, tmp_path, section(scores="scores.json", parameters={"share": 0.5}))
    assert plan.chosen == ("1.self_attn.v_proj", "2.self_attn.q_proj", "2.self_attn.v_proj")
    assert len(plan.coefficients) == 21
    some = {unit: v for unit, v in one.values.items() if unit != "1.mlp.up_proj"}
    prints = {**one.inputs, "adapter": "fa"}
    few = one.model_copy(update={"values": some, "columns": {}, "inputs": prints})
    write_scores(tmp_path, few)
    plan = settled(model, tmp_path, PlanSection(scores="scores.json", rule="all"))
    assert plan.coefficients["1.mlp.up_proj"] == 0.0
    assert len(plan.chosen) == 20


@pytest.mark.parametrize("wrong", [float("nan"), None, "high", float("inf")])
def test_values_that_are_no_numbers(model, tmp_path, wrong):
    told = json.loads(scores_of(model).to_json())
    told["values"]["1.mlp.up_proj"] = wrong
    (tmp_path / "scores.json").write_text(json.dumps(told))
    with pytest.raises(LaminaError, match=r"scores.json.*1\.mlp\.up_proj"):
        settled(model, tmp_path, section(scores="scores.json"))


def test_a_missing_value(model, tmp_path):
    told = json.loads(scores_of(model).to_json())
    del told["values"]["1.mlp.up_proj"]
    told["columns"] = {}
    (tmp_path / "scores.json").write_text(json.dumps(told))
    with pytest.raises(LayerError, match=r"no value for 1\.mlp\.up_proj"):
        settled(model, tmp_path, section(scores="scores.json"))


def test_a_plan_that_leaves_nothing_to_tune(model, tmp_path):
    every = settled(model, tmp_path, PlanSection(rule="all"))
    none = dict.fromkeys(every.coefficients, 0.0)
    with pytest.raises(LayerError, match="leaves nothing to tune: none of 21 modules"):
        settled(model, tmp_path, plan_file(tmp_path, every, coefficients=none))
    alone = plan_file(tmp_path, every, coefficients=none, full=("norm",))
    assert settled(model, tmp_path, alone).price["parameters"] == 48


def test_files_that_are_no_tuning_plan(model, tmp_path):
    asked = section(file="plan.json", parameters={})
    with pytest.raises(DataError, match=r"plan\.json is no file"):
        settled(model, tmp_path, asked)
    for text, told in {
        '{"schema": "lamina.plan/1", "experts": {}}': "a merge's plan",
        '{"schema": "other"}': "has the schema",
        "[]": "has the schema",
        "{": "not JSON",
        '{"schema": "lamina.layer_plan/1"}': "does not fit",
    }.items():
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(DataError, match=told):
            settled(model, tmp_path, asked)


def test_plans_that_do_not_fit_the_model(model, tmp_path):
    every = settled(model, tmp_path, PlanSection(rule="all"))
    deep = settled(model_of(tmp_path / "deep", blocks=4), tmp_path, PlanSection(rule="all"))
    with pytest.raises(LayerError, match="of 28 units do not fit a model of 21"):
        settled(model, tmp_path, plan_file(tmp_path, deep))
    half = {**every.coefficients, "0.mlp.up_proj": 0.5}
    with pytest.raises(
        LayerError, match=r"neither 0 \(frozen\) nor 1 \(tuned\): 0.mlp.up_proj: 0.5"
    ):
        settled(model, tmp_path, plan_file(tmp_path, every, coefficients=half))
    for ranks in ({"9.mlp.up_proj": 4}, {"0.mlp.up_proj": 0}):
        with pytest.raises(LayerError, match="ranks of modules"):
            settled(model, tmp_path, plan_file(tmp_path, every, ranks=ranks))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"file": "plan.json", "scores": "scores.json"}, "not both"),
        ({"file": "plan.json"}, "would change nothing"),
        ({}, "rule `top` needs scores"),
        ({"scores": "s", "rule": "topp"}, "did you mean `top`"),
        ({"scores": "s", "parameters": {"share": 2}}, "at most 1 is needed, not 2"),
    ],
)
def test_sections_that_do_not_say_one_thing(model, tmp_path, keys, told):
    with pytest.raises(RecipeError, match=told):
        settled(model, tmp_path, section(**keys))


def test_no_model_there(tmp_path):
    with pytest.raises(CheckpointError):
        whole_model(tmp_path / "nowhere")
