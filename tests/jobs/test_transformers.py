"""transformers loads what lamina writes, and the logits are those of a merge in memory."""

import json
from pathlib import Path

import pytest
import tiny_family as tf

from lamina.jobs import run_merge


@pytest.mark.parametrize(("dtype", "shards"), [("F32", 1), ("BF16", 3)])
def test_logits(dtype: str, shards: int, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    for name, tensors in tf.members().items():
        tf.write_model(tmp_path / name, tensors, dtype, shards=shards)
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": "./instruct",
        "models": [
            {"model": "./math", "parameters": {"weight": 0.75}},
            {"model": "./code", "parameters": {"weight": -0.5}},
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run_merge(tmp_path / "recipe.yaml", tmp_path / "out")

    def load(name: str) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto").eval()

    merged, instruct, math, code = map(load, ("out", "instruct", "math", "code"))
    assert next(merged.parameters()).dtype == {"F32": torch.float32, "BF16": torch.bfloat16}[dtype]
    experts = zip(math.parameters(), code.parameters(), strict=True)
    with torch.no_grad():
        for own, (one, other) in zip(instruct.parameters(), experts, strict=True):
            update = (one.float() - own.float()) * 0.75 - (other.float() - own.float()) * 0.5
            own.copy_(own.float() + update)
        tokens = torch.arange(40).reshape(2, 20)
        found, wanted = merged(tokens).logits, instruct(tokens).logits
    assert torch.equal(found, wanted)
