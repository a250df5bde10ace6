"""Which models' frozen blocks can be kept, and the words for those that cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prefix_kit import CHANGES, cache_of, examples, rows_of, top_block_alone

from lamina.core.errors import RecipeError
from lamina.engine.collate import collate
from lamina.engine.losses import LossHead
from lamina.engine.prefix import (
    blocks_of,
)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    def refuse(model: Any, match: str) -> None:
        with pytest.raises(RecipeError, match=match):
            cache_of(model, tmp_path / "prefix")
        assert not list(tmp_path.iterdir())

    return refuse


def test_nothing_below_is_refused(adapted: Callable[..., Any], refused: Any) -> None:
    refused(adapted(blocks=(0, 3)), "nothing is frozen below")


def test_dropout_in_the_prefix_is_refused_by_name(
    adapted: Callable[..., Any], refused: Any
) -> None:
    refused(adapted(attention_dropout=0.1), r"dropout \(attention_dropout 0.1\)")
    refused(adapted("gpt2", resid_pdrop=0.2), r"dropout \(dropout 0.2\)")


def test_dropout_of_the_embedding_is_found_by_trying(
    adapted: Callable[..., Any], refused: Any
) -> None:
    refused(adapted("gpt2", embd_pdrop=0.5), "something there is random")


def test_dropout_above_the_prefix_is_no_matter(adapted: Callable[..., Any], tmp_path: Path) -> None:
    model = adapted()
    for block in blocks_of(model)[2:]:
        block.self_attn.attention_dropout = 0.1
    assert cache_of(model, tmp_path / "prefix").block == 2


def test_sharded_weights_are_refused(
    adapted: Callable[..., Any], refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused(adapted(), "sharded")


GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
PER_LAYER = {
    **GROUPED, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 61,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
STREAMS = {"laurel_rank": 4, "altup_num_inputs": 2, "activation_sparsity_pattern": None}


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        ("gemma3n_text", {**PER_LAYER, **STREAMS}, r"tensors of shape \[2, 1, 11, 16\]"),
        ("gemma4_text", {**PER_LAYER, "global_head_dim": 8}, "read what a lower block leaves"),
        ("bloom", {"hidden_dropout": 0.0, "attention_dropout": 0.0}, "takes no positions"),
    ],
)
def test_families_whose_blocks_read_more_are_refused(
    network: Callable[..., Any], refused: Any, kind: str, changes: dict[str, Any], match: str
) -> None:
    model = network(kind, attn_implementation="eager", **changes)
    refused(top_block_alone(model), match)


@pytest.mark.parametrize(
    ("kind", "changes"),
    {
        "gpt2": CHANGES["gpt2"], "gpt_neox": {}, "llama": GROUPED, "qwen2": GROUPED,
        "qwen3": GROUPED, "gemma2": GROUPED, "gemma3_text": GROUPED, "mistral": GROUPED,
        "phi3": {"num_key_value_heads": 2}, "olmo2": GROUPED, "mixtral": GROUPED,
        "cohere": GROUPED, "granite": GROUPED,
    }.items(),
)  # fmt: skip
def test_the_thirteen_families_can_be_kept(
    network: Callable[..., Any], tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    model = top_block_alone(network(kind, attn_implementation="eager", **changes))
    cache = cache_of(model, tmp_path / "prefix")
    head, batch = LossHead(model), collate(rows_of(examples()), pad_id=0, flatten=False)
    whole = head(model, batch).loss.detach()
    with cache.reading(model):
        torch.testing.assert_close(head(model, batch).loss.detach(), whole, rtol=1e-5, atol=1e-5)


def test_blocks_that_read_a_lower_block_are_refused(
    adapted: Callable[..., Any], refused: Any
) -> None:
    """Keys and values handed over beside the hidden states, as some models share them."""
    model = adapted()
    low, high = blocks_of(model)[0], blocks_of(model)[3]
    shared: list[torch.Tensor] = [torch.zeros(1)]
    low.mlp.register_forward_hook(lambda _, args, out: shared.__setitem__(0, out.mean()))
    high.mlp.register_forward_hook(lambda _, args, out: out + shared[0])
    refused(model, "read more than the hidden states from below")
