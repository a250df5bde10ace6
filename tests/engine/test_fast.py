"""Attention by example gives what a mask gives, and leaves a model as it was."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lamina.engine.collate import PackedRow, collate
from lamina.engine.fast import NAME, NotHere, attending_by_example, attention, example_lengths

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def mistral_with_a_window() -> MistralForCausalLM:
    torch.manual_seed(3)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5))


def qwen3() -> Qwen3ForCausalLM:
    torch.manual_seed(3)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES))


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=40, bos_token_id=1, eos_token_id=2, resid_pdrop=0, attn_pdrop=0, embd_pdrop=0,
        **GPT2_SIZES,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def bloom() -> BloomForCausalLM:
    return BloomForCausalLM(BloomConfig(vocab_size=40, hidden_size=32, n_layer=1, n_head=4))


CAN = [llama, mistral_with_a_window, qwen3, gpt2]


def rows(*lengths: tuple[int, ...]) -> list[PackedRow]:
    """A packed row of random tokens for each tuple of lengths."""
    draws = np.random.default_rng(5)
    packed = []
    for of_row in lengths:
        trained = np.ones(sum(of_row), dtype=bool)
        trained[np.cumsum(of_row) - np.array(of_row)] = False
        ids = draws.integers(0, 40, size=sum(of_row))
        packed.append(PackedRow(ids, trained, np.array(of_row)))
    return packed


BATCH = ((7, 3, 11), (20,), (2, 2))


def losses_and_gradients(model, *, flatten: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Each target's loss, and the gradients of their sum."""
    batch = collate(rows(*BATCH), pad_id=0, flatten=flatten)
    out = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
    ).logits.flatten(0, 1)
    losses = F.cross_entropy(out[batch["predictors"]], batch["targets"], reduction="none")
    gradients = torch.autograd.grad(losses.sum(), list(model.parameters()))
    return losses.detach(), list(gradients)


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("make", CAN)
def test_losses_and_gradients_are_those_of_the_mask(make, flatten):
    model = make().double()
    losses, gradients = losses_and_gradients(model, flatten=False)
    with attending_by_example(model) as can:
        assert can
        ours, our_gradients = losses_and_gradients(model, flatten=flatten)
    torch.testing.assert_close(ours, losses, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(our_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_a_neighbour_moves_nothing_at_all():
    model, found = llama(), []
    first, second = rows((9, 6), (9, 6))
    moved = PackedRow(np.r_[second.ids[:9], first.ids[9:]], first.trained, first.lengths)
    with attending_by_example(model), torch.no_grad():
        for row in (first, moved):
            batch = collate([row], pad_id=0, flatten=True)
            inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
            found.append(model(**inputs, use_cache=False).logits[0, 9:15])
    assert found[0].equal(found[1])


def test_the_same_batch_gives_the_same_bits_twice():
    model = llama()
    with attending_by_example(model):
        first, second = (losses_and_gradients(model, flatten=True) for _ in range(2))
    assert first[0].equal(second[0])
    assert all(a.equal(b) for a, b in zip(first[1], second[1], strict=True))


def test_the_model_is_as_before_afterwards_also_after_an_error():
    model = llama()

    def fails() -> None:
        with attending_by_example(model):
            assert model.config._attn_implementation == NAME
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert model.config._attn_implementation == "sdpa"
    assert model.training


def test_nothing_of_it_is_saved_with_the_model(tmp_path):
    model = llama()
    with attending_by_example(model):
        model.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()


def test_a_model_with_attention_of_its_own_is_left_alone():
    model = bloom()
    with attending_by_example(model) as can:
        assert not can
        assert model.config._attn_implementation != NAME


def test_eager_attention_that_was_asked_for_is_left_alone():
    model = llama()
    model.set_attn_implementation("eager")
    with attending_by_example(model) as can:
        assert not can
        assert model.config._attn_implementation == "eager"


def test_a_cache_is_refused():
    model = llama()
    with attending_by_example(model), torch.no_grad():
        begun = model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=True)
        with pytest.raises(NotHere, match="a mask or a cache"):
            model(input_ids=torch.tensor([[6]]), past_key_values=begun.past_key_values)


@pytest.mark.parametrize(
    ("name", "value"),
    [("softcap", 30.0), ("s_aux", torch.zeros(2)), ("position_bias", torch.zeros(1))],
)
def test_another_kind_of_attention_is_refused(name, value):
    state = torch.zeros(1, 2, 3, 8)
    with pytest.raises(NotHere, match=name):
        attention(
            torch.nn.Identity(), state, state, state, None,
            position_ids=torch.arange(3)[None], **{name: value},
        )  # fmt: skip


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [
        ([[0, 1, 2]], [3]),
        ([[0, 1, 0, 1, 2]], [2, 3]),
        ([[0, 1, 2, 0, 0]], [3, 2]),
        ([[0, 1, 0, 0], [0, 1, 2, 3]], [2, 2, 4]),
        ([[0, 1, 0], [0, 1, 0], [0, 1, 2]], [2, 1, 2, 1, 3]),
        ([[0, 0, 0]], [3]),
    ],
)
def test_examples_begin_where_positions_do_and_padding_is_one(positions, lengths):
    assert example_lengths(torch.tensor(positions)) == lengths
