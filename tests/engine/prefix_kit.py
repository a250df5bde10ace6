"""Networks with adapters in some blocks, examples, and caches of what lies below."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamina.data.encode import Examples
from lamina.engine.collate import PackedRow, packed_row
from lamina.engine.heads import core_model
from lamina.engine.load import quiet
from lamina.engine.losses import LossHead
from lamina.engine.prefix import (
    blocks_of,
)
from lamina.engine.prefix_cache import PrefixAt, PrefixCache

FAMILIES = {
    "llama": "self_attn.q_proj",
    "gpt_neox": "attention.query_key_value",
    "gpt2": "attn.c_attn",
    "gemma2": "self_attn.q_proj",
}
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "attn_implementation": "eager"},
}
NUM_BLOCKS = 4


def examples(seed: int = 0, count: int = 9) -> Examples:
    draws = np.random.default_rng(seed)
    lengths = draws.integers(3, 12, count)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.ones(starts[-1], dtype=bool)
    trained[starts[:-1]] = False
    return Examples(
        ids=draws.integers(2, 61, starts[-1]).astype(np.int32),
        trained=trained,
        starts=starts,
        num_bytes=lengths.astype(np.int64),
        places=tuple(f"rows.jsonl:{number + 1}" for number in range(count)),
    )


def rows_of(one: Examples) -> list[PackedRow]:
    """Three examples a row."""
    return [packed_row(one, range(n, n + 3), row=n) for n in range(0, len(one), 3)]


def adapted(
    network: Callable[..., Any],
    kind: str = "llama",
    blocks: tuple[int, ...] = (2, 3),
    **changes: Any,
) -> Any:
    """A network with LoRA in some of its blocks, B drawn so that it does something."""
    from peft import LoraConfig, get_peft_model

    sizes = {"num_hidden_layers": NUM_BLOCKS, **CHANGES.get(kind, {})}
    plain = network(kind, **(sizes | changes))
    plain.config.use_cache = False
    targets = [
        name
        for name, _ in plain.named_modules()
        if name.endswith(FAMILIES[kind]) and any(f".{block}." in name for block in blocks)
    ]
    assert len(targets) == len(blocks)
    conv = kind == "gpt2"
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=conv)
    with quiet():
        model = get_peft_model(plain, config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def cache_of(model: Any, folder: Path, *groups: Examples, **options: Any) -> PrefixCache:
    return PrefixCache.settled(model, PrefixAt(folder, "model", groups or (examples(),)), **options)


def step(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch and the gradients of what is trained."""
    model.zero_grad()
    sums = LossHead(model)(model, batch)
    sums.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return float(sums.loss.detach()), grads


def checkpointed(model: Any) -> Any:
    core = core_model(model)
    core.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def top_block_alone(model: Any) -> Any:
    """All frozen but the last block."""
    model.config.use_cache = False
    model.requires_grad_(False)
    blocks_of(model)[-1].requires_grad_(True)
    return model.train()
