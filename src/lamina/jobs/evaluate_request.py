"""What `lamina eval` was asked for, checked before a model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, OutputError, RecipeError, did_you_mean

DTYPES = ("float32", "bfloat16", "float16", "auto")
AUTO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
"""Positions in one batch; on a CPU more are not faster, only larger. Halved where a GPU's memory
does not hold so many."""

_SEEDS = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The arguments of one measurement."""

    models: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    task_files: tuple[Path, ...] = ()
    texts: dict[str, Path]
    harness: tuple[str, ...] = ()
    data: Path | None = None
    limit: int | None = None
    few_shot: int | None = None
    few_shot_file: Path | None = None
    batch: str = "auto"
    chat: bool = False
    cut: bool = False
    allow_code: bool = False
    samples: int = 1
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 1234
    reference: str | None = None
    compare: tuple[Path, ...] | None = None
    out: Path | None = None
    base: str | None = None
    dtype: str | None = None
    """None: float32 on a CPU, bfloat16 on a GPU that has it."""
    max_length: int | None = None
    device: str = "cpu"

    @property
    def batch_tokens(self) -> int:
        """Positions of one batch."""
        if self.batch != "auto":
            return int(self.batch)
        return AUTO_BATCH_TOKENS.get(self.device, AUTO_BATCH_TOKENS["cpu"])

    def on_this_machine(self) -> Request:
        """With the device there is, and the precision it is fast in where none was asked for."""
        import torch

        cuda = torch.cuda.is_available()
        half = cuda and torch.cuda.is_bf16_supported()
        dtype = self.dtype or ("bfloat16" if half else "float32")
        return replace(self, dtype=dtype, device="cuda" if cuda else "cpu")

    @property
    def sampled(self) -> bool:
        """Whether answers are drawn and not the likeliest ones."""
        return self.temperature is not None or self.top_p is not None

    def as_settings(self) -> dict[str, Any]:
        """What a result keeps of it."""
        return {
            "limit": self.limit,
            "few_shot": self.few_shot,
            "batch_tokens": self.batch_tokens,
            "chat": self.chat,
            "cut": self.cut,
            "samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "dtype": self.dtype,
            "device": self.device,
            "max_length": self.max_length,
        }


def check_request(asked: Request) -> None:
    """Raises for every argument that cannot be followed, all in one message.

    Raises:
        RecipeError: an argument that cannot be.
        OutputError: a result that could not be written.
        DataError: a folder of rows that is not there.
    """
    problems = [*_names(asked), *_numbers(asked), *_contradictions(asked)]
    if len(problems) == 1:
        raise RecipeError(problems[0])
    if problems:
        raise RecipeError(
            "\n  ".join([f"{len(problems)} arguments cannot be followed:", *problems])
        )
    if asked.data is not None and not asked.data.is_dir():
        raise DataError(
            f"--data {asked.data} is no folder. Name the folder with the rows of the tasks, or "
            "leave "
            "--data out to load them from the hub."
        )
    if asked.out is not None:
        _check_out(asked.out)


def _names(asked: Request) -> list[str]:
    """What could not be written into the result, which is UTF-8."""
    names = [*asked.models, *asked.texts, *asked.texts.values(), *asked.task_files, asked.out]
    odd = [repr(str(name)) for name in names if name is not None and _half(str(name))]
    if not odd:
        return []
    return [f"{', '.join(odd)} has bytes that are not UTF-8 in its name. Rename it, or link to it."]


