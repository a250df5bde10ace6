"""The fast way gives the plain way's numbers for every architecture, or is not taken."""

import dataclasses
from typing import Any

import pytest

from lamina.evaluate.models import LanguageModel
from lamina.evaluate.outputs import Score
from lamina.evaluate.ways import score_questions, ways_of
from lamina.evaluate.windows import Window

SIZES: dict[str, Any] = {"vocab_size": 97, "pad_token_id": None}
WIDE = {**SIZES, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {**WIDE, "num_attention_heads": 4, "max_position_embeddings": 64}
GROUPED = {**HEADS, "num_key_value_heads": 2}
GPT2 = {**SIZES, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}

SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GROUPED),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}),
    "gemma": ("gemma", {**GROUPED, "head_dim": 8}),
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}),
    "mistral, a window that holds all": ("mistral", {**GROUPED, "sliding_window": 64}),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", HEADS),
    "mixtral": ("mixtral", {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "olmo2": ("olmo2", GROUPED),
    "phi3": ("phi3", GROUPED),
}
PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral, a short window": ("mistral", {**GROUPED, "sliding_window": 8}),
    "mistral, a window of some": ("mistral", {**GROUPED, "sliding_window": 20}),
    "llama, dynamic positions": ("llama", {**GROUPED, "rope_parameters": DYNAMIC}),
    "bloom": ("bloom", {**SIZES, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": (
        "falcon",
        {**SIZES, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "alibi": True, "max_position_embeddings": 64},
    ),
    "mamba": ("mamba", {**SIZES, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}  # fmt: skip
EITHER: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {**HEADS, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "gemma2": (
        "gemma2",
        {**GROUPED, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 5.0},
    ),
    "gpt_neo": (
        "gpt_neo",
        {**SIZES, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 8,
         "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64},
    ),
}  # fmt: skip


def _model(family: str, sizes: dict[str, Any], *, dtype: str = "float32") -> LanguageModel:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, bos_token_id=0, eos_token_id=1, **sizes)
    torch.manual_seed(1)
    network: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        # As they are made, attention moves outputs by less than rounding shows.
        for name, weight in network.named_parameters():
            if weight.ndim == 2 and "A_log" not in name:
                weight.normal_(std=0.3)
    network.to(getattr(torch, dtype))
    return LanguageModel(
        name=family,
        network=network,
        tokenizer=None,  # pyrefly: ignore
        max_length=64,
        start=0,
        bos=0,
        num_embeddings=97,
        keeps_logits=False,
        device=torch.device("cpu"),
    )


def _questions() -> list[list[Window]]:
    """After a prefix of 5: two prompts with tails, answers of one token, one that goes on."""
    import torch

    draw = torch.Generator().manual_seed(2)

    def some(size: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 97, (size,), generator=draw).tolist())

    prefix, first, second, third = some(5), some(9), some(30), some(4)
    return [
        [Window(n, (*prefix, *first, *some(size)), size) for n, size in enumerate((3, 5, 2))],
        [Window(n, (*prefix, *second, *some(1)), 1) for n in range(4)],
        [Window(0, (*prefix, *third, 7), 1), Window(1, (*prefix, *third, 7, 8, 9), 3)],
    ]


def _alone(model: LanguageModel, window: Window) -> Score:
    import torch

    network: Any = model.network
    with torch.no_grad():
        out = network(input_ids=torch.tensor([window.tokens[:-1]]), use_cache=False).logits[0]
    logits = out[-window.scored :].double()
    targets = list(window.tokens[-window.scored :])
    logprob = logits.log_softmax(-1)[range(window.scored), targets].sum()
    return Score(float(logprob), logits.argmax(-1).tolist() == targets)


def _check(model: LanguageModel, tolerance: float = 1e-4) -> None:
    questions = _questions()
    wanted = [_alone(model, window) for question in questions for window in question]
    for begin in (0, 5):
        for passes in ([questions], [questions[:1], questions[1:]]):
            found = score_questions(model, passes, begin=begin, batch_tokens=100)
            assert [s.logprob for s in found] == pytest.approx(
                [s.logprob for s in wanted], abs=tolerance
            )
            assert [s.greedy for s in found] == [s.greedy for s in wanted]


@pytest.mark.parametrize("kind", SHARED)
def test_what_is_shared_gives_the_numbers_of_each_row_alone(kind: str) -> None:
    model = _model(*SHARED[kind])
    shared = ways_of(model).shared
    assert shared is not None
    assert shared.limit == 64
    before = model.network.config._attn_implementation
    _check(model)
    assert model.network.config._attn_implementation == before == "sdpa"


@pytest.mark.parametrize("kind", [*PLAIN, *EITHER])
def test_other_architectures_are_read_the_plain_way(kind: str) -> None:
    model = _model(*{**PLAIN, **EITHER}[kind])
    shared = ways_of(model).shared
    if kind in PLAIN:
        longest = max(window.length for question in _questions() for window in question)
        assert shared is None or shared.limit < longest
    _check(model)


def test_without_an_output_embedding_of_its_own_a_model_is_read_the_plain_way() -> None:
    model = _model(*SHARED["llama"])
    model.findings.ways = dataclasses.replace(ways_of(model), head=None, shared=None)
    _check(model)


def test_half_precision_is_scored_in_float32_from_the_outputs_on() -> None:
    model = _model(*SHARED["llama"], dtype="bfloat16")
    assert ways_of(model).shared is not None
    assert not ways_of(model).products.by_module
    questions = _questions()
    wanted = [_alone(model, window) for question in questions for window in question]
    found = score_questions(model, [questions], begin=5, batch_tokens=100)
    assert [s.logprob for s in found] == pytest.approx([s.logprob for s in wanted], rel=0.05)


def test_a_model_is_tried_once_and_left_as_it_was() -> None:
    model = _model(*SHARED["llama"])
    assert ways_of(model) is ways_of(model)
    _check(model)
    assert not any("forward" in vars(module) for module in model.network.modules())
