"""How far a long run is: a bar on a terminal, a plain line now and then elsewhere."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lamina.jobs.watch import Watcher

PLAIN_EVERY_SECONDS = 5.0
MIN_SECONDS = 1.0


class PlainWatcher(Watcher):
    """Lines on standard error, at most one every few seconds and none for what is quick."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name, self._total, self._done = "", 0, 0
        self._last = time.monotonic()

    def stage(self, name: str, total_bytes: int) -> None:
        with self._lock:
            self._name, self._total, self._done = name, total_bytes, 0
            self._last = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            now = time.monotonic()
            if self._total and now - self._last >= PLAIN_EVERY_SECONDS:
                self._last = now
                self.tell(f"{self._name}: {100 * self._done / self._total:.0f} %")

    def tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class BarWatcher(Watcher):
    """A rich progress bar."""

    def __init__(self, progress) -> None:  # type: ignore[no-untyped-def]
        self._progress = progress
        self._task = None

    def stage(self, name: str, total_bytes: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total_bytes or None)

    def advance(self, num_bytes: int) -> None:
        self._progress.advance(self._task, num_bytes)

    def tell(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)


@contextmanager
def progress_watcher() -> Iterator[Watcher]:
    """A watcher for this terminal, or for none; of several processes only the first talks."""
    if os.environ.get("RANK", "0") != "0":
        yield Watcher()
        return
    if not sys.stderr.isatty():
        yield PlainWatcher()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield BarWatcher(progress)
