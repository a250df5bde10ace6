"""A plan on a network: exactly the planned modules are trained, by adapters or whole."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lamina.core.errors import CheckpointError, LayerError, RecipeError
from lamina.core.plan import LayerPlan
from lamina.engine.load import Source, find_model, load_network, quiet
from lamina.engine.planned import apply_plan, check_injected, linears
from lamina.engine.recipe import TrainSection
from lamina.engine.tunable import load_tunable, save_model, trained_parameters
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import linears_of
from lamina.weights.locate import open_model

sys.path.append(str(Path(__file__).parents[1] / "e2e"))

CHOSEN = ("0.self_attn.v_proj", "1.self_attn.q_proj", "1.mlp.up_proj")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """4 blocks, so that a plan can have more than the 20 names that PEFT shortens."""
    import tune_kit

    folder = tmp_path_factory.mktemp("pico")
    sizes = {"num_hidden_layers": 4, "tie_word_embeddings": False, "vocab_size": 4096}
    return find_model(tune_kit.write_pico(folder, **sizes))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Source:
    import tune_kit

    return find_model(tune_kit.write_pico(tmp_path_factory.mktemp("tied")))


def ids(source: Source) -> tuple[str, ...]:
    return tuple(linears_of(open_checkpoint(source.folder)).by_id)


def plan_of(source: Source, *chosen: str, **fields: Any) -> LayerPlan:
    values = {unit: float(unit in chosen) for unit in ids(source)}
    values |= dict.fromkeys(chosen, 1.0)
    return LayerPlan(
        granularity="module", coefficients=values, others=0, rule="x", from_scores="", **fields
    )


def train(**keys: Any) -> TrainSection:
    return TrainSection.model_validate(keys)


def trained(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def lora_names(*units: str) -> set[str]:
    return {
        f"base_model.model.model.layers.{unit}.lora_{letter}.default.weight"
        for unit in units
        for letter in "AB"
    }


def test_linears_of_a_network_are_those_of_its_file(source: Source) -> None:
    network = load_network(source, torch.float32)
    assert linears(network) == linears_of(open_checkpoint(source.folder))
    assert len(linears(network).by_id) == 28


def test_linears_are_seen_through_adapters_and_copies(source: Source) -> None:
    plan = plan_of(source, *CHOSEN, full=("norm", "2.mlp.down_proj"))
    model = load_tunable(source, train(rank=2), plan)
    assert linears(model) == linears_of(open_checkpoint(source.folder))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "opt"])
def test_linears_of_other_families(network: Any, kind: str) -> None:
    sizes = {"gpt2": {"n_layer": 2, "n_head": 2, "n_embd": 16}}.get(kind, {})
    found = linears(network(kind, **sizes))
    assert found.num_blocks == 2
    blocks = [one.block for one in found.by_id.values()]
    assert blocks.count(0) == blocks.count(1) >= 4
    assert not any("lm_head" in one or "embed" in one for one in found.by_id)


def test_gpt2s_transposed_modules_have_their_inputs_first(network: Any) -> None:
    found = linears(network("gpt2", n_layer=2, n_head=2, n_embd=16)).by_id
    assert (found["0.attn.c_attn"].num_inputs, found["0.attn.c_attn"].num_outputs) == (16, 48)
    assert found["0.attn.c_attn"].path == "transformer.h.0.attn.c_attn"


@pytest.mark.parametrize("share", [3, 23])
def test_an_adapter_stands_on_exactly_the_planned_modules(source: Source, share: int) -> None:
    chosen = ids(source)[:share]
    model = load_tunable(source, train(rank=2), plan_of(source, *chosen))
    assert trained(model) == lora_names(*chosen)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    names = model.peft_config["default"].target_modules
    assert names == sorted(f"model.layers.{unit}" for unit in chosen)


def test_ranks_of_the_plan_keep_alpha_by_rank(source: Source) -> None:
    plan = plan_of(source, *CHOSEN, ranks={CHOSEN[0]: 5, CHOSEN[1]: 3})
    model = load_tunable(source, train(rank=4, alpha=8), plan)
    core = model.get_base_model()
    layers = [core.get_submodule(f"model.layers.{unit}") for unit in CHOSEN]
    assert [layer.r["default"] for layer in layers] == [5, 3, 4]
    assert [layer.scaling["default"] for layer in layers] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_whole_modules_are_float32_beside_adapters_and_load_again(
    source: Source, tmp_path: Path, dtype: str
) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    plan = plan_of(source, *CHOSEN, full=("0.input_layernorm", "2.mlp.down_proj", "lm_head"))
    model = load_tunable(source, train(rank=2, dtype=dtype), plan)
    names = ("model.layers.0.input_layernorm", "model.layers.2.mlp.down_proj", "lm_head")
    copies = {f"base_model.model.{name}.modules_to_save.default.weight" for name in names}
    assert trained(model) == lora_names(*CHOSEN) | copies
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert frozen == {getattr(torch, dtype)}
    stored = load_network(source, torch.float32).state_dict()
    for name in names:  # what is trained begins with what is stored, not with its bfloat16
        copy = model.get_parameter(f"base_model.model.{name}.modules_to_save.default.weight")
        assert copy.equal(stored[f"{name}.weight"])

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    save_model(model, tmp_path, dtype=None)
    kept = load_file(tmp_path / "adapter_model.safetensors")
    assert set(kept) == {name.replace(".default", "") for name in lora_names(*CHOSEN)} | {
        f"base_model.model.{name}.weight" for name in names
    }
    with quiet():
        again = PeftModel.from_pretrained(load_network(source, torch.float32), str(tmp_path))
    check_injected(again_as_trained(again), plan, rank=2)
    tokens = torch.arange(2, 9)[None]
    if dtype == "float32":
        assert again(input_ids=tokens).logits.equal(model.eval()(input_ids=tokens).logits)


def again_as_trained(model: Any) -> Any:
    """A loaded adapter has nothing trained; the check looks at that, too."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or "modules_to_save" in name)
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_tuning_of_a_plan_trains_its_tensors_alone(
    source: Source, tmp_path: Path, dtype: str
) -> None:
    from safetensors.torch import load_file

    plan = plan_of(source, *CHOSEN, full=("norm",))
    model = load_tunable(source, train(method="full", dtype=dtype), plan)
    names = {f"model.layers.{unit}.weight" for unit in CHOSEN} | {"model.norm.weight"}
    assert trained(model) == names
    assert trained_parameters(model) == 32 * 16 + 32 * 32 + 32 * 64 + 32
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {getattr(torch, dtype)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.requires_grad * 0.01)
    save_model(model, tmp_path, dtype=torch.float32, source=source)
    before, after = (load_file(f / "model.safetensors") for f in (source.folder, tmp_path))
    assert {name for name, tensor in after.items() if not tensor.equal(before[name])} == names


