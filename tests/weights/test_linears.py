"""Linear modules from headers alone: ids, shapes, what is none, and the same as in a network."""

import numpy as np
import pytest
from tiny_family import random_model, write_model

from lamina.core.errors import CheckpointError, LayerError
from lamina.core.layers import LayerMap
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import head_weights, linears_of, network_prefix


def opened(folder, tensors, **config):
    return open_checkpoint(write_model(folder, tensors, config=config))


def test_seven_modules_a_block_with_the_shapes_of_the_file(tmp_path):
    found = linears_of(opened(tmp_path, random_model()))
    assert (found.prefix, found.num_blocks, len(found.by_id)) == ("model.layers", 3, 21)
    down = found.by_id["1.mlp.down_proj"]
    assert (down.path, down.block, down.role) == ("model.layers.1.mlp.down_proj", 1, "mlp")
    assert (down.num_inputs, down.num_outputs) == (96, 48)
    key = found.by_id["2.self_attn.k_proj"]
    assert (key.role, key.num_inputs, key.num_outputs) == ("attention", 48, 24)
    assert all(one.id == key for key, one in found.by_id.items())


def test_the_order_is_that_of_the_layer_map_whatever_the_file_has(tmp_path):
    tensors = random_model(blocks=11)
    first = linears_of(opened(tmp_path / "a", tensors, num_hidden_layers=11))
    folder = write_model(tmp_path / "b", tensors, order=-1, config={"num_hidden_layers": 11})
    assert list(linears_of(open_checkpoint(folder)).by_id) == list(first.by_id)
    units = LayerMap.from_names(tensors).units("module")
    assert list(first.by_id) == [unit for unit in units if unit in first.by_id]


def test_routers_experts_norms_and_convolutions_are_none(tmp_path):
    tensors = random_model()
    width = tensors["model.norm.weight"].size
    for block in range(3):
        start = f"model.layers.{block}"
        tensors[f"{start}.mlp.gate.weight"] = np.ones((4, width), np.float32)
        for expert in range(4):
            tensors[f"{start}.mlp.experts.{expert}.up_proj.weight"] = np.ones((8, width), "f4")
        tensors[f"{start}.self_attn.q_norm.weight"] = np.ones((12,), np.float32)
        tensors[f"{start}.linear_attn.conv1d.weight"] = np.ones((8, 1, 4), np.float32)
        tensors[f"{start}.mlp.up_proj.bias"] = np.ones((96,), np.float32)
    assert len(linears_of(opened(tmp_path, tensors)).by_id) == 21


GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 2,
    "vocab_size": 50,
    "tie_word_embeddings": True,
    "hidden_size": 16,
}


def gpt2(prefix):
    tensors = {f"{prefix}wte.weight": np.ones((50, 16), "f4")}
    for block in range(2):
        start = f"{prefix}h.{block}"
        tensors[f"{start}.attn.c_attn.weight"] = np.ones((16, 48), np.float32)
        tensors[f"{start}.attn.c_attn.bias"] = np.ones((48,), np.float32)
        tensors[f"{start}.attn.c_proj.weight"] = np.ones((16, 16), np.float32)
        tensors[f"{start}.mlp.c_fc.weight"] = np.ones((16, 64), np.float32)
        tensors[f"{start}.mlp.c_proj.weight"] = np.ones((64, 16), np.float32)
        tensors[f"{start}.ln_1.weight"] = np.ones((16,), np.float32)
    return tensors


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_stores_inputs_first_and_some_files_leave_out_its_prefix(tmp_path, prefix):
    config = {**GPT2, "num_hidden_layers": 2, "intermediate_size": 64}
    checkpoint = opened(tmp_path, gpt2(prefix), **config)
    found = linears_of(checkpoint)
    fc = found.by_id["1.mlp.c_fc"]
    assert (fc.num_inputs, fc.num_outputs) == (16, 64)
    assert (found.prefix, network_prefix(checkpoint)) == (f"{prefix}h", "transformer.h")
    assert fc.path == f"{prefix}h.1.mlp.c_fc"
    assert head_weights(checkpoint) == 50 * 16


def test_the_head_counts_once_its_own_or_the_embeddings(tmp_path):
    tensors = random_model()
    assert head_weights(opened(tmp_path / "own", tensors)) == 96 * 48
    del tensors["lm_head.weight"]
    assert head_weights(opened(tmp_path / "tied", tensors, tie_word_embeddings=True)) == 96 * 48


def test_a_model_without_linear_modules(tmp_path):
    tensors = {
        name: value
        for name, value in random_model().items()
        if value.ndim == 1 or "layers" not in name
    }
    with pytest.raises(CheckpointError, match="has no linear module that can be targeted"):
        linears_of(opened(tmp_path / "norms", tensors))
    flat = {name: value for name, value in tensors.items() if "layers" not in name}
    with pytest.raises((CheckpointError, LayerError)):
        linears_of(opened(tmp_path / "flat", flat, num_hidden_layers=0))
