"""Threads that share the tensors of a model."""

import threading
from collections import Counter

import pytest

from lamina.weights.stream import CHUNK, Scratch, chunks, default_threads, each_tensor


@pytest.mark.parametrize("n", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_chunks_cover_a_tensor_once(n: int) -> None:
    found = list(chunks(n))
    assert sum(size for _, size in found) == n
    at = 0
    for first, size in found:
        assert first == at
        assert 0 < size <= CHUNK
        at += size
    assert CHUNK % 2048 == 0


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_tensor_is_worked_on_once(threads: int) -> None:
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def work(name: str, scratch: Scratch, stop: threading.Event) -> None:
        assert scratch.get("a") is scratch.get("a")
        assert scratch.get("a") is not scratch.get("b")
        with lock:
            seen[name] += 1

    names = [f"t{i}" for i in range(40)]
    each_tensor(names, work, threads=threads)
    assert seen == Counter(names)


def test_one_error_stops_all_and_is_raised() -> None:
    stopped = []

    def work(name: str, scratch: Scratch, stop: threading.Event) -> None:
        if name == "bad":
            raise OSError(28, "No space left on device")
        if stop.wait(20):
            stopped.append(name)

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="No space left"):
        each_tensor(["a", "bad", "b", "c"], work, threads=2)
    assert len(stopped) <= 2
    assert set(threading.enumerate()) <= before


def test_threads_by_default() -> None:
    assert 1 <= default_threads() <= 8
