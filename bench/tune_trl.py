"""One measured run of TRL's SFTTrainer, for bench/tune.py: one pass over the examples of a file.

    VENV/bin/python bench/tune_trl.py ROWS.npz SETTINGS.json WAY

WAY is `bfd` (its packing), `wrapped` (its packing that cuts examples), `padded` (no packing) or
`padding_free` (no packing, the batch flattened). Prints one line of JSON. Only this file needs TRL.
"""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

WAYS = {
    "bfd": {"packing": True, "packing_strategy": "bfd"},
    "wrapped": {"packing": True, "packing_strategy": "wrapped"},
    "padded": {},
    "padding_free": {"padding_free": True, "max_length": None},  # examples are cut already
}


class Clock(TrainerCallback):
    """The time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())
        self.cpu.append(time.process_time())


def examples(path: str) -> Dataset:
    """All domains' examples with TRL's labels: -100 where a token is not trained."""
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    with np.load(path) as arrays:
        for name in (n for n in arrays.files if n.endswith("/train/starts")):
            part = name.removesuffix("starts")
            ids, trained = arrays[f"{part}ids"], arrays[f"{part}trained"]
            labels = np.where(trained, ids, -100)
            for begin, end in zip(arrays[name][:-1], arrays[name][1:], strict=True):
                rows["input_ids"].append(ids[begin:end].tolist())
                rows["labels"].append(labels[begin:end].tolist())
    return Dataset.from_dict(rows)


def main() -> None:
    path, settings, way = sys.argv[1:]
    s = json.loads(Path(settings).read_text())
    bf16 = s["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=getattr(torch, s["dtype"]))
    clock = Clock()
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        config = SFTConfig(
            out,
            per_device_train_batch_size=s["batch"],
            learning_rate=s["learning_rate"],
            lr_scheduler_type="constant",
            num_train_epochs=1,
            bf16=bf16,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=10,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            disable_tqdm=True,
            **{"max_length": s["length"]} | WAYS[way],
        )
        lora = LoraConfig(
            r=s["rank"], lora_alpha=s["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        )
        trainer = SFTTrainer(
            model,
            config,
            train_dataset=examples(path),
            processing_class=AutoTokenizer.from_pretrained(s["model"]),
            peft_config=lora,
            callbacks=[clock],
        )
        collate, compute = trainer.data_collator, trainer.compute_loss
        real, trained, losses = [], [], []

        def counting(rows):
            real.append(sum(len(row["input_ids"]) for row in rows))
            trained.append(sum(label >= 0 for row in rows for label in row["labels"]))
            return collate(rows)

        def keeping(*args, **kwargs):
            loss = compute(*args, **kwargs)
            losses.append(loss.detach())
            return loss

        trainer.data_collator, trainer.compute_loss = counting, keeping
        trainer.train()
    first, last = 0, len(clock.ends) - 2
    print(
        json.dumps(
            {
                "tokens": sum(real[first + 1 : last + 1]),
                "seconds": clock.ends[last] - clock.ends[first],
                "cpu_seconds": clock.cpu[last] - clock.cpu[first],
                "steps": last - first,
                "loss": float(np.average([float(loss) for loss in losses], weights=trained)),
                "all_tokens": sum(real),
                "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)},
                "warned": sorted({str(w.message) for w in told if "attention" in str(w.message)}),
            }
        )
    )


if __name__ == "__main__":
    main()
