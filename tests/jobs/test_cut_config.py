"""A config after its top blocks are gone: what each block has of its own, in families' words."""

from typing import Any

import pytest

from lamina.core.errors import CheckpointError
from lamina.jobs.cut_config import COUNTS, cut_config

KINDS = ["full_attention", "sliding_attention"] * 3


@pytest.mark.parametrize("count", COUNTS)
def test_the_count_is_found_under_every_name_and_keys_keep_their_order(count: str) -> None:
    config = {"model_type": "any", count: 6, "layer_types": KINDS, "vocab_size": 6}
    cut = cut_config(config, blocks=6, keep=4)
    assert cut == {"model_type": "any", count: 4, "layer_types": KINDS[:4], "vocab_size": 6}
    assert list(cut) == list(config)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"no_rope_layers": [1, 1, 1, 0, 1, 1]}, {"no_rope_layers": [1, 1, 1, 0]}),
        ({"mlp_only_layers": [0, 3, 4]}, {"mlp_only_layers": [0, 3]}),
        ({"mlp_only_layers": [0, 1, 2, 3, 4, 5]}, {"mlp_only_layers": [0, 1, 2, 3]}),
        ({"intermediate_size": [8, 8, 8, 8, 16, 16]}, {"intermediate_size": [8, 8, 8, 8]}),
        ({"intermediate_size": 64}, {"intermediate_size": 64}),
        ({"attention_types": [[["global", "local"], 3]]}, "global local global local"),
        ({"num_kv_shared_layers": 3}, {"num_kv_shared_layers": 1}),
        ({"num_kv_shared_layers": 1}, {"num_kv_shared_layers": 0}),
        ({"mtp_layer_types": KINDS}, {"mtp_layer_types": KINDS}),
        ({"eos_token_id": [1, 2, 3, 4, 5, 6]}, {"eos_token_id": [1, 2, 3, 4, 5, 6]}),
        ({"max_window_layers": 28}, {"max_window_layers": 28}),
    ],
)
def test_what_has_a_value_for_each_block_is_cut_and_nothing_else(given: Any, left: Any) -> None:
    if isinstance(left, str):
        left = {"attention_types": [[left.split(), 1]]}
    cut = cut_config({"num_hidden_layers": 6, **given}, blocks=6, keep=4)
    assert cut == {"num_hidden_layers": 4, **left}


def test_the_language_models_part_is_cut_and_the_others_stay() -> None:
    vision = {"num_hidden_layers": 6, "layer_types": KINDS}
    config = {
        "text_config": {"num_hidden_layers": 6, "layer_types": KINDS},
        "vision_config": vision,
    }
    cut = cut_config(config, blocks=6, keep=2)
    assert cut == {
        "text_config": {"num_hidden_layers": 2, "layer_types": KINDS[:2]},
        "vision_config": vision,
    }


def test_a_config_without_a_count_is_refused() -> None:
    with pytest.raises(CheckpointError, match="says nowhere that there are 6 blocks"):
        cut_config({"num_hidden_layers": 7}, blocks=6, keep=2)
