"""What each tool does with its file, by its rules as docs/exports.md has them."""

import json
import re
from pathlib import Path

import pytest
from families import CHOICES, FAMILIES, NUM_BLOCKS, choices, linears_of, names_of, plan_of

from lamina.core.yaml import load_yaml
from lamina.ila.export import TOOLS, TRAINERS, export


def parameters(family: str, modules: set[str]) -> set[str]:
    """The parameters of some modules."""
    _, names = names_of(family)
    return {name for name in names if name.rpartition(".")[0] in modules or name in modules}


def axolotl_trains(pattern: str, name: str) -> bool:
    """axolotl escapes each dot that no `+` follows, then matches from the start."""
    assert re.search(r"\[[0-9]*(:[0-9]*)?\]$", pattern) is None, "read as a range of rows"
    return re.match(re.sub(r"\.(?!\+)", lambda _: r"\.", pattern), name) is not None


def mergekit_weight(setting, name: str) -> float:
    """The first filter that is a part of the name counts; none fits always."""
    if not isinstance(setting, list):
        return setting
    fitting = (one for one in setting if one.get("filter") is None or one["filter"] in name)
    return next(fitting)["value"]


def mergekit_weights(recipe: dict, family: str) -> dict[str, float]:
    """What every tensor is weighted with: its block's slice; the first or last one outside."""
    prefix = FAMILIES[family][1]
    slices = [one["sources"] for one in recipe["slices"]]
    assert [one[1]["layer_range"] for one in slices] == [[n, n + 1] for n in range(NUM_BLOCKS)]
    found = {}
    for name in names_of(family)[1]:
        inside = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
        late = any(part in name for part in ("norm", "ln_f", "lm_head", "embed_out"))
        at = int(inside[1]) if inside else -1 if late else 0
        found[name] = mergekit_weight(slices[at][1]["parameters"]["weight"], name)
    return found


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_full_tuning_trains_exactly_the_plan(family, choice):
    linears = linears_of(family)
    modules = {linears.by_id[one].path for one in choices(linears)[choice]}
    wanted = parameters(family, modules)
    assert len(wanted) >= len(modules)
    plan = plan_of(linears, choices(linears)[choice])
    _, names = names_of(family)

    read = load_yaml(export(plan, "axolotl", method="full"))
    assert list(read) == ["unfrozen_parameters"]
    (pattern,) = read["unfrozen_parameters"]
    assert {name for name in names if axolotl_trains(pattern, name)} == wanted

    read = load_yaml(export(plan, "ms-swift", method="full"))
    assert read.pop("freeze_parameters_ratio") == 1.0
    assert read.pop("tuner_type") == "full"
    (pattern,) = read.values()
    assert list(read) == ["trainable_parameters_regex"]
    assert {name for name in names if re.search(pattern, name)} == wanted


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_mergekit_takes_exactly_the_plan(family, choice):
    linears = linears_of(family)
    plan = plan_of(linears, choices(linears)[choice])
    recipe = load_yaml(export(plan, "mergekit", tuned="tuned"))
    taken = {name for name, value in mergekit_weights(recipe, family).items() if value}
    wanted = {linears.by_id[one].path for one in choices(linears)[choice]}
    assert taken == parameters(family, wanted)
    assert recipe["base_model"] == "base"
    assert {one["model"] for part in recipe["slices"] for one in part["sources"]} == {
        "base", "tuned",
    }  # fmt: skip


def test_mergekit_takes_any_coefficient_and_what_stands_outside():
    linears = linears_of("llama")
    plan = plan_of(linears, set(), full=("norm", "11.input_layernorm"))
    coefficients = {one: place / 10 - 1 for place, one in enumerate(linears.by_id)}
    plan = plan.model_copy(update={"coefficients": coefficients, "others": 0.25})
    recipe = load_yaml(export(plan, "mergekit", base="b", tuned="t"))
    found = mergekit_weights(recipe, "llama")
    for one, value in coefficients.items():
        assert found[f"model.layers.{one}.weight"] == value, one
    assert found["model.embed_tokens.weight"] == found["lm_head.weight"] == 0.25
    assert found["model.norm.weight"] == found["model.layers.11.input_layernorm.weight"] == 1.0
    assert found["model.layers.0.input_layernorm.weight"] == 0.0, "not planned, not outside"
    assert found["model.layers.11.post_attention_layernorm.weight"] == 0.0


