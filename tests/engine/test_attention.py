"""A model whose packed examples see each other is refused before training."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine.attention import check_no_leak

VOCAB = 61


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "mixtral"])
def test_a_model_that_keeps_examples_apart_passes(
    network: Callable[..., Any], kind: str, dtype: torch.dtype, flatten: bool
) -> None:
    sizes = {"gemma2": {"head_dim": 8, "num_key_value_heads": 1}}
    experts = {"mixtral": {"num_local_experts": 4, "num_key_value_heads": 1}}
    model = network(kind, **sizes.get(kind, {}), **experts.get(kind, {})).to(dtype)
    check_no_leak(model, flatten=flatten, num_embeddings=VOCAB)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "named"), [("falcon", "FalconForCausalLM"), ("bloom", "BloomForCausalLM")]
)
def test_a_model_that_mixes_examples_is_refused_with_what_to_do(
    network: Callable[..., Any], kind: str, named: str, dtype: torch.dtype
) -> None:
    model = network(kind).to(dtype)
    with pytest.raises(RecipeError, match=rf"{named} .*see each other.*data\.packing: false"):
        check_no_leak(model, flatten=False, num_embeddings=VOCAB)


def test_a_model_that_reads_packed_examples_otherwise_than_alone_is_refused(
    network: Callable[..., Any],
) -> None:
    """Positions that do not start again: nothing leaks, but GPT-2 learns other places."""
    model = network("gpt2")
    plain = model.transformer.wpe.forward
    model.transformer.wpe.forward = lambda places: plain(
        torch.arange(places.shape[1]).expand_as(places)
    )
    with pytest.raises(RecipeError, match=r"GPT2LMHeadModel .*not read as they are alone"):
        check_no_leak(model, flatten=False, num_embeddings=VOCAB)


def test_logits_that_are_not_numbers_do_not_pass(network: Callable[..., Any]) -> None:
    model = network()
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(CheckpointError, match="not finite before any training"):
        check_no_leak(model, flatten=False, num_embeddings=VOCAB)


def test_modes_and_random_numbers_stay_as_they_were(network: Callable[..., Any]) -> None:
    model = network(attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    check_no_leak(model, flatten=False, num_embeddings=VOCAB)
    assert torch.get_rng_state().equal(before)
    assert [module.training for module in model.modules()] == modes
