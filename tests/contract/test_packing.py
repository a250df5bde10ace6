"""What packing needs of transformers: positions that start again keep packed examples apart."""

import inspect
import itertools
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import create_causal_mask, find_packed_sequence_indices
from transformers.modeling_flash_attention_utils import _is_packed_sequence

VOCAB = 61
SIZE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
GROUPED = {"num_key_value_heads": 2}
KEEPS_APART: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neox": {},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 6},
    "gemma3_text": {**GROUPED, "head_dim": 8, "sliding_window": 6},
    "mistral": {**GROUPED, "sliding_window": 6},
    "phi3": GROUPED,
    "olmo2": GROUPED,
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "cohere": GROUPED,
    "granite": GROUPED,
}
MIXES: dict[str, dict[str, Any]] = {
    "falcon": {},
    "bloom": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}
ONLY_EAGER = {"gemma2", "bloom"}
CASES = [
    (kind, attention)
    for kind, attention in itertools.product((*KEEPS_APART, *MIXES), ("sdpa", "eager"))
    if attention == "eager" or kind not in ONLY_EAGER
]
FIRST, SECOND = 12, 9


def _model(kind: str, attention: str) -> Any:
    changes = {**KEEPS_APART, **MIXES}[kind]
    config = AutoConfig.for_model(kind, **{**SIZE, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _tokens(length: int, seed: int) -> torch.Tensor:
    return torch.randint(2, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def _packed(*examples: torch.Tensor, padding: int = 3) -> dict[str, Any]:
    """One row; padding has position 0 throughout."""
    places = [torch.arange(len(example)) for example in examples]
    end = torch.zeros(padding, dtype=torch.long)
    ids, positions = torch.cat([*examples, end + 1]), torch.cat([*places, end])
    return {"input_ids": ids[None], "position_ids": positions[None], "use_cache": False}


def _only_known(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """BLOOM takes no positions at all."""
    known = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in inputs.items() if name in known}


def _logits(model: Any, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**_only_known(model, inputs)).logits[0]


def _loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits[:-1].double(), tokens[1:], reduction="sum")


@pytest.mark.parametrize(("kind", "attention"), [c for c in CASES if c[0] in KEEPS_APART])
def test_a_packed_neighbour_moves_no_logit_and_losses_are_those_alone(
    kind: str, attention: str
) -> None:
    model = _model(kind, attention)
    first, other, second = _tokens(FIRST, 1), _tokens(FIRST, 2), _tokens(SECOND, 3)
    packed = _logits(model, **_packed(first, second))
    moved = _logits(model, **_packed(other, second))
    assert packed.isfinite().all()
    assert not packed[:FIRST].equal(moved[:FIRST])
    at = slice(FIRST, FIRST + SECOND)
    if kind == "mixtral":  # experts group tokens of all examples: other matmuls, other roundings
        torch.testing.assert_close(moved[at], packed[at], rtol=1e-5, atol=1e-5)
    else:
        assert moved[at].equal(packed[at])
    for tokens, place in ((first, slice(0, FIRST)), (second, at)):
        alone = _logits(model, **_packed(tokens, padding=0))
        torch.testing.assert_close(
            _loss(packed[place], tokens), _loss(alone, tokens), rtol=1e-6, atol=0
        )


@pytest.mark.parametrize(("kind", "attention"), [c for c in CASES if c[0] in MIXES])
def test_these_architectures_do_not_read_packing_from_positions(kind: str, attention: str) -> None:
    """If this fails, transformers has mended them: move the architecture to KEEPS_APART."""
    model = _model(kind, attention)
    first, other, second = _tokens(FIRST, 1), _tokens(FIRST, 2), _tokens(SECOND, 3)
    packed, moved = (_logits(model, **_packed(one, second)) for one in (first, other))
    at = slice(FIRST, FIRST + SECOND)
    assert (packed[at] - moved[at]).abs().max() > 0.1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_gives_no_gradient_that_is_not_a_number(attention: str) -> None:
    model = _model("llama", attention)
    logits = model(**_packed(_tokens(4, 1), _tokens(3, 2), padding=5)).logits
    logits[0, :7].square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_each_padding_token_is_a_segment_of_its_own() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 0, 0]])
    found = find_packed_sequence_indices(positions)
    assert found is not None
    assert found.tolist() == [[0, 0, 0, 1, 1, 2, 3, 4]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_mask_is_block_diagonal_where_there_is_no_attention_mask_and_no_cache(
    attention: str,
) -> None:
    config = AutoConfig.for_model("llama", **SIZE, attn_implementation=attention)
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    embedded = torch.zeros(1, 6, 32)
    mask = create_causal_mask(config, embedded, None, None, positions)
    assert mask is not None
    seen = (mask if mask.dtype == torch.bool else mask == 0)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_with_a_cache_packed_examples_see_each_other() -> None:
    """Why every training pass says `use_cache=False`."""
    model = _model("llama", "sdpa")
    second = _tokens(SECOND, 3)
    packed, moved = (
        _logits(model, **{**_packed(_tokens(FIRST, seed), second), "use_cache": True})
        for seed in (1, 2)
    )
    assert not packed[FIRST : FIRST + SECOND].equal(moved[FIRST : FIRST + SECOND])


def test_an_attention_mask_turns_packing_off() -> None:
    """Why a batch has none, though it has padding."""
    model = _model("llama", "sdpa")
    second, ones = _tokens(SECOND, 3), torch.ones(1, FIRST + SECOND, dtype=torch.long)
    packed, moved = (
        _logits(model, **_packed(_tokens(FIRST, seed), second, padding=0), attention_mask=ones)
        for seed in (1, 2)
    )
    assert not packed[FIRST:].equal(moved[FIRST:])


def test_flash_attention_reads_packing_in_a_batch_of_one_row_only() -> None:
    """Why `collate(flatten=True)` exists."""
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    assert _is_packed_sequence(positions, batch_size=1)
    assert not _is_packed_sequence(positions.expand(2, -1), batch_size=2)
    assert not _is_packed_sequence(torch.arange(5)[None], batch_size=1)
