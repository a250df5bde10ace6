"""What holds around a training: signals, trackers' folders, and a GPU that is too small."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lamina.core.errors import RecipeError
from lamina.engine import parallel
from lamina.engine.load import first_line
from lamina.engine.recipe import TrainSection

TWICE_SECONDS = 3.0
"""Of several processes: signals closer than this are one signal."""


def signal_of(interrupted: list[int]) -> int:
    """The signal that came to any process, the same in every process; 0 where none came."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if parallel.any_of(number in interrupted):
            return int(number)
    return 0


@contextmanager
def enough_memory(train: TrainSection) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        ways = ["a smaller train.batch_size with a larger train.accumulate", "data.max_length"]
        ways += [] if train.gradient_checkpointing else ["train.gradient_checkpointing: true"]
        ways += [] if train.dtype == "bfloat16" else ["train.dtype: bfloat16"]
        ways += [] if train.method == "lora" else ["train.method: lora"]
        raise RecipeError(
            f"the GPU's memory is too small: {first_line(error)} What needs less: "
            f"{', '.join(ways)}."
        ) from error


@contextmanager
def signals(interrupted: list[int], tell: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run after the step in work; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    began: list[float] = []

    def first(number: int, frame: Any) -> None:
        if interrupted:
            # A terminal's Ctrl-C reaches every process, and `torchrun` passes it on to them again.
            if parallel.world() == 1 or time.monotonic() - began[0] > TWICE_SECONDS:
                raise KeyboardInterrupt(int(number))
            return
        began.append(time.monotonic())
        interrupted.append(int(number))
        if parallel.is_main():
            tell("stopping after this step, with a checkpoint (once more: at once, without)")

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """TensorBoard's files go beside the checkpoints, unless the user chose another folder."""
    key = "TENSORBOARD_LOGGING_DIR"
    if key in os.environ:
        yield
        return
    os.environ[key] = str(folder)
    try:
        yield
    finally:
        del os.environ[key]
