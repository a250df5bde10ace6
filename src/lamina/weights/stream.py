"""Tensors handed to a few threads, chunks of a few megabytes inside a tensor.

A tensor belongs to one thread from its first element to its last, so checksums and quotas run in
order and the result does not depend on the number of threads. Kernels release the GIL. Peak memory:
`threads` times the chunks of all inputs and the output, whatever the size of the model.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

CHUNK = 1 << 21
"""Elements of a chunk: a multiple of the kernels' block."""


class Scratch:
    """Memory that one thread uses again and again: fp32 chunks by key, made when first asked."""

    def __init__(self) -> None:
        self._chunks: dict[str, np.ndarray] = {}

    def get(self, key: str) -> np.ndarray:
        if key not in self._chunks:
            self._chunks[key] = np.empty(CHUNK, np.float32)
        return self._chunks[key]


def default_threads() -> int:
    """The cores this process may use, 8 at most: beyond that the memory is the limit."""
    return max(1, min(8, len(os.sched_getaffinity(0))))


def chunks(num_elements: int) -> Iterator[tuple[int, int]]:
    """(first, n) over a tensor, in order."""
    for first in range(0, num_elements, CHUNK):
        yield first, min(CHUNK, num_elements - first)


def each_tensor(
    names: Sequence[str],
    work: Callable[[str, Scratch, threading.Event], None],
    *,
    threads: int,
) -> None:
    """Call `work` for every tensor on `threads` threads; the first error stops all and is raised.

    `work` looks at the event between chunks and returns early once it is set: so Ctrl-C and errors
    end a run within a chunk.
    """
    stop = threading.Event()
    waiting = iter(names)
    turn = threading.Lock()

    def run() -> None:
        scratch = Scratch()
        while not stop.is_set():
            with turn:
                name = next(waiting, None)
            if name is None:
                return
            work(name, scratch, stop)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run) for _ in range(threads)]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
        finally:
            stop.set()
