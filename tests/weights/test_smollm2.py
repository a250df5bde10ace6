"""A LoRA expert on a real chat model: the merged folder is PEFT's merge, and transformers runs it.

Needs a folder with SmolLM2-135M-Instruct in the environment variable LAMINA_SMOLLM2.
"""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HOME = os.environ.get("LAMINA_SMOLLM2", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path(HOME) / "config.json").is_file() or not HOME,
        reason="set LAMINA_SMOLLM2 to the folder of SmolLM2-135M-Instruct",
    ),
]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RECIPE = """\
merge_method: task_arithmetic
base_model: {base}
models:
  - {{model: ./adapter, parameters: {{weight: 1.0}}}}
dtype: float32
"""


def make_adapter(folder: Path) -> Any:
    """Random factors with ranks and alphas of their own per module; gives PEFT's merged model."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(HOME, dtype=torch.float32)
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        target_modules=LINEAR,
        init_lora_weights=False,
        rank_pattern={"q_proj": 4, "layers.7.mlp.down_proj": 12, r".*\.1\d\.mlp\.up_proj": 3},
        alpha_pattern={"q_proj": 5, "o_proj": 2.5, "layers.0.self_attn.v_proj": 40},
        task_type="CAUSAL_LM",
    )
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload()


def logits_of(model: Any, tokens: Any) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model.eval()(tokens).logits.float().numpy()


def test_a_lora_expert_at_weight_1_is_pefts_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lamina.jobs.merge import run_merge

    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = make_adapter(tmp_path / "adapter")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(base=HOME))
    told = run_merge(tmp_path / "recipe.yaml", tmp_path / "out")
    assert told["results"]["tensors_changed"] == 210
    ours, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs, mine = merged.state_dict(), ours.state_dict()
    assert theirs.keys() == mine.keys()
    largest = max((mine[name] - theirs[name]).abs().max().item() for name in theirs)
    assert largest < 5e-6
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = tokenizer("The lamp was lit, and the dogs went to the mat.", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(HOME, dtype=torch.float32)
    a, b, c = (logits_of(model, tokens["input_ids"]) for model in (ours, merged, base))
    print(f"largest weight difference {largest:.3g}, logits {np.abs(a - b).max():.3g},")
    print(f"logits from the base {np.abs(a - c).max():.3g}, range {np.abs(b).max():.3g}")
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-3)
    assert (a.argmax(-1) == b.argmax(-1)).all()
    assert np.abs(a - c).max() > 1, "the adapter did something"
