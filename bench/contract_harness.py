"""lm-evaluation-harness's side of eval_contract.py: its own tasks over local rows, item by item.

The task files are those that the package ships, read by its `load_yaml`; only where the rows are is
replaced. Its `code_eval`, which it fetches from the hub, is replaced by one that runs the same
texts, program and tests in one, by `Sandbox.run`.
"""

import contextlib
import gzip
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError
from lamina.evaluate.tasks.registry import DEFINITIONS
from lamina.evaluate.tasks.rows import find_file

BOOTSTRAP = 1000
"""Resamples where the harness knows no formula for a standard error."""
FILES = {
    "wikitext2": ("wikitext/wikitext.yaml",),
    "gsm8k": ("gsm8k/gsm8k.yaml",),
    "humaneval": ("humaneval/humaneval.yaml",),
    "mbpp": ("mbpp/mbpp.yaml",),
    "mmlu": ("mmlu/default/mmlu_{group}.yaml",),
    "arc_easy": ("arc/arc_easy.yaml",),
    "arc_challenge": ("arc/arc_challenge.yaml",),
    "hellaswag": ("hellaswag/hellaswag.yaml",),
    "piqa": ("piqa/piqa.yaml",),
    "winogrande": ("winogrande/default.yaml",),
    "openbookqa": ("openbookqa/openbookqa.yaml",),
    "boolq": ("super_glue/boolq/default.yaml",),
    "truthfulqa": ("truthfulqa/truthfulqa_mc1.yaml", "truthfulqa/truthfulqa_mc2.yaml"),
    "lambada": ("lambada/lambada_openai.yaml",),
}
Metrics = dict[str, tuple[float | None, float | None]]
"""By name the value and its standard error."""


@dataclass(frozen=True, slots=True)
class Name:
    """What the harness calls one of our metrics: which task file, metric, filter."""

    form: int
    metric: str
    rule: str = "none"


