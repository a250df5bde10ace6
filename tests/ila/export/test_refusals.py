"""What cannot be exported, or not to this tool: one error that says why."""

import pytest
from families import linears_of, plan_of

from lamina.core.errors import LaminaError, LayerError, RecipeError
from lamina.core.plan import LayerPlan
from lamina.ila.export import TOOLS, TRAINERS, export


def plan(chosen=("0.mlp.up_proj", "1.mlp.up_proj"), **update) -> LayerPlan:
    made = plan_of(linears_of("llama"), set(chosen))
    return made.model_copy(update=update)


def refused(kind: type[LaminaError], given: LayerPlan, tool: str, *says: str, **options) -> None:
    if tool == "mergekit":
        options = {"tuned": "tuned", **options}
    with pytest.raises(kind) as told:
        export(given, tool, **options)
    for word in says:
        assert word in str(told.value), str(told.value)


def test_a_misspelt_tool_or_method_is_met_with_the_known_ones():
    refused(RecipeError, plan(), "axolotol", "`axolotol`", "did you mean `axolotl`",
            "peft, axolotl, llamafactory, ms-swift, mergekit")  # fmt: skip
    refused(RecipeError, plan(), "trl", "known: peft, axolotl")
    refused(RecipeError, plan(), "peft", "`loar`", "did you mean `lora`", method="loar")


def test_numbers_out_of_range_are_told_together():
    refused(RecipeError, plan(), "peft", "rank is at least 1, not 0", "alpha is at least 1, not -1",
            rank=0, alpha=-1)  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_a_plan_that_chooses_nothing(tool):
    refused(RecipeError, plan(()), tool, "none of 84", "lamina plan")


def test_only_whole_modules_and_no_adapter():
    refused(RecipeError, plan((), full=("norm",)), "peft", "norm whole", "--method full")


@pytest.mark.parametrize("tool", TRAINERS)
def test_coefficients_between_0_and_1_are_for_merging(tool):
    partly = plan().coefficients | {"2.mlp.up_proj": 0.5, "3.mlp.up_proj": 2.0}
    refused(RecipeError, plan(coefficients=partly), tool, "2 coefficients", "2.mlp.up_proj: 0.5",
            "mergekit")  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_prefix(tool):
    refused(LayerError, plan(prefix=""), tool, "`prefix`", "lamina plan SCORES --model")


@pytest.mark.parametrize("tool", TRAINERS)
def test_a_plan_by_block_is_for_merging(tool):
    blocks = plan(granularity="block", coefficients={"0": 1.0, "1": 0.0})
    refused(LayerError, blocks, tool, "each of 2 blocks", "--model MODEL")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "name",
    ["embed_tokens", "x.mlp.up_proj", "1.mlp,lm_head", "1.a b", "007.mlp", "1.", "9999999.a"],
)
def test_names_that_are_no_modules(tool, name):
    refused(LayerError, plan(coefficients={"0.mlp.up_proj": 1.0, name: 1.0}), tool, repr(name))


@pytest.mark.parametrize("tool", TOOLS)
def test_a_whole_module_is_a_single_one(tool):
    refused(LayerError, plan(full=("3.mlp",)), tool, "3.mlp hold others")


@pytest.mark.parametrize("tool", TRAINERS)
def test_norms_get_no_adapters(tool):
    norms = plan(coefficients=plan().coefficients | {"0.input_layernorm": 1.0})
    refused(RecipeError, norms, tool, "norms: 0.input_layernorm", "`full`")


@pytest.mark.parametrize("tool", TRAINERS)
def test_ranks_of_no_module_or_below_1(tool):
    refused(LayerError, plan(ranks={"99.mlp.up_proj": 4}), tool, "99.mlp.up_proj")
    refused(RecipeError, plan(ranks={"1.mlp.up_proj": 0}), tool, "1.mlp.up_proj: 0")


@pytest.mark.parametrize("tool", ["llamafactory", "ms-swift"])
def test_ranks_that_differ_where_a_tool_has_one(tool):
    refused(RecipeError, plan(ranks={"1.mlp.up_proj": 4}), tool, "ranks 4, 16", "lora_rank")


@pytest.mark.parametrize("tool", ["axolotl", "llamafactory", "ms-swift"])
def test_an_alpha_that_would_be_a_fraction(tool):
    uneven = plan(("1.mlp.up_proj",), ranks={"1.mlp.up_proj": 3})
    refused(RecipeError, uneven, tool, "alpha 4.5 at rank 3", "multiple", rank=2, alpha=3)


def test_full_tuning_where_a_tool_has_none():
    refused(RecipeError, plan(), "peft", "adds adapters", method="full")
    refused(RecipeError, plan(), "llamafactory", "freeze_trainable_layers", method="full")


@pytest.mark.parametrize("tool", TRAINERS)
def test_a_name_that_others_end_with(tool):
    refused(RecipeError, plan(prefix="layers", full=("norm",)), tool, "`norm`", "lamina")


def test_a_name_that_is_a_part_of_others_for_mergekit():
    refused(RecipeError, plan(prefix="layers", full=("norm",)), "mergekit", "`norm`")


@pytest.mark.parametrize("tool", TRAINERS)
def test_experts_and_what_peft_takes_for_them(tool):
    one = {"0.self_attn.q_proj": 1.0, "0.mlp.experts.3.w1": 1.0}
    refused(RecipeError, plan(coefficients=one), tool, "mixture of experts", "w1")
    shared = {"0.self_attn.q_proj": 1.0, "0.mlp.shared_expert.up_proj": 1.0}
    refused(RecipeError, plan(coefficients=shared), tool, "mixture of experts", "up_proj")
    export(plan(coefficients=shared | {"0.mlp.shared_expert.up_proj": 0.0}), tool)


@pytest.mark.parametrize("tool", TRAINERS)
def test_a_single_expert_is_not_tuned_whole(tool):
    one = {"0.self_attn.q_proj": 1.0, "0.mlp.experts.3.w1": 1.0}
    refused(
        RecipeError, plan(coefficients=one), tool, "experts.3.w1", "one parameter", method="full"
    )
    beside = {"0.self_attn.q_proj": 1.0, "1.self_attn.q_proj": 0.0}
    refused(RecipeError, plan(coefficients=beside, full=("1.block_sparse_moe.gate",)), tool,
            "block_sparse_moe.gate", "one parameter")  # fmt: skip


def test_mergekit_needs_two_models_and_every_block():
    refused(RecipeError, plan(), "mergekit", "--tuned MODEL", tuned=None)
    refused(RecipeError, plan(model=""), "mergekit", "--base MODEL")
    refused(RecipeError, plan(), "peft", "--base, --tuned: for mergekit", base="b", tuned="t")
    gap = {one: value for one, value in plan().coefficients.items() if not one.startswith("5.")}
    refused(LayerError, plan(coefficients=gap), "mergekit", "blocks 5:")
    refused(LayerError, plan(price={"num_blocks": 14.0}), "mergekit", "blocks 12, 13:")
