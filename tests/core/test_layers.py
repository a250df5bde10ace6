import random
import re
from pathlib import Path

import pytest

from lamina.core.errors import LayerError
from lamina.core.layers import Layer, LayerMap

NUM_BLOCKS = 12  # enough to tell block 1 from blocks 10 and 11


def llama_like(**more):
    return {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": NUM_BLOCKS,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def neox_like(**more):
    kept = llama_like(**more)
    del kept["num_key_value_heads"]
    return kept


def gpt_like(**more):
    return {"vocab_size": 32, "n_layer": NUM_BLOCKS, "n_head": 2, "bos_token_id": 1, **more}


# model type -> config, block list, a block's tensors by role (attention, mlp, norm, router)
FAMILIES = {
    "llama": (llama_like(), "model.layers", (4, 3, 2, 0)),
    "qwen2": (llama_like(), "model.layers", (7, 3, 2, 0)),
    "qwen3": (llama_like(head_dim=8), "model.layers", (4, 3, 4, 0)),
    "gemma2": (llama_like(head_dim=8), "model.layers", (4, 3, 4, 0)),
    "mistral": (llama_like(), "model.layers", (4, 3, 2, 0)),
    "phi3": (llama_like(), "model.layers", (2, 2, 2, 0)),
    "gpt2": (gpt_like(n_embd=16, n_positions=16, eos_token_id=2), "transformer.h", (4, 4, 4, 0)),
    "gpt_neox": (neox_like(), "gpt_neox.layers", (4, 4, 4, 0)),
    "opt": (neox_like(ffn_dim=24, word_embed_proj_dim=16), "model.decoder.layers", (8, 4, 4, 0)),
    "bloom": (gpt_like(hidden_size=16, eos_token_id=2), "transformer.h", (4, 4, 4, 0)),
    "mixtral": (llama_like(num_local_experts=4), "model.layers", (4, 12, 2, 1)),
    "olmo2": (llama_like(), "model.layers", (4, 3, 4, 0)),
    "falcon": (
        neox_like(new_decoder_architecture=True, num_kv_heads=1),
        "transformer.h",
        (2, 2, 4, 0),
    ),
}


@pytest.fixture(scope="module")
def names_of(tmp_path_factory):
    """The tensor names that transformers writes for a family, and those it holds in memory."""
    import torch
    import transformers
    from safetensors import safe_open

    transformers.logging.disable_progress_bar()

    def names(family: str) -> tuple[list[str], list[str]]:
        config = transformers.AutoConfig.for_model(family, **FAMILIES[family][0])
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        folder: Path = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        with safe_open(folder / "model.safetensors", "pt") as opened:
            return list(opened.keys()), list(model.state_dict())

    return names


def expected_block(name: str) -> int | None:
    """Written without LayerMap: the first number of the name."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def test_all_thirteen_families_are_here():
    assert len(FAMILIES) == 13


@pytest.mark.parametrize("family", FAMILIES)
def test_family_as_transformers_writes_it(family, names_of):
    written, in_memory = names_of(family)
    _, prefix, roles = FAMILIES[family]
    layers = LayerMap.from_names(written)

    assert layers.prefix == prefix
    assert layers.num_blocks == NUM_BLOCKS
    assert set(layers.layers) == set(written)
    assert {name: layers.of(name).block for name in written} == {
        name: expected_block(name) for name in written
    }
    for unit in layers.units("block"):
        found = [layers.of(name).role for name in layers.tensors(unit, "block")]
        counts = tuple(found.count(role) for role in ("attention", "mlp", "norm", "router"))
        assert counts == roles
        assert len(found) == sum(roles), "a tensor of unknown role"
    loose = {layers.of(name).role for name in written if layers.of(name).block is None}
    assert loose <= {"embedding", "norm", "head"}, "a loose tensor of unknown role"
    assert "embedding" in loose

    memory = LayerMap.from_names(in_memory)
    assert memory.num_blocks == NUM_BLOCKS
    assert {memory.of(name).role for name in in_memory} <= {
        "attention", "mlp", "norm", "router", "embedding", "head",
    }  # fmt: skip


@pytest.mark.parametrize("granularity", ["block", "module"])
def test_every_tensor_of_a_block_is_in_exactly_one_unit(granularity, names_of):
    written, _ = names_of("mixtral")
    layers = LayerMap.from_names(written)
    units = layers.units(granularity)
    members = [name for unit in units for name in layers.tensors(unit, granularity)]
    assert sorted(members) == sorted(n for n in written if layers.of(n).block is not None)
    assert all(
        layers.unit_of(name, granularity) == unit
        for unit in units
        for name in layers.tensors(unit, granularity)
    )


def hub(prefix: str, block: list[str], loose: list[str]) -> list[str]:
    return loose + [f"{prefix}.{n}.{tail}" for n in range(NUM_BLOCKS) for tail in block]


OLD_GPT2 = hub(
    "h",
    [
        "attn.bias", "attn.masked_bias", "attn.c_attn.bias", "attn.c_attn.weight",
        "attn.c_proj.bias", "attn.c_proj.weight", "ln_1.bias", "ln_1.weight", "ln_2.bias",
        "ln_2.weight", "mlp.c_fc.bias", "mlp.c_fc.weight", "mlp.c_proj.bias", "mlp.c_proj.weight",
    ],
    ["ln_f.bias", "ln_f.weight", "wpe.weight", "wte.weight"],
)  # fmt: skip
OLD_NEOX = hub(
    "gpt_neox.layers",
    ["attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq",
     "attention.query_key_value.weight", "attention.query_key_value.bias",
     "mlp.dense_h_to_4h.weight"],
    ["gpt_neox.embed_in.weight", "embed_out.weight", "gpt_neox.final_layer_norm.weight"],
)  # fmt: skip
BLOOM = hub(
    "h",
    ["self_attention.query_key_value.weight", "mlp.dense_h_to_4h.weight", "input_layernorm.weight"],
    ["word_embeddings.weight", "word_embeddings_layernorm.weight", "ln_f.weight"],
)
MIXTRAL = hub(
    "model.layers",
    [f"block_sparse_moe.experts.{e}.w{w}.weight" for e in range(8) for w in (1, 2, 3)]
    + ["block_sparse_moe.gate.weight", "self_attn.q_proj.weight", "input_layernorm.weight"],
    ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"],
)
LORA = hub(
    "base_model.model.model.layers",
    [
        "self_attn.q_proj.lora_A.weight",
        "self_attn.q_proj.lora_B.weight",
        "mlp.up_proj.lora_A.weight",
    ],
    ["base_model.model.lm_head.lora_A.weight"],
)


@pytest.mark.parametrize(
    ("names", "prefix"),
    [(OLD_GPT2, "h"), (OLD_NEOX, "gpt_neox.layers"), (BLOOM, "h"), (MIXTRAL, "model.layers"),
     (LORA, "base_model.model.model.layers")],
    ids=["gpt2", "neox", "bloom", "mixtral", "lora"],
)  # fmt: skip
def test_names_of_older_hub_files(names, prefix):
    layers = LayerMap.from_names(names)
    assert (layers.prefix, layers.num_blocks) == (prefix, NUM_BLOCKS)
    assert set(layers.layers) == set(names)
    per_block = {len(layers.tensors(unit, "block")) for unit in layers.units("block")}
    assert per_block == {sum(name.startswith(f"{prefix}.1.") for name in names)}


def test_layers_of_single_names():
    of = LayerMap.from_names([*MIXTRAL, "model.layers.3.mlp.gate.weight"]).of
    assert of("model.layers.11.self_attn.q_proj.weight") == Layer(
        11, "self_attn.q_proj", "attention"
    )
    assert of("model.layers.11.self_attn.q_proj.weight").id == "11.self_attn.q_proj"
    assert of("model.layers.1.block_sparse_moe.experts.3.w1.weight") == Layer(
        1, "block_sparse_moe.experts.3.w1", "mlp"
    )
    assert of("model.layers.1.block_sparse_moe.gate.weight").role == "router"
    assert of("model.layers.3.mlp.gate.weight").role == "mlp", "no experts beside it"
    assert of("model.embed_tokens.weight") == Layer(None, "embed_tokens", "embedding")
    assert of("model.embed_tokens.weight").id == "embed_tokens"
    assert of("lm_head.weight") == Layer(None, "lm_head", "head")
    assert of("model.norm.weight") == Layer(None, "norm", "norm")


def test_masks_and_tables_are_no_modules_of_their_own():
    layers = LayerMap.from_names(OLD_GPT2)
    assert layers.of("h.3.attn.bias").role == "other"
    assert layers.of("h.3.attn.c_attn.bias").role == "attention"
    assert layers.unit_of("h.3.attn.bias", "module") is None
    assert layers.unit_of("h.3.attn.masked_bias", "module") is None
    assert layers.unit_of("h.3.attn.bias", "block") == "3"
    assert len(layers.units("module")) == 6 * NUM_BLOCKS
    neox = LayerMap.from_names(OLD_NEOX)
    assert neox.unit_of("gpt_neox.layers.0.attention.rotary_emb.inv_freq", "module") is None
    assert len(neox.units("module")) == 2 * NUM_BLOCKS


def test_roles_go_by_whole_components_not_by_substrings():
    names = ["model.layers.0.attnlike.weight", "model.layers.0.mlp_attn_mixer.x.weight",
             "model.layers.0.normalizer.weight", "model.layers.0.strange.weight"]  # fmt: skip
    layers = LayerMap.from_names(names)
    assert {layers.of(name).role for name in names} == {"other"}
    assert all(layers.of(name).block == 0 for name in names)


def test_units_are_in_model_order_whatever_the_order_of_the_names():
    shuffled = list(MIXTRAL)
    random.Random(0).shuffle(shuffled)
    for granularity in ("block", "module"):
        units = LayerMap.from_names(shuffled).units(granularity)
        assert units == LayerMap.from_names(MIXTRAL).units(granularity)
    assert LayerMap.from_names(shuffled).units("block") == tuple(map(str, range(NUM_BLOCKS)))
    modules = LayerMap.from_names(hub("h", [f"mlp.experts.{e}.w1.weight" for e in range(11)], []))
    assert modules.units("module")[:11] == tuple(f"0.mlp.experts.{e}.w1" for e in range(11))


def test_a_head_of_numbered_parts_is_not_the_block_list():
    names = ["score.0.weight", "score.1.weight", *MIXTRAL]
    assert LayerMap.from_names(names).prefix == "model.layers"


def test_the_shallowest_list_is_the_models():
    vision = [f"model.vision_tower.encoder.layers.{n}.mlp.fc1.weight" for n in range(30)]
    text = [f"model.language_model.layers.{n}.mlp.up_proj.weight" for n in range(3)]
    layers = LayerMap.from_names(vision + text)
    assert (layers.prefix, layers.num_blocks) == ("model.language_model.layers", 3)
    assert layers.of(vision[0]).block is None


def test_a_missing_block_is_told_with_its_number():
    names = [
        name for name in MIXTRAL if not name.startswith(("model.layers.5.", "model.layers.7."))
    ]
    with pytest.raises(LayerError, match=r"has 10 blocks, the last is 11, .* missing: 5, 7\."):
        LayerMap.from_names(names)


def test_an_absurd_block_number_costs_nothing():
    with pytest.raises(LayerError, match="missing: 0, 1"):
        LayerMap.from_names(["model.layers.999999999.mlp.up_proj.weight"])
    assert LayerMap.from_names([f"model.layers.{'9' * 5000}.a.weight"]).num_blocks == 0


def test_two_equal_lists_are_refused():
    names = [f"{side}.block.{n}.mlp.weight" for side in ("encoder", "decoder") for n in range(2)]
    with pytest.raises(LayerError, match=r"`decoder\.block` and `encoder\.block`"):
        LayerMap.from_names(names)


def test_no_blocks_is_an_error_only_when_units_are_asked_for():
    layers = LayerMap.from_names(["a.weight", "weight"])
    assert layers.num_blocks == 0
    assert layers.of("weight") == Layer(None, "weight", "other")
    assert layers.unit_of("a.weight", "block") is None
    with pytest.raises(LayerError, match=r"among 2 tensor names \(first: a\.weight, weight\)"):
        layers.units("block")
    with pytest.raises(LayerError, match="among 0 tensor names"):
        LayerMap.from_names([]).units("block")


def test_unknown_names_offer_the_nearest():
    layers = LayerMap.from_names(MIXTRAL)
    with pytest.raises(LayerError, match=r"did you mean `model\.embed_tokens\.weight`"):
        layers.of("model.embed_token.weight")
    with pytest.raises(LayerError, match="no block `12`"):
        layers.tensors("12", "block")
