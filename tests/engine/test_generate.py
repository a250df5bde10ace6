"""Sampling: the same texts in any batch, and the distribution that transformers would sample."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from lamina.core.errors import CheckpointError
from lamina.engine.generate import (
    Sampling,
    _GrowingLayer,
    _Steps,
    distribution,
    draw,
    sample,
    uniforms,
)

VOCAB, START, END = 24, 0, 1
ASKED: dict[str, Any] = {"start_id": START, "eos_id": END, "seed": 5, "max_new_tokens": 20}


def pico_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    return LlamaForCausalLM(config).eval()


def pico_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.4
    )
    return GPT2LMHeadModel(config).eval()


def pico_mistral() -> MistralForCausalLM:
    """Its window of attention is shorter than the texts."""
    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=6,
        initializer_range=0.4,
    )
    return MistralForCausalLM(config).eval()


def pico_mamba() -> MambaForCausalLM:
    """It keeps no keys and values."""
    torch.manual_seed(3)
    config = MambaConfig(
        vocab_size=VOCAB, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.4
    )
    return MambaForCausalLM(config).eval()


MODELS = {
    "llama": pico_llama,
    "gpt2": pico_gpt2,
    "mistral": pico_mistral,
    "mamba": pico_mamba,
}


def one_by_one(model: torch.nn.Module, number: int, how: Sampling, *, tokens: int) -> list[int]:
    """Text `number`, the model reading all of it again at each token."""
    text = [START]
    for u in uniforms(ASKED["seed"], number, tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[:, -1]
        seen = torch.zeros(1, VOCAB, dtype=torch.bool)
        seen[0, text] = True
        text.append(int(draw(distribution(logits, seen, how), torch.tensor([u]))))
        if text[-1] == END:
            break
    return text[1:]


@pytest.mark.parametrize("name", MODELS)
def test_each_text_is_that_of_the_model_without_a_cache(name: str) -> None:
    model = MODELS[name]()
    texts = list(sample(model, num_texts=12, batch_size=5, **ASKED))
    assert texts == [one_by_one(model, i, Sampling(), tokens=20) for i in range(12)]
    lengths = [len(text) for text in texts]
    assert min(lengths) < 20 == max(lengths), "the test must see short and full texts"


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_the_batch_does_not_change_a_text(batch_size: int) -> None:
    model = pico_llama()
    whole = list(sample(model, num_texts=40, batch_size=16, **ASKED))
    assert list(sample(model, num_texts=40, batch_size=batch_size, **ASKED)) == whole
    assert list(sample(model, num_texts=9, first=31, batch_size=4, **ASKED)) == whole[31:]


def test_long_texts_pass_the_first_buffer() -> None:
    model = pico_llama()
    asked = ASKED | {"max_new_tokens": 100, "eos_id": None}
    texts = list(sample(model, num_texts=3, **asked))
    assert texts[2] == one_by_one_long(model, 2, 100)
    assert [len(text) for text in texts] == [100] * 3


def one_by_one_long(model: torch.nn.Module, number: int, tokens: int) -> list[int]:
    text = [START]
    for u in uniforms(ASKED["seed"], number, tokens):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text]), use_cache=False).logits[:, -1]
        text.append(int(draw(logits.softmax(-1), torch.tensor([u]))))
    return text[1:]


def test_the_cache_of_a_plain_model_is_ours() -> None:
    """Were transformers to make other caches, only speed would tell."""
    steps = _Steps(pico_llama(), torch.zeros(2, 1, dtype=torch.long))
    for _ in range(3):
        steps.logits(torch.ones(2, 1, dtype=torch.long))
    assert [type(layer) for layer in steps._cache.layers] == [_GrowingLayer] * 2
    assert steps._cache.get_seq_length() == 3


def test_a_shorter_text_is_the_beginning_of_a_longer_one() -> None:
    model = pico_llama()
    long = list(sample(model, num_texts=6, **ASKED))
    short = list(sample(model, num_texts=6, **ASKED | {"max_new_tokens": 7}))
    assert short == [text[:7] for text in long]


def test_another_seed_gives_other_texts() -> None:
    model = pico_llama()
    assert list(sample(model, num_texts=4, **ASKED)) != list(
        sample(model, num_texts=4, **ASKED | {"seed": 6})
    )


def test_any_of_several_end_tokens_ends_a_text() -> None:
    texts = list(sample(pico_llama(), num_texts=30, **ASKED | {"eos_id": (1, 2, 3)}))
    for text in texts:
        assert not {1, 2, 3} & set(text[:-1])
        assert len(text) == 20 or text[-1] in {1, 2, 3}
    assert len({text[-1] for text in texts} & {1, 2, 3}) > 1


def test_a_start_token_that_is_the_end_token_does_not_end_the_text() -> None:
    texts = list(sample(pico_llama(), num_texts=8, **ASKED | {"eos_id": START}))
    assert any(len(text) > 1 for text in texts)


def test_ids_beyond_the_tokenizer_are_never_drawn() -> None:
    texts = list(sample(pico_llama(), num_texts=50, num_ids=10, **ASKED))
    assert max(token for text in texts for token in text) == 9


def test_the_model_keeps_its_mode() -> None:
    model = pico_llama().train()
    next(sample(model, num_texts=1, **ASKED))
    assert model.training


def test_first_tokens_come_as_often_as_the_model_says() -> None:
    model = pico_llama()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[START]])).logits[0, -1].softmax(-1).numpy()
    count = 4000
    texts = sample(model, num_texts=count, batch_size=1000, **ASKED | {"max_new_tokens": 1})
    seen = Counter(text[0] for text in texts)
    found = np.array([seen[token] for token in range(VOCAB)]) / count
    chi2 = count * ((found - expected) ** 2 / expected).sum()
    assert chi2 < VOCAB - 1 + 4 * np.sqrt(2 * (VOCAB - 1))


def test_penalty_temperature_and_top_p_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    for temperature, top_p, penalty in [(0.7, 0.6, 1.3), (1.0, 0.9, 1.0), (2.0, 0.05, 0.8)]:
        logits = torch.randn(32, VOCAB) * 3
        ids = torch.randint(VOCAB, (32, 6))
        theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
        theirs = TemperatureLogitsWarper(temperature)(ids, theirs)
        theirs = TopPLogitsWarper(top_p)(ids, theirs).softmax(-1)
        seen = torch.zeros(32, VOCAB, dtype=torch.bool).scatter_(1, ids, True)
        ours = distribution(logits, seen, Sampling(temperature, top_p, penalty))
        ours = ours / ours.sum(-1, keepdim=True)
        assert torch.equal(ours > 0, theirs > 0)
        torch.testing.assert_close(ours, theirs)


def test_a_penalty_counts_the_start_token_and_all_since() -> None:
    model = pico_llama()
    how = Sampling(repetition_penalty=5.0)
    texts = list(sample(model, num_texts=8, repetition_penalty=5.0, **ASKED))
    assert texts == [one_by_one(model, i, how, tokens=20) for i in range(8)]
    assert texts != list(sample(model, num_texts=8, **ASKED))


def test_a_number_on_the_edge_falls_to_the_next_token() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).repeat(5, 1)
    u = torch.tensor([0.0, 0.2499999, 0.25, 0.999999, 1 - 2**-53], dtype=torch.float64)
    assert draw(probabilities, u).tolist() == [1, 1, 3, 3, 3]


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = pico_llama()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(CheckpointError, match="after 1 tokens is not a number"):
        list(sample(model, num_texts=2, **ASKED))
