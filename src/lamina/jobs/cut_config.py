"""A model's config.json after its top blocks are gone: their number, and what each has of its own.

Lists that a family's config holds for its blocks are known by name; a list that merely has as many
entries (of end tokens, say) is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lamina.core.errors import CheckpointError

COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""What families call the number of blocks."""
INDICES = frozenset(
    """
    mlp_only_layers cross_attention_layers moe_layers full_attention_layers hybrid_layer_ids
    attn_layer_indices attn_layers full_attn_idxs
    """.split()
)
"""Lists of numbers of blocks."""
PER_BLOCK = frozenset(
    """
    layers_block_type block_configs indexer_types activation_sparsity_pattern intermediate_size
    num_attention_heads num_key_value_heads num_query_heads num_kv_heads ffn_multipliers
    """.split()
)
"""Lists with a value for each block, beside those with `layer` in their name."""
FROM_THE_TOP = ("num_kv_shared_layers",)
"""How many of the top blocks are unlike the others."""


def cut_config(config: Mapping[str, Any], *, blocks: int, keep: int) -> dict[str, Any]:
    """The config of a model's lowest `keep` of `blocks` blocks; keys in their order.

    Raises:
        CheckpointError: no key says how many blocks there are.
    """
    found = {key: _cut_part(value, blocks, keep) for key, value in _parts(config).items()}
    if not any(_has_count(part, blocks) for part in _parts(config).values()):
        raise CheckpointError(
            f"config.json says nowhere that there are {blocks} blocks (looked for "
            f"{', '.join(COUNTS)}), so a smaller number cannot be written. Is it a language model?"
        )
    whole = found.pop("")
    return {key: found.get(key, value) for key, value in whole.items()}


def _parts(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The config itself, and the language model's in one of several parts."""
    nested = {k: v for k, v in config.items() if k == "text_config" and isinstance(v, dict)}
    return {"": config, **nested}


def _has_count(part: Mapping[str, Any], blocks: int) -> bool:
    return any(type(part.get(key)) is int and part[key] == blocks for key in COUNTS)


def _cut_part(part: Mapping[str, Any], blocks: int, keep: int) -> dict[str, Any]:
    if not _has_count(part, blocks):
        return dict(part)
    return {key: _cut_value(key, value, blocks, keep) for key, value in part.items()}


def _cut_value(key: str, value: Any, blocks: int, keep: int) -> Any:
    if key in COUNTS:
        return keep if value == blocks else value
    if key in FROM_THE_TOP and isinstance(value, int):
        return max(0, value - (blocks - keep))
    if key == "attention_types":
        return _attention_types(value, keep)
    if not isinstance(value, list) or key.startswith("mtp_"):
        return value
    if key in INDICES:
        return [number for number in value if not isinstance(number, int) or number < keep]
    if len(value) == blocks and (key in PER_BLOCK or "layer" in key):
        return value[:keep]
    return value


def _attention_types(value: Any, keep: int) -> Any:
    """GPT-Neo: [[[kinds], times], ...], written out it is a kind for each block."""
    try:
        kinds = [kind for group, times in value for _ in range(times) for kind in group]
    except (TypeError, ValueError):
        return value
    return [[kinds[:keep], 1]]
