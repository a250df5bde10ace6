"""Makes results of `lamina eval` with made-up answers, as the job would write them."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.core.manifest import write_json_atomic
from lamina.evaluate.nouns import Metric, Task, Values
from lamina.evaluate.results import (
    SCHEMA,
    compare_models,
    forgetting_of,
    summarise,
    task_entry,
)

ACC = Metric("acc", higher_is_better=True)
NORM = Metric("acc_norm", higher_is_better=True)
STRICT = Metric("exact_match_strict", higher_is_better=True)
PASS = Metric("pass@1", higher_is_better=True)
TEN = Metric("pass@10", higher_is_better=True)
ODD = Metric("passed_suspicious", higher_is_better=False)
WORD = Metric("word_perplexity", higher_is_better=False, scale="exp")
BITS = Metric("bits_per_byte", higher_is_better=False, scale="bits")

TASKS = {
    "mmlu": (Task("mmlu", 1, "choices", (ACC,), lambda item, raw: {}, 0.25), 600),
    "hellaswag": (Task("hellaswag", 1, "choices", (ACC, NORM), lambda item, raw: {}, 0.25), 200),
    "gsm8k": (Task("gsm8k", 1, "write", (STRICT,), lambda item, raw: {}), 150),
    "humaneval": (Task("humaneval", 1, "code", (PASS, TEN, ODD), lambda item, raw: {}), 164),
    "wikitext2": (Task("wikitext2", 1, "text", (WORD, BITS), lambda item, raw: {}), 62),
}
SUBJECTS = ("abstract_algebra", "anatomy", "astronomy", "business_ethics", "virology")
MODELS = ("base-135m", "math-135m", "merged")
SKILL = {
    "mmlu": (0.26, 0.27, 0.28),
    "hellaswag": (0.42, 0.40, 0.41),
    "gsm8k": (0.03, 0.19, 0.12),
    "humaneval": (0.10, 0.02, 0.08),
    "wikitext2": (0.0, 0.12, 0.01),
}


def values_of(models: tuple[str, ...] = MODELS) -> dict[str, dict[str, dict[str, Values]]]:
    """Answers of a model to an item: right if its skill beats the item's difficulty."""
    chosen = random.Random(4)
    values: dict[str, dict[str, dict[str, Values]]] = {name: {} for name in models}
    for name, (task, items) in TASKS.items():
        for place in range(items):
            hard, words = chosen.random(), chosen.randint(50, 2000)
            for model, skill in zip(models, SKILL[name], strict=False):
                noise = chosen.gauss(0, 0.03)
                loss = words * (3.2 + 0.2 * hard + skill + noise)
                one: dict[str, tuple[float, float]] = {
                    metric.name: (float(hard < skill + noise), 1.0) for metric in task.metrics
                }
                if task.kind == "code":
                    one |= {"pass@10": (0.0, 0.0), "passed_suspicious": (float(place == 0), 1.0)}
                if task.kind == "text":
                    one = {"word_perplexity": (loss, words), "bits_per_byte": (loss, 6.0 * words)}
                values[model].setdefault(name, {})[str(place)] = one
    return values


def texts_of(models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """Losses as `lamina.metrics/1` holds them."""
    cells = {
        model: {
            domain: {"loss": 2.0 + 0.1 * place + 0.3 * row, "loss_se": 0.02, "tokens": 4000}
            for row, domain in enumerate(("general", "poems"))
        }
        for place, model in enumerate(models)
    }
    gaps = {
        model: {
            "general": {"difference": 0.1 * place, "se": 0.01, "shown": True},
            "poems": {"difference": 0.005, "se": 0.01, "shown": False},
        }
        for place, model in enumerate(models)
        if place
    }
    return {
        "schema": "lamina.metrics/1",
        "domains": ["general", "poems"],
        "order": list(models),
        "models": cells,
        "paired": {"reference": models[0], "differences": gaps},
    }


def result_of(models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """A whole result."""
    values = values_of(models)
    groups = {str(place): SUBJECTS[place % len(SUBJECTS)] for place in range(600)}
    numbers: dict[str, dict[str, Any]] = {
        model: {
            name: summarise(TASKS[name][0].metrics, of, groups if name == "mmlu" else None)
            for name, of in by_task.items()
        }
        for model, by_task in values.items()
    }
    numbers[models[0]]["gsm8k"]["cut"] = 3
    texts = texts_of(models)
    return {
        "schema": SCHEMA,
        "lamina": "0.1.0",
        "models": {name: {"path": f"models/{name}", "fingerprint": "c0ffee"} for name in models},
        "order": list(models),
        "tasks": {
            name: task_entry(
                task,
                items=items,
                fingerprint="f00d",
                few_shot=5 if name == "gsm8k" else 0,
                limit=None,
                source=f"bench/{name}.jsonl.gz",
                chat=False,
                groups=SUBJECTS if name == "mmlu" else (),
            )
            for name, (task, items) in TASKS.items()
        },
        "results": numbers,
        "skipped": {"mbpp": "the sandbox has no seccomp here, and --allow-code was not given"},
        "comparisons": compare_models(
            {name: task.metrics for name, (task, _) in TASKS.items()}, values
        ),
        "texts": texts,
        "forgetting": forgetting_of(texts),
        "settings": {
            "dtype": "float32",
            "cut": True,
            "limit": None,
            "max_lengths": dict.fromkeys(models, 2048),
        },
        "sandbox": "namespaces, Landlock, seccomp and rlimits are in force",
        "samples": "eval.samples.jsonl.gz",
        "warnings": ["base-135m on gsm8k: 3 of 150 items lose 12 tokens from their beginning"],
    }


def make_result(path: Path, whole: Mapping[str, Any] | None = None) -> Path:
    """Writes a result to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, dict(whole or result_of()), sort_keys=False)
    return path
