"""What the sandbox costs per program, above a bare interpreter, and by layer.

    python bench/sandbox.py [ROUNDS]

Every round runs each row once, one after another, so that all rows see the same machine; the table
has the medians, and the medians of the differences to the bare interpreter of the same round.
Target: the whole sandbox costs under 10 ms. The last lines: 32 programs from 1, 2 and 4 threads.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from lamina.evaluate.sandbox import Sandbox

ROUNDS, TARGET_MS, PROGRAMS = 60, 10.0, 32
LAYERS = ("namespaces", "landlock", "seccomp")


def bare() -> None:
    """The interpreter that the sandbox runs, without it."""
    interpreter = sys._base_executable
    words = [interpreter, "-I", "-S", "-B", "-c", "pass"]
    subprocess.run(words, env={}, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def program(sandbox: Sandbox) -> Callable[[], None]:
    """One program in this sandbox, below the minimum, too: it is harmless."""

    def run() -> None:
        verdict = sandbox._start("answer = 6 * 7", None, b"", "").verdict()
        assert verdict.passed, verdict

    return run


def once(action: Callable[[], None]) -> float:
    began = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with ExitStack() as stack:

        def sandbox(*kept: str) -> Sandbox:
            without = [name for name in (*LAYERS, "bubblewrap") if name not in kept]
            return stack.enter_context(Sandbox(without=without))

        whole = sandbox(*LAYERS)
        rows = {
            "bare interpreter": bare,
            "limits only": program(sandbox()),
            "limits, seccomp": program(sandbox("seccomp")),
            "limits, Landlock": program(sandbox("landlock")),
            "limits, namespaces": program(sandbox("namespaces")),
            "whole sandbox": program(whole),
        }
        print(whole.protection.line)
        for action in rows.values():
            once(action)
        times = [{name: once(action) for name, action in rows.items()} for _ in range(rounds)]
        print("\n| run | median (ms) | above the bare interpreter (ms) |\n|---|---:|---:|")
        for name in rows:
            middle = statistics.median(row[name] for row in times)
            above = statistics.median(row[name] - row["bare interpreter"] for row in times)
            print(f"| {name} | {middle:.1f} | {above:.1f} |")
        met = "met" if above < TARGET_MS else "MISSED"
        print(f"\ntarget: under {TARGET_MS:.0f} ms above the bare interpreter: {met}")
        for threads in (1, 2, 4):
            with ThreadPoolExecutor(threads) as pool:
                began = time.perf_counter()
                list(pool.map(lambda _: rows["whole sandbox"](), range(PROGRAMS)))
            each = 1000 * (time.perf_counter() - began) / PROGRAMS
            print(f"{PROGRAMS} programs from {threads} threads: {each:.1f} ms each")


if __name__ == "__main__":
    main()