def test_a_bias_is_trained_with_its_weight(network: Any) -> None:
    model = network("gpt2", n_layer=2, n_head=2, n_embd=16)
    units = tuple(linears(model).by_id)
    plan = LayerPlan(
        granularity="module",
        coefficients={unit: float(unit == "1.mlp.c_fc") for unit in units},
        others=0,
        rule="x",
        from_scores="",
    )
    apply_plan(model, plan, train(method="full"))
    assert trained(model) == {f"transformer.h.1.mlp.c_fc.{part}" for part in ("weight", "bias")}


def test_a_plan_that_leaves_nothing_to_tune_is_refused(source: Source) -> None:
    with pytest.raises(LayerError, match="leaves nothing to tune: of 28 modules none has"):
        load_tunable(source, train(), plan_of(source))


def test_whole_modules_alone_are_no_adapter(source: Source) -> None:
    with pytest.raises(RecipeError, match=r"gives none an adapter, but train.method is `lora`"):
        load_tunable(source, train(), plan_of(source, full=("norm",)))


def test_modules_that_the_model_has_not_are_told_at_once(source: Source) -> None:
    plan = plan_of(source, "0.mlp.up_proj", "7.mlp.up_proj", "0.mlp.uppp_proj", "0.input_layernorm")
    with pytest.raises(LayerError) as error:
        load_tunable(source, train(), plan)
    told = str(error.value)
    assert told.startswith("3 of 4 planned modules cannot be tuned in this model: 7.mlp.up_proj: ")
    assert "0.mlp.uppp_proj: did you mean `0.mlp.up_proj`?" in told
    assert "0.input_layernorm: LlamaRMSNorm, which is not linear" in told


def test_quantised_modules_are_refused(source: Source) -> None:
    network = load_network(source, torch.float32)
    for unit in ("0.mlp.up_proj", "1.mlp.up_proj"):
        module: Any = network.get_submodule(f"model.layers.{unit}")
        module.weight = nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(LayerError, match=r"2 of 2 planned modules .* torch.int8, quantised"):
        apply_plan(network, plan_of(source, "0.mlp.up_proj", "1.mlp.up_proj"), train())


def test_unknown_modules_to_unfreeze_are_told_at_once(source: Source) -> None:
    plan = plan_of(source, *CHOSEN, full=("nrom", "0.input_layernrom"))
    with pytest.raises(RecipeError) as error:
        load_tunable(source, train(), plan)
    assert "`nrom`: did you mean `norm`?" in str(error.value)
    assert "`0.input_layernrom`: did you mean `0.input_layernorm`?" in str(error.value)


@pytest.mark.parametrize(("unit", "other"), [("lm_head", "embed_tokens"), ("embed_tokens", "lm_")])
def test_a_tied_module_is_not_trained_whole_beside_adapters(
    tied: Source, unit: str, other: str
) -> None:
    plan = plan_of(tied, CHOSEN[0], full=(unit,))
    with pytest.raises(RecipeError, match=rf"share their weights with others \(`{unit}` .*{other}"):
        load_tunable(tied, train(), plan)


