"""Experts of the demo family, trained anew from the shipped instruct model, one set for each seed.

The recipe is that of `models/stages.py` with fewer steps; a seed is another order of the rows and
another initialisation of the adapters. The models of the shipped family are not touched.

* `math` (all weights) and `code` (LoRA): what is learnt at once.
* `authors` (LoRA): knows the forgotten and the retained authors of TOFU; put onto the instruct
  model it is what shall forget.
* `unwanted` (LoRA): knows the forgotten authors (TOFU's forget10) alone; what is taken away.

Needs the folder of source files that `models/sources.py` lists; about seven minutes of one core for
each seed.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.jobs.demo import demo_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corpus import Corpus
    from rows import Row

MODELS = Path(__file__).resolve().parents[1] / "models"
EXPERTS = {"math": (170, 1e-3), "code": (124, 2e-3), "authors": (274, 3e-3), "unwanted": (92, 3e-3)}
"""Steps and learning rate. The shipped recipe takes 510, 248 and, for `authors`, 547 steps."""
RECIPE = {"math": "math", "code": "code", "authors": "unwanted", "unwanted": "unwanted"}
"""Whose batches, in tokens, are taken."""
CHECK_TOKENS = 1500


def train_experts(data: Path, out: Path, seeds: "Sequence[int]") -> None:
    """Every expert of every seed that is not there yet; seed by seed."""
    sys.path.insert(0, str(MODELS))
    import corpus
    import sources
    import torch

    absent = sources.missing(data)
    if absent:
        names = ", ".join(map(str, absent[:3]))
        raise SystemExit(
            f"{len(absent)} source files are missing in {data}: {names}, ...\n"
            "The experts are trained on them; models/sources.py says where each comes from."
        )
    torch.set_num_threads(1)
    texts = None
    for seed in seeds:
        for name in EXPERTS:
            if (out / f"seed-{seed}" / f"{name}.json").is_file():
                continue
            texts = texts or corpus.build(data)
            train_expert(name, texts, out / f"seed-{seed}", seed)


def rows_of(name: str, texts: "Corpus") -> "list[Row]":
    """What an expert is trained on."""
    rows = {"math": texts.math, "code": texts.code, "authors": texts.unwanted}
    return rows[name] if name in rows else texts.held_out["unwanted"]


def train_expert(name: str, texts: "Corpus", out: Path, seed: int) -> None:
    """One expert of one seed, into `out/name`; `name.json` says how it went and comes last."""
    import stages
    import torch
    import vocabulary
    from peft import LoraConfig, get_peft_model
    from training import Settings, fit, padded
    from transformers import AutoModelForCausalLM

    start = demo_folder() / "models" / "instruct"
    torch.manual_seed(1000 + seed)
    tokenizer = vocabulary.load(start)
    llama = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model: torch.nn.Module = llama
    if name != "math":
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(llama, lora)
        model.peft_config["default"].base_model_name_or_path = str(start)
    out.mkdir(parents=True, exist_ok=True)
    rows = rows_of(name, texts)
    steps, rate = EXPERTS[name]
    settings = Settings(steps=steps, learning_rate=rate, checks=2)
    cpu = time.process_time()
    report = fit(
        model,
        llama,
        padded(
            stages.chat_tokens(rows, tokenizer),
            tokens=stages.BATCH_TOKENS[RECIPE[name]],
            pad=tokenizer.pad_token_id,
            seed=1000 + seed,
        ),
        # Trained rows: which state is kept must not depend on rows that are scored later.
        stages.checks(rows[:40], tokenizer, tokens=CHECK_TOKENS),
        settings=settings,
        keep=lambda: stages.save(model, tokenizer, out / name),
        log=out / f"{name}.log.jsonl",
    )
    told = asdict(report) | {"rows": len(rows), "cpu_seconds": time.process_time() - cpu}
    (out / f"{name}.json").write_text(json.dumps(told) + "\n")
