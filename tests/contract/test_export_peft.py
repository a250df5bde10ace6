"""PEFT injects exactly what an exported config says: modules, ranks, scalings, whole modules.

Its own ways of matching are what could go wrong: endings, condensed endings from 20 names on,
regular expressions in `rank_pattern`, and the conversion of mixtures of experts.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "ila" / "export"))
from families import CHOICES, FAMILIES, NUM_BLOCKS, choices, linears_of, network_of, plan_of

from lamina.ila.export import export

pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # Conv1D
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # peft asks it
]
NAME = "base_model.model."


def injected(family: str, text: str):
    """The model that PEFT makes of an exported file, and its LoRA layers by bare name."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = get_peft_model(network_of(family, device="cpu"), LoraConfig(**json.loads(text)))
    layers = {
        name.removeprefix(NAME): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    return model, layers


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_injected_set_is_the_plan(family, choice):
    linears = linears_of(family)
    chosen = choices(linears)[choice]
    ranks = {one: 1 + place % 5 for place, one in enumerate(linears.by_id) if place % 2}
    plan = plan_of(linears, chosen, ranks=ranks)
    _, layers = injected(family, export(plan, "peft", rank=4, alpha=8))
    assert set(layers) == {linears.by_id[one].path for one in chosen}
    for one in chosen:
        layer = layers[linears.by_id[one].path]
        assert layer.r["default"] == ranks.get(one, 4), one
        assert layer.scaling["default"] == 2.0, one


def test_twenty_names_and_more_are_condensed_and_still_the_plan():
    linears = linears_of("llama")
    chosen = {
        one for one in linears.by_id if one.endswith(("q_proj", "up_proj", "10.mlp.down_proj"))
    }
    text = export(plan_of(linears, chosen), "peft")
    assert len(json.loads(text)["target_modules"]) == 25
    model, layers = injected("llama", text)
    assert set(layers) == {linears.by_id[one].path for one in chosen}
    kept = model.peft_config["default"].target_modules
    assert kept == {"q_proj", "up_proj", "10.mlp.down_proj"}


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "gemma2"]
)
def test_whole_modules_train_beside_the_adapters(family):
    linears = linears_of(family)
    ids = list(linears.by_id)
    norm = {"gpt2": "ln_f", "bloom": "ln_f", "falcon": "ln_f", "gpt_neox": "final_layer_norm",
            "opt": "final_layer_norm"}.get(family, "norm")  # fmt: skip
    whole = (norm, ids[5], f"1.{in_block_norm(family)}")
    plan = plan_of(linears, {ids[0], ids[-1]}, full=whole)
    model, layers = injected(family, export(plan, "peft"))
    assert set(layers) == {linears.by_id[one].path for one in (ids[0], ids[-1])}
    parent = linears.prefix.rpartition(".")[0]
    paths = {f"{parent}.{norm}", linears.by_id[ids[5]].path,
             f"{linears.prefix}.1.{in_block_norm(family)}"}  # fmt: skip
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    full = {name for name in trained if "lora_" not in name}
    held = {name.removeprefix(NAME).partition(".modules_to_save.")[0] for name in full}
    assert held == paths
    assert all(".modules_to_save.default." in name for name in full)


def in_block_norm(family: str) -> str:
    return {"gpt2": "ln_1", "opt": "self_attn_layer_norm", "falcon": "ln_attn"}.get(
        family, "input_layernorm"
    )


def test_the_file_is_an_adapter_config_of_peft(tmp_path):
    from peft import LoraConfig, PeftConfig

    linears = linears_of("llama")
    text = export(plan_of(linears, {"3.mlp.up_proj"}), "peft", rank=8, alpha=12)
    (tmp_path / "adapter_config.json").write_text(text)
    read = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(read, LoraConfig)
    assert (read.r, read.lora_alpha, read.bias) == (8, 12, "none")
    assert read.target_modules == {"model.layers.3.mlp.up_proj"}
    assert str(read.task_type) in {"CAUSAL_LM", "TaskType.CAUSAL_LM"}


def test_a_pattern_for_a_mixture_becomes_leaf_names_and_takes_more_than_it_says():
    """Why mixtures get listed names. Should this fail, PEFT is exact now: drop `mixture.py`."""
    pattern = r"model\.layers\.1\.self_attn\.q_proj"
    config = {"r": 2, "target_modules": pattern, "task_type": "CAUSAL_LM"}
    _, layers = injected("mixtral", json.dumps(config))
    assert len(layers) == NUM_BLOCKS
    listed = {**config, "target_modules": [pattern.replace("\\", "")]}
    _, layers = injected("mixtral", json.dumps(listed))
    assert set(layers) == {"model.layers.1.self_attn.q_proj"}


@pytest.mark.parametrize("tool", ["axolotl", "ms-swift", "llamafactory"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_trainers_hand_to_peft_is_the_plan(family, tool):
    from lamina.core.yaml import load_yaml

    linears = linears_of(family)
    chosen = set(list(linears.by_id)[::3])
    read = load_yaml(export(plan_of(linears, chosen), tool, rank=2, alpha=6))
    target = {"axolotl": "lora_target_modules", "ms-swift": "target_regex",
              "llamafactory": "lora_target"}[tool]  # fmt: skip
    if tool == "ms-swift" and family == "mixtral":
        target = "target_modules"
    names = read[target].split(",") if tool == "llamafactory" else read[target]
    assert isinstance(names, str) is (tool != "llamafactory" and family != "mixtral")
    rank = read["lora_r" if tool == "axolotl" else "lora_rank"]
    config = {"r": rank, "lora_alpha": read["lora_alpha"], "target_modules": names}
    _, layers = injected(family, json.dumps({**config, "task_type": "CAUSAL_LM"}))
    assert set(layers) == {linears.by_id[one].path for one in chosen}
    assert {layer.scaling["default"] for layer in layers.values()} == {3.0}