NAMES = {
    ("gsm8k", "exact_match_strict"): Name(0, "exact_match", "strict-match"),
    ("gsm8k", "exact_match_flexible"): Name(0, "exact_match", "flexible-extract"),
    ("humaneval", "pass@1"): Name(0, "pass@1", "create_test"),
    ("mbpp", "pass@1"): Name(0, "pass_at_1"),
    ("truthfulqa", "mc1"): Name(0, "acc"),
    ("truthfulqa", "mc2"): Name(1, "acc"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """One item as a side asked it, and what came of it."""

    forms: tuple[tuple[tuple[str, str], ...], ...]
    """For each form it is asked in, context and continuation; a text or a prompt is a context."""
    logprobs: tuple[tuple[float, ...], ...]
    """For each form, of each continuation."""
    text: str | None
    """What was written."""
    values: Mapping[str, float]
    """Metrics of the item; of perplexities its log-likelihood."""


def measure(
    model: Any,
    task: str,
    data: Path,
    *,
    metrics: Sequence[str],
    limit: int | None,
    few_shot: int | None,
    chat: bool,
) -> tuple[Metrics, list[Answer]]:
    """What the harness makes of a task: its metrics, and each item in the order of the rows."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    rows = read_rows(task, "test", data)
    groups = list(dict.fromkeys(row.get("subject") if task == "mmlu" else None for row in rows))
    tasks = [
        [local(task, file, group, rows, data, few_shot=few_shot) for file in FILES[task]]
        for group in groups
    ]
    with muted():
        told: Any = simple_evaluate(
            model=model,
            tasks=[one for of_group in tasks for one in of_group],
            task_manager=TaskManager(include_defaults=False),
            num_fewshot=few_shot,
            limit=limit,
            apply_chat_template=chat,
            bootstrap_iters=BOOTSTRAP,
            confirm_run_unsafe_code=True,
            gen_kwargs=_room(model, tasks[0][0]),
        )
    named = {name: NAMES.get((task, name), Name(0, name)) for name in metrics}
    found: Metrics = {}
    for name, place in named.items():
        parts = [told["results"][of_group[place.form].task_name] for of_group in tasks]
        found[name] = _over_groups(parts, f"{place.metric},{place.rule}",
                                   f"{place.metric}_stderr,{place.rule}")  # fmt: skip
    answers = []
    for of_group in tasks:
        samples = [_samples(told["samples"][one.task_name]) for one in of_group]
        for number in sorted(samples[0]):
            answers.append(_answer(named, [form[number] for form in samples]))
    return found, answers


def local(
    task: str,
    file: str,
    group: str | None,
    rows: Sequence[dict],
    data: Path,
    *,
    few_shot: int | None,
) -> Any:
    """A task of the harness over our rows."""
    from datasets import Dataset
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    with code_eval():
        config = load_yaml(Path(tasks.__file__).parent / file.format(group=group))
    tested = config.get("test_split") or config["validation_split"]
    parts = {tested: [row for row in rows if group is None or row["subject"] == group]}
    asked = config.get("num_fewshot") or 0
    shown = asked if few_shot is None or config.get("num_fewshot") == 0 else few_shot
    shots = read_rows(task, "shots", data) if shown and task != "mbpp" else rows[:1]
    kept = [row for row in shots if group is None or row["subject"] == group]
    # Looked at even where no example is shown, and all that a task names must be there.
    parts = dict.fromkeys(("train", "validation", "dev"), kept) | parts
    config["custom_dataset"] = lambda **_: {
        name: Dataset.from_list(some) for name, some in parts.items()
    }
    with muted():
        return ConfigurableTask(config=config)


def read_rows(task: str, part: str, data: Path) -> list[dict[str, Any]]:
    """The rows of the file that lamina reads, too, with the hub's fields."""
    definition = DEFINITIONS[task]
    split = definition.test if part == "test" else definition.shots
    found = None if split is None else find_file(split, data)
    if found is None:
        raise DataError(f"{data} has no rows to take examples of {task} from")
    opened: Any = gzip.open if found[1].suffix == ".gz" else open
    with opened(found[1], "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return [_hub_fields(task, row) for row in rows if row.get("split", part) == part]


def _hub_fields(task: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row as the hub has it, of local files that name their fields otherwise."""
    if task in ("arc_easy", "arc_challenge", "openbookqa") and isinstance(row["choices"], list):
        labels = "ABCDEFGH"[: len(row["choices"])]
        return {
            "id": row["id"],
            "question_stem" if task == "openbookqa" else "question": row["question"],
            "choices": {"text": row["choices"], "label": list(labels)},
            "answerKey": labels[row["answer"]],
        }
    if task == "boolq" and "label" not in row:
        return {
            "passage": row["passage"], "question": row["question"], "label": int(row["answer"])
        }  # fmt: skip
    return row


def _room(model: Any, task: Any) -> dict[str, int] | None:
    """Where a task wants to write more than the model reads, what the model's own settings say.

    The harness stops there (`max_gen_toks` must be less than `max_length`); lamina goes on.
    """
    wanted = (task.config.generation_kwargs or {}).get("max_gen_toks", 0)
    if wanted < model.max_length:
        return None
    own = model.model.generation_config.max_new_tokens
    return None if own is None else {"max_gen_toks": own}


def _samples(samples: Sequence[dict[str, Any]]) -> dict[int, dict[str, dict[str, Any]]]:
    """By row and filter."""
    by_row: dict[int, dict[str, dict[str, Any]]] = {}
    for sample in samples:
        by_row.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    return by_row


def _answer(named: Mapping[str, Name], forms: Sequence[dict[str, dict[str, Any]]]) -> Answer:
    firsts = [next(iter(form.values())) for form in forms]
    written = isinstance(firsts[0]["resps"][0][0], str)
    return Answer(
        forms=tuple(tuple(_pair(given) for given in one["arguments"]) for one in firsts),
        logprobs=tuple(
            () if written else tuple(_logprob(answer[0]) for answer in one["resps"])
            for one in firsts
        ),
        text=firsts[0]["resps"][0][0] if written else None,
        values={
            name: _value(forms[place.form][place.rule][place.metric])
            for name, place in named.items()
        },
    )


def _pair(given: Sequence[Any]) -> tuple[str, str]:
    """Context and continuation; of a text or a prompt there is only the first."""
    return given[0], given[1] if len(given) > 1 and isinstance(given[1], str) else ""


def _logprob(answer: Any) -> float:
    return float(answer[0] if isinstance(answer, tuple | list) else answer)


def _value(value: Any) -> float:
    """A metric of an item; of a page's perplexity the harness keeps (log-likelihood, words)."""
    return float(value[0] if isinstance(value, tuple | list) else value)


def _over_groups(
    parts: Sequence[Mapping[str, Any]], key: str, error_key: str
) -> tuple[float, float | None]:
    """A metric over the harness's tasks: as its group of MMLU has it, where they are several."""
    from lm_eval.api.metrics import aggregate_subtask_metrics, pooled_sample_stderr

    errors = [part[error_key] for part in parts]
    known = all(isinstance(error, int | float) for error in errors)
    if len(parts) == 1:
        return float(parts[0][key]), float(errors[0]) if known else None
    sizes = [part["sample_len"] for part in parts]
    value = aggregate_subtask_metrics([part[key] for part in parts], sizes)
    return float(value), float(pooled_sample_stderr(errors, sizes)) if known else None


class CodeEval:
    """`code_eval` of the package `evaluate`: a text passes if it runs to its end with its tests."""

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        from lamina.evaluate.sandbox import Sandbox
        from lamina.evaluate.statistics import pass_at_k

        rates: dict[str, list[float]] = {f"pass@{n}": [] for n in k}
        with Sandbox() as sandbox:
            for tests, texts in zip(references, predictions, strict=True):
                passed = sum(sandbox.run(f"{text}\n{tests}").passed for text in texts)
                for n in k:
                    rates[f"pass@{n}"].append(pass_at_k(len(texts), passed, n))
        return {name: sum(all_) / len(all_) for name, all_ in rates.items()}, {}


@contextlib.contextmanager
def code_eval() -> Iterator[None]:
    """While task files are read, `evaluate.load` gives the stand-in and asks no hub.

    The harness keeps the code beside its task files, with the metric it once loaded, for the whole
    process: what is kept is read anew here, and afterwards.
    """
    import evaluate

    before, evaluate.load = evaluate.load, lambda name: CodeEval()
    _forget_task_code()
    try:
        yield
    finally:
        evaluate.load = before
        _forget_task_code()


def _forget_task_code() -> None:
    for name in [name for name in sys.modules if name.endswith(("humaneval.utils", "mbpp.utils"))]:
        del sys.modules[name]


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Without logging, bars and advice."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
