"""Pico networks with an adapter that does something, and batches of random rows."""

from typing import Any

import numpy as np
import torch

from lamina.engine.collate import PackedRow, collate

VOCAB = 61
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "bloom": dict.fromkeys(("hidden_dropout", "attention_dropout"), 0.0),
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "opt": {"ffn_dim": 24, "dropout": 0.0, "word_embed_proj_dim": 16},
}
SIZE = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
TOKENS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


def pico(kind: str = "llama", *, seed: int = 0, num_blocks: int = 3, **changes: Any) -> Any:
    """An untrained causal model with weights large enough for every module to matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    values = {**SIZE, **TOKENS, "num_hidden_layers": num_blocks, "max_position_embeddings": 64}
    config = AutoConfig.for_model(kind, **{**values, **CHANGES.get(kind, {}), **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def adapted_pico(kind: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    """With LoRA on all linear modules; A and B are drawn, alpha differs from the rank."""
    from peft import LoraConfig, get_peft_model

    from lamina.engine.load import quiet

    with quiet():
        config = LoraConfig(r=3, lora_alpha=7, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(pico(kind, **changes), config)
    torch.manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def packed(*lengths: int, seed: int = 0) -> PackedRow:
    """Random examples; the second half of each is trained."""
    rng = np.random.default_rng(seed)
    trained = np.concatenate([np.arange(n) >= max(1, n // 2) for n in lengths])
    return PackedRow(rng.integers(2, VOCAB, sum(lengths)), trained, np.array(lengths))


def batches() -> list[dict[str, torch.Tensor]]:
    """Five rows in three batches, with padding."""
    rows = [[packed(7, 5, seed=1), packed(9, seed=2)], [packed(2, 6, seed=3)]]
    rows += [[packed(11, seed=4), packed(3, 4, seed=5)]]
    return [collate(few, pad_id=1, flatten=False) for few in rows]
