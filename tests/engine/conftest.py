"""Pico models and packed rows, made on the spot."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lamina.engine.collate import PackedRow

sys.path.append(str(Path(__file__).parent))

import prefix_kit

VOCAB = 61


def _network(kind: str = "llama", *, seed: int = 0, std: float = 0.3, **changes: Any) -> Any:
    """An untrained causal model of two blocks with weights large enough for attention to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 64}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    attention = changes.pop("attn_implementation", None)
    config = AutoConfig.for_model(kind, **{**size, **heads, **tokens, **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model


def _row(*lengths: int, seed: int = 0, domain: int = 0, row: int = 0) -> PackedRow:
    """Random examples; the second half of each, and at least its last token, is trained."""
    rng = np.random.default_rng(seed)
    trained = np.concatenate([np.arange(n) >= max(1, n // 2) for n in lengths])
    ids = rng.integers(2, VOCAB, sum(lengths)).astype(np.int32)
    return PackedRow(ids, trained, np.array(lengths), domain=domain, row=row)


@pytest.fixture(scope="session")
def network() -> Callable[..., Any]:
    return _network


@pytest.fixture(scope="session")
def row() -> Callable[..., PackedRow]:
    return _row


@pytest.fixture(scope="session")
def rows() -> Sequence[PackedRow]:
    """Six examples in three rows of other lengths."""
    return [_row(7, 5, 3, seed=1), _row(9, seed=2, row=1), _row(2, 6, seed=3, domain=1, row=4)]


@pytest.fixture(scope="session")
def adapted(network: Callable[..., Any]) -> Callable[..., Any]:
    """A network of four blocks with LoRA in some of them."""
    return partial(prefix_kit.adapted, network)