def test_mergekit_takes_a_plan_by_block():
    linears = linears_of("llama")
    blocks = {str(n): n / 4 for n in range(NUM_BLOCKS)}
    plan = plan_of(linears, set()).model_copy(
        update={"granularity": "block", "coefficients": blocks, "others": 1.0}
    )
    found = mergekit_weights(load_yaml(export(plan, "mergekit", tuned="t")), "llama")
    assert found["model.layers.1.mlp.up_proj.weight"] == 0.25
    assert found["model.layers.10.input_layernorm.weight"] == 2.5
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.0
    assert found["lm_head.weight"] == found["model.embed_tokens.weight"] == 1.0


WHOLE = ("lm_head", "norm", "3.input_layernorm")


def test_whole_modules_beside_adapters_have_full_names():
    plan = plan_of(linears_of("llama"), {"0.mlp.up_proj"}, full=WHOLE)
    paths = ["lm_head", "model.norm", "model.layers.3.input_layernorm"]
    assert json.loads(export(plan, "peft"))["modules_to_save"] == paths
    assert load_yaml(export(plan, "axolotl"))["lora_modules_to_save"] == paths
    assert load_yaml(export(plan, "ms-swift"))["modules_to_save"] == paths
    told = load_yaml(export(plan, "llamafactory"))
    assert told["additional_target"] == ",".join(paths)
    assert told["finetuning_type"] == "lora"


def test_full_tuning_takes_whole_modules_too():
    plan = plan_of(linears_of("llama"), {"0.mlp.up_proj"}, full=WHOLE)
    (pattern,) = load_yaml(export(plan, "axolotl", method="full"))["unfrozen_parameters"]
    names = [name for name in names_of("llama")[1] if axolotl_trains(pattern, name)]
    assert sorted(names) == [
        "lm_head.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.3.input_layernorm.weight", "model.norm.weight",
    ]  # fmt: skip


def test_a_module_that_is_trained_whole_gets_no_adapter():
    plan = plan_of(linears_of("llama"), {"0.mlp.up_proj", "1.mlp.up_proj"}, full=("1.mlp.up_proj",))
    read = json.loads(export(plan, "peft"))
    assert read["target_modules"] == ["model.layers.0.mlp.up_proj"]
    assert read["modules_to_save"] == ["model.layers.1.mlp.up_proj"]


RANKED = {"0.mlp.up_proj": 4, "1.mlp.up_proj": 12}


def test_ranks_keep_alpha_over_rank():
    chosen = {*RANKED, "2.mlp.up_proj"}
    plan = plan_of(linears_of("llama"), chosen, ranks=RANKED)
    ranks = {"model.layers.0.mlp.up_proj": 4, "model.layers.1.mlp.up_proj": 12}
    alphas = {"model.layers.0.mlp.up_proj": 8, "model.layers.1.mlp.up_proj": 24}
    read = json.loads(export(plan, "peft", rank=8, alpha=16))
    assert (read["r"], read["lora_alpha"]) == (8, 16)
    assert (read["rank_pattern"], read["alpha_pattern"]) == (ranks, alphas)
    read = load_yaml(export(plan, "axolotl", rank=8, alpha=16))
    assert (read["lora_rank_pattern"], read["lora_alpha_pattern"]) == (ranks, alphas)
    fraction = json.loads(export(plan, "peft", rank=8, alpha=3))["alpha_pattern"]
    assert list(fraction.values()) == [1.5, 4.5]


@pytest.mark.parametrize("tool", TRAINERS)
def test_one_rank_for_all_chosen_is_the_rank(tool):
    plan = plan_of(linears_of("llama"), {"1.mlp.up_proj"}, ranks=RANKED)
    text = export(plan, tool, rank=8, alpha=16)
    read = json.loads(text) if tool == "peft" else load_yaml(text)
    key = {"peft": "r", "axolotl": "lora_r"}.get(tool, "lora_rank")
    assert (read[key], read["lora_alpha"]) == (12, 24)
    assert not read.get("rank_pattern")
    assert "lora_rank_pattern" not in read


def test_the_files_as_they_stand():
    plan = plan_of(
        linears_of("llama"), {"1.mlp.up_proj", "10.mlp.up_proj", "10.self_attn.q_proj"}
    ).model_copy(update={"rule": "top", "parameters": {"share": 0.03}})
    kept = Path(__file__).with_name("as_they_stand.txt")
    made = "".join(
        f"== {tool} {method}\n{export(plan, tool, method=method, tuned=tuned)}"
        for tool, method, tuned in (
            ("peft", "lora", None),
            ("axolotl", "lora", None),
            ("axolotl", "full", None),
            ("llamafactory", "lora", None),
            ("ms-swift", "lora", None),
            ("ms-swift", "full", None),
        )
    )
    assert made == kept.read_text()


def test_all_tools_are_told():
    assert TOOLS == ("peft", "axolotl", "llamafactory", "ms-swift", "mergekit")
