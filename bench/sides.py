"""Two sides measured in one run, each in a process of its own: what they took, told alike.

`eval.py` (scoring) and `eval_writing.py` (writing) start themselves again with `--side`.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from merge import Target

MB = 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """What one side took, and what it found."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    loaded_bytes: int
    """Peak before the first string was read."""
    found: list[Any]
    """Of each string, in order: scores, or the text that was written."""
    told: str = ""
    """About what was found; ours only."""


def peak() -> int:
    """The largest resident memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process(
    program: str, side: str, model: str, rows: Path, *, batch: str, threads: int
) -> Cost:
    """One side of `program` on the rows of a file; ends all where it fails."""
    out = rows.with_name("cost.json")
    settings = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    command = [sys.executable, program, model, "--side", side, str(rows), str(out), batch]
    done = subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: {side} at batch {batch} failed\n{done.stderr[-3000:]}")
    return Cost(**json.loads(out.read_text()))


def fastest(theirs: Mapping[str, Cost]) -> tuple[str, Cost]:
    """The batch size with the least CPU seconds, and what it took."""
    return min(theirs.items(), key=lambda pair: pair[1].cpu_seconds)


def cost_lines(ours: Cost, theirs: Mapping[str, Cost]) -> list[str]:
    """A line for lamina and for each batch size of the harness."""
    told = []
    for who, cost in (("lamina", ours), *theirs.items()):
        title = who if who == "lamina" else f"harness, batch {who}"
        above = (cost.peak_bytes - cost.loaded_bytes) / MB
        told.append(
            f"  {title:<20}{cost.cpu_seconds:8.2f} s CPU {cost.seconds:8.2f} s wall, peak "
            f"{cost.peak_bytes / MB:6.0f} MB ({above:+.0f})"
        )
    return told


def judged(targets: Sequence[Target], file: Path | None) -> NoReturn:
    """Ends the program: 1 where a target is missed. All figures go into `file`, too."""
    if file:
        told = [vars(target) | {"met": target.met} for target in targets]
        file.write_text(json.dumps({"targets": told}, indent=2) + "\n")
    sys.exit(int(not all(target.met for target in targets)))
