"""`lamina rank` on the pico model of `tune_kit`, by the command line in this process.

A run takes about a second: 12 optimiser steps, three batches of two rows for each of two seeds.
"""

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.cli import main
from lamina.jobs.watch import Watcher

SMALL: dict[str, Any] = {
    "data.max_length": 96,
    "train.windows": 4,
    "train.window_steps": 3,
    "train.batch_size": 2,
    "train.learning_rate": 0.01,
    "train.rank": 4,
    "train.report_to": "[]",
    "stable.change": 1e-9,
    "gates.batches": 3,
    "gates.rows": 2,
    "gates.steps": 4,
    "gates.samples": 2,
}
DATA = ("--data", "rows/law.jsonl", "--data", "rows/code.jsonl")
_MLP = ("gate", "up", "down")
MODULES = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in _MLP]
"""Of one block of the pico model."""


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str


def cli(*arguments: object) -> Told:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Told(code, out.getvalue(), err.getvalue())


def settings(**changes: Any) -> list[str]:
    """`-s key=value` of a small run; `gates__points=2` is the key `gates.points`."""
    table = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in table.items() for word in ("-s", f"{key}={value}")]


def rank(model: object, out: object, *flags: object, **changes: Any) -> Told:
    return cli("rank", model, "--out", out, *settings(**changes), *flags)


def ranked(model: object, out: Path, *flags: object, **changes: Any) -> dict[str, Any]:
    """A ranking that has to be made; its scores."""
    told = rank(model, out, *flags, **changes)
    assert told.code == 0, told.err
    return kit.json_of(out / "scores.json")


@contextlib.contextmanager
def home_in(folder: Path) -> Iterator[Path]:
    """A home of models and rows, as the working folder."""
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE", str(folder / "cache"))
        os.chdir(kit.write_home(folder))
        try:
            yield folder
        finally:
            os.chdir(before)


class Stopper(Watcher):
    """Sends this process a signal at a step of a stage whose name begins with some word."""

    def __init__(self, word: str, step: int, number: int = signal.SIGTERM) -> None:
        self.word, self.step, self.number = word, step, number
        self.done, self.stages, self.told = 0, [], []  # type: ignore[var-annotated]

    def stage(self, name: str, total_bytes: int) -> None:
        self.stages.append((name, total_bytes))
        self.done = 0

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.stages[-1][0].startswith(self.word) and self.done == self.step:
            os.kill(os.getpid(), self.number)

    def tell(self, line: str) -> None:
        self.told.append(line)


@contextlib.contextmanager
def watched_by(watch: Watcher) -> Iterator[None]:
    from lamina.cli import progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "progress_watcher", lambda: contextlib.nullcontext(watch))
        yield