def _half(name: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def _numbers(asked: Request) -> list[str]:
    problems = []
    if asked.dtype is not None and asked.dtype not in DTYPES:
        problems.append(f"--dtype {asked.dtype} is unknown; {did_you_mean(asked.dtype, DTYPES)}")
    if asked.batch != "auto" and not (
        asked.batch.isascii() and asked.batch.isdigit() and int(asked.batch)
    ):
        problems.append(
            f"--batch {asked.batch}: write auto, or the tokens of one batch, such as 4096."
        )
    for name, value, least in (
        ("--limit", asked.limit, 1),
        ("--few-shot", asked.few_shot, 0),
        ("--samples", asked.samples, 1),
        ("--max-length", asked.max_length, 1),
        ("--seed", asked.seed, 0),
    ):
        if value is not None and value < least:
            problems.append(f"{name} is {value}; it must be at least {least}.")
    if asked.seed >= _SEEDS:
        problems.append(f"--seed is {asked.seed}; it must be below 2**63.")
    if asked.temperature is not None and not 0.01 <= asked.temperature < 100:
        problems.append(
            f"--temperature is {asked.temperature:g}; it must be at least 0.01 and below 100. "
            "Leave it out for greedy answers."
        )
    if asked.top_p is not None and not 0 < asked.top_p <= 1:
        problems.append(f"--top-p is {asked.top_p:g}; it must be above 0 and at most 1.")
    return problems


def _contradictions(asked: Request) -> list[str]:
    problems = []
    measured = asked.tasks or asked.task_files or asked.texts or asked.harness
    if not measured and not asked.compare:
        problems.append(
            "Nothing to measure. Name tasks (--tasks mmlu,gsm8k), your own rows (--task-file "
            "FILE) or "
            "held-out text (--text FILE)."
        )
    if measured and not asked.models:
        problems.append("No model is named. Write lamina eval MODEL... --tasks TASK,...")
    if asked.models and not measured and asked.compare:
        problems.append(
            "Models and results to compare, but nothing to measure. Name --tasks, or leave the "
            "models "
            "out: lamina eval --compare FIRST.json SECOND.json."
        )
    if not asked.models and asked.compare and len(asked.compare) < 2:
        problems.append(
            f"--compare {asked.compare[0]} alone has nothing to be compared with. Name another "
            "result, or models and tasks to measure."
        )
    if asked.samples > 1 and not asked.sampled:
        problems.append(
            f"--samples {asked.samples} greedy answers would all be the same. Add "
            "--temperature 0.8."
        )
    if asked.few_shot_file is not None and not asked.task_files:
        problems.append("--few-shot-file gives examples to --task-file, which is missing.")
    if asked.harness and (asked.task_files or asked.tasks or asked.texts):
        problems.append(
            "--harness hands the tasks to lm-evaluation-harness and stands alone: measure lamina's "
            "tasks (--tasks, --task-file, --text) by another command."
        )
    if asked.compare and measured and asked.out is None:
        problems.append("--compare with an earlier result needs --out for this one.")
    if asked.out is not None and any(_same(asked.out, path) for path in asked.compare or ()):
        problems.append(
            f"--out {asked.out} is one of the results to compare and would be overwritten. Choose "
            "another name."
        )
    if asked.compare is not None and not asked.compare and len(asked.models) < 2:
        problems.append(
            "--compare needs two models or an earlier result. Name another model "
            f"({len(asked.models)} named), or write --compare EARLIER.json."
        )
    return problems


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _check_out(out: Path) -> None:
    """Raises where a result cannot stand, or would take the place of something else."""
    if out.is_dir():
        raise OutputError(
            f"{out} is a folder; give the name of a file, such as {out / 'eval.json'}."
        )
    if not out.parent.is_dir():
        raise OutputError(
            f"There is no folder {out.parent} to write {out.name} into. Make it first."
        )
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"There is no right to write into {out.parent}. Give --out another folder."
        )
    if out.suffix != ".json":
        raise OutputError(
            f"--out {out}: the result is JSON; its name must end in .json, as in "
            f"{out.with_suffix('.json')}."
        )
    if not out.exists():
        _check_beside(out)
    else:
        from lamina.core.manifest import read_json

        try:
            found = read_json(out)
        except DataError:
            found = None
        schema = str(found.get("schema", "")) if isinstance(found, dict) else ""
        if not schema.startswith(("lamina.evaluation/", "lamina.metrics/")):
            raise OutputError(
                f"{out} is there and is not a result of lamina eval. Choose another name; "
                "nothing was "
                "written."
            )


def _check_beside(out: Path) -> None:
    """Raises where a page or answers stand without a result: they are of something else."""
    beside = [out.with_suffix(".html")]
    if not out.with_name(f"{out.name}.partial").is_dir():  # else answers of a run that was killed
        beside.append(out.with_name(f"{out.stem}.samples.jsonl.gz"))
    found = [str(path) for path in beside if path.exists()]
    if found:
        raise OutputError(
            f"{' and '.join(found)} would be replaced, and is of no result {out.name}. Give --out "
            "another name."
        )