def test_an_adapter_that_is_not_the_plan_is_found_out(source: Source) -> None:
    model = load_tunable(source, train(rank=2), plan_of(source, *CHOSEN))
    check_injected(model, plan_of(source, *CHOSEN), rank=2)
    others = plan_of(source, *CHOSEN[:2], "3.mlp.up_proj")
    with pytest.raises(RecipeError, match="2 modules trainable otherwise than planned"):
        check_injected(model, others, rank=2)
    with pytest.raises(RecipeError, match=r"3 modules .*: 4 asked, 2 is"):
        check_injected(model, plan_of(source, *CHOSEN), rank=4)


def test_planned_adapters_begin_with_those_of_another(source: Source, tmp_path: Path) -> None:
    first = load_tunable(source, train(rank=2), plan_of(source, *ids(source)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    save_model(first, tmp_path, dtype=None)
    model = load_tunable(source, train(rank=2), plan_of(source, *CHOSEN), start=tmp_path)
    assert trained(model) == lora_names(*CHOSEN)
    for name in trained(model):
        assert model.get_parameter(name).equal(first.get_parameter(name))


def test_an_adapter_to_start_from_that_does_not_fit_is_refused(
    source: Source, tmp_path: Path
) -> None:
    save_model(
        load_tunable(source, train(rank=2), plan_of(source, CHOSEN[0], CHOSEN[2])),
        tmp_path,
        dtype=None,
    )
    with pytest.raises(CheckpointError) as error:
        load_tunable(source, train(rank=3), plan_of(source, *CHOSEN[:2]), start=tmp_path)
    told = str(error.value)
    assert "does not fit 2 of 2 planned modules" in told
    assert "layers.0.self_attn.v_proj: rank 2, 32 to 16 there, rank 3, 32 to 16 here" in told
    assert "layers.1.self_attn.q_proj: it has none there" in told
    with pytest.raises(CheckpointError, match="alpha/rank 16 there, 4 here"):
        load_tunable(source, train(rank=2, alpha=8), plan_of(source, CHOSEN[0]), start=tmp_path)


def test_a_head_is_found_by_its_name_in_the_file(tmp_path: Path) -> None:
    source = family_of(tmp_path, "gpt_neox", intermediate_size=32)
    assert "embed_out.weight" in open_checkpoint(source.folder).tensors
    model = load_tunable(source, train(method="full"), plan_of(source, full=("embed_out",)))
    assert trained(model) == {"lm_head.weight"}
    beside = plan_of(source, "1.mlp.dense_h_to_4h", full=("embed_out",))
    save_model(load_tunable(source, train(rank=2), beside), tmp_path / "adapter", dtype=None)
    opened = open_model(str(tmp_path / "adapter"), None)
    assert isinstance(opened, AdaptedCheckpoint)
    assert set(opened.replaced) == {"embed_out.weight"}


def test_modules_that_peft_takes_for_experts_are_told(tmp_path: Path) -> None:
    source = family_of(
        tmp_path, "qwen3_moe", num_key_value_heads=2, num_experts=4, num_experts_per_tok=2,
        intermediate_size=32, moe_intermediate_size=16, mlp_only_layers=[0], head_dim=8,
    )  # fmt: skip
    dense = tuple(f"0.mlp.{name}_proj" for name in ("gate", "up", "down"))
    with pytest.raises(RecipeError, match=r"mixture of experts .*0\.mlp\.up_proj.* 3 planned"):
        load_tunable(source, train(rank=2), plan_of(source, "0.self_attn.q_proj", *dense))
    model = load_tunable(source, train(method="full"), plan_of(source, *dense))
    assert len(trained(model)) == 3


def family_of(folder: Path, kind: str, **values: Any) -> Source:
    """A tiny model of any family, with a tokenizer beside it."""
    import shutil

    import tune_kit
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vocab_size=64, **(sizes | values))
    with quiet():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in tune_kit.TOKENIZER:
        shutil.copyfile(tune_kit.MODELS / "instruct" / name, folder / name)
    return find_model(folder)


def test_what_is_trained_whole_begins_with_an_adapter_merged_in_float32(
    source: Source, tmp_path: Path
) -> None:
    """The same bits as the tensors around it, which are saved as they are merged in float32."""
    import json
    import shutil

    base = tmp_path / "base"
    shutil.copytree(source.folder, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    first = load_tunable(find_model(base), train(rank=2), plan_of(source, *CHOSEN))
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.013)
    save_model(first, tmp_path / "adapter", dtype=None)
    both = find_model(tmp_path / "adapter", base=base)
    keys = {"method": "full", "dtype": "bfloat16"}
    model = load_tunable(both, train(**keys), plan_of(source, CHOSEN[0]))
    name = f"model.layers.{CHOSEN[0]}.weight"
    with quiet():
        exact = load_network(both, torch.float32)
    assert model.get_parameter(name).equal(exact.get_parameter(name))
