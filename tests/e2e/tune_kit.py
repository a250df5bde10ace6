"""A pico Llama of 0.16 M parameters with the demo's tokenizer, three small domains, a recipe.

Everything is made on the spot from seeds; a run of two windows takes about a second.
"""

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import lamina
from lamina.jobs.tune import run_tune

MODELS = Path(lamina.__file__).parent / "demo" / "models"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
WORDS = {
    "law": "court judge appeal statute plaintiff ruling clause contract".split(),
    "code": "return import class define lambda yield assert raise".split(),
    "maths": "sum prime root angle matrix proof limit integer".split(),
}
NAMES = tuple(WORDS)


def write_pico(folder: Path, **changes: Any) -> Path:
    """A model folder with weights of seed 0 and the demo's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    values: dict[str, Any] = {
        "vocab_size": 4096,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    LlamaForCausalLM(LlamaConfig(**(values | changes))).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copyfile(MODELS / "instruct" / name, folder / name)
    return folder


def rows_of(domain: str, count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Questions and answers of one domain's words; no two are alike."""
    chance = random.Random(f"{domain} {seed}")
    return [
        {
            "prompt": f"Say {number} words of {domain}, please: {chance.randrange(10**6)}",
            "completion": " ".join(chance.choices(WORDS[domain], k=chance.randrange(5, 12))),
        }
        for number in range(count)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_home(home: Path) -> Path:
    """`model/` and `rows/DOMAIN.jsonl` under a folder."""
    home.mkdir(parents=True, exist_ok=True)
    write_pico(home / "model")
    for name, count in zip(NAMES, (60, 90, 40), strict=True):
        write_rows(home / "rows" / f"{name}.jsonl", rows_of(name, count))
    return home


RECIPE: dict[str, Any] = {
    "model": "model",
    "domains": {name: f"rows/{name}.jsonl" for name in NAMES},
    "data": {"max_length": 96},
    "train": {
        "method": "full",
        "windows": 3,
        "window_steps": 3,
        "batch_size": 2,
        "learning_rate": 5e-3,
        "report_to": [],
    },
    "mixture": {"policy": "constant", "start": "uniform"},
    "general": None,
}


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Maps inside maps are merged, but `mixture` and `domains` are replaced."""
    result = dict(values)
    for key, value in changes.items():
        inner = result.get(key)
        deep = key in ("train", "data") and isinstance(inner, dict) and isinstance(value, dict)
        result[key] = merged(inner, value) if deep else value  # type: ignore[arg-type]
    return result


def write_recipe(home: Path, name: str = "recipe.yaml", **changes: Any) -> Path:
    path = home / name
    path.write_text(yaml.safe_dump(merged(RECIPE, changes), sort_keys=False))
    return path


def tune(home: Path, out: str = "out", *, options: Mapping[str, Any] | None = None, **changes: Any):
    """`run_tune` of the recipe with some keys changed; the run's folder and the manifest."""
    path = write_recipe(home, f"{out}.yaml", **changes)
    return home / out, run_tune(path, home / out, **(options or {}))


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "domains.jsonl").read_text().splitlines()]


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def files_of(folder: Path, *but: str) -> dict[str, bytes]:
    """Every file that a run would write again the same, with its bytes."""
    skipped = ("checkpoints", "logs", "reference", "log.jsonl", "manifest.json", "report.html")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in (*skipped, *but)
    }
