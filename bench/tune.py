"""What tuning costs: lamina's trainer beside TRL's, and weights that move beside weights that stay.

    python bench/tune.py [--trl VENV/bin/python] [--model FOLDER] [--repeat 3]

One run of this program encodes rows of the six domains once; both sides train a LoRA adapter on
the very same examples: model, rank, targets, length, batch, rate, dtype and one pass are the same,
and gradient checkpointing is off on both (TRL's default is on, which is slower). Each run is a
process of its own, in an order that turns round every time. What is counted is the tokens of the
examples, padding never, between the end of the first step and the end of the last but one. Figures
are tokens per CPU second and per second of wall time, medians over the runs; memory is the largest
resident set of the process (wait4). Ratios are of CPU seconds: other work on the machine moves
them little. TRL runs as `VENV/bin/python`, which needs the packages of `pip install trl peft`;
without it only lamina is measured.

Then windows with a look at the held-out losses after each: weights that move (foster, from given
reference losses) beside constant ones, and what the looks cost. `--detect` also runs
bench/detect.py. Ends with 1 when a target is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from merge import Target

HERE = Path(__file__).parent
DEMO = HERE.parent / "src" / "lamina" / "demo" / "models" / "instruct"
OURS = ("packed", "unpacked")
THEIRS = ("bfd", "wrapped", "padded", "padding_free")
MOVING = ("constant", "foster")
TITLES = {
    "packed": "lamina, packed",
    "unpacked": "lamina, not packed",
    "bfd": "TRL, packing (bfd)",
    "wrapped": "TRL, packing (wrapped), which cuts and leaks",
    "padded": "TRL, not packed",
    "padding_free": "TRL, not packed, padding_free",
    "constant": "lamina, windows, constant weights",
    "foster": "lamina, windows, foster",
}


@dataclass(frozen=True)
class Run:
    """What one process told and took."""

    told: dict[str, Any]
    peak_mb: float

    @property
    def per_cpu_second(self) -> float:
        return self.told["tokens"] / self.told["cpu_seconds"]

    @property
    def per_second(self) -> float:
        return self.told["tokens"] / self.told["seconds"]


@dataclass(frozen=True)
class Figures:
    """Medians over the runs of one contender."""

    name: str
    per_cpu_second: float
    per_second: float
    peak_mb: float
    """The largest of all runs."""
    loss: float
    """Mean training loss, nats a token: about the same work was done."""
    steps: int


def started(command: list[str], environment: dict[str, str]) -> Run:
    """Runs a part to its end; its last line is JSON."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        child = subprocess.Popen(command, stdout=out, stderr=error, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        error.seek(0)
        if child.returncode:
            sys.exit(f"{' '.join(command)}\n{error.read().decode(errors='replace')[-3000:]}")
        last = out.read().decode().strip().splitlines()[-1]
    return Run(json.loads(last), usage.ru_maxrss / 1024)


def measure(
    given: argparse.Namespace, rows: dict[str, Path], settings: Path, tell: Callable[[str], None]
) -> dict[str, list[Run]]:
    """All runs of all contenders, in turns."""
    ours, theirs = str(HERE / "tune_ours.py"), str(HERE / "tune_trl.py")
    commands = {
        way: [sys.executable, ours, str(rows["once"]), str(settings), way] for way in OURS
    } | {way: [sys.executable, ours, str(rows["all"]), str(settings), way] for way in MOVING}
    if given.trl:
        commands |= {
            way: [given.trl, theirs, str(rows["once"]), str(settings), way] for way in THEIRS
        }
    if given.only:
        commands = {way: commands[way] for way in given.only}
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(given.threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits counts no CPU seconds
        "TOKENIZERS_PARALLELISM": "false",
    }
    runs: dict[str, list[Run]] = {way: [] for way in commands}
    for turn in range(given.repeat):
        for way in commands if turn % 2 == 0 else reversed(commands):
            began = time.perf_counter()
            run = started(commands[way], environment)
            runs[way].append(run)
            tell(
                f"{TITLES[way]:<46} {run.per_cpu_second:7.0f} tokens/CPU s"
                f" {run.per_second:7.0f} tokens/s {run.peak_mb:6.0f} MB"
                f" {time.perf_counter() - began:5.0f} s   load {os.getloadavg()[0]:.1f}"
            )
    return runs


def figures(runs: dict[str, list[Run]]) -> dict[str, Figures]:
    """The medians."""
    return {
        way: Figures(
            TITLES[way],
            statistics.median(run.per_cpu_second for run in of_way),
            statistics.median(run.per_second for run in of_way),
            max(run.peak_mb for run in of_way),
            statistics.median(run.told["loss"] for run in of_way),
            of_way[0].told["steps"],
        )
        for way, of_way in runs.items()
    }


def targets(runs: dict[str, list[Run]], found: dict[str, Figures]) -> list[Target]:
    """What was promised; ratios of tokens per CPU second."""

    def ratio(one: str, other: str) -> float:
        return found[one].per_cpu_second / found[other].per_cpu_second

    lines = []
    pairs = [
        ("packed", "bfd", 1.1),
        ("packed", "wrapped", 1.1),
        ("packed", "padded", 1.5),
        ("unpacked", "padded", 1.5),
        ("unpacked", "padding_free", 1.0),
    ]
    for one, other, limit in pairs:
        if one in found and other in found:
            text = f"{TITLES[one]} / {TITLES[other]}"
            lines.append(Target(text, ratio(one, other), limit, True))
            memory = found[one].peak_mb / found[other].peak_mb
            lines.append(Target(f"  peak memory of these, {one} / {other}", memory, 1.0))
    if set(MOVING) <= set(found):
        cost = ratio("constant", "foster") - 1
        lines.append(Target("moving weights, more CPU s a token than constant, %", 100 * cost, 5))
        share = statistics.median(
            run.told["deciding_seconds"] / run.told["seconds"] for run in runs["foster"]
        )
        lines.append(Target("  of this deciding, % of the time", 100 * share, 5))
    return lines


def table(found: dict[str, Figures]) -> str:
    """All figures, as in docs/performance.md."""
    lines = [
        "",
        "| | tokens/CPU s | tokens/s | peak MB | steps | loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {f.name} | {f.per_cpu_second:.0f} | {f.per_second:.0f} | {f.peak_mb:.0f} | {f.steps} |"
        f" {f.loss:.3f} |"
        for f in found.values()
    ]
    return "\n".join(lines) + "\n"


def looks(runs: dict[str, list[Run]]) -> str:
    """What the held-out losses cost."""
    of_all = [run.told for way in MOVING for run in runs.get(way, [])]
    if not of_all:
        return ""
    share = statistics.median(told["held_out_seconds"] / told["seconds"] for told in of_all)
    told = of_all[0]
    return (
        f"held-out losses: {share:.0%} of the time, {told['held_out_tokens']} tokens looked at for"
        f" {told['tokens']} trained on\n"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trl", help="the python of an environment with TRL")
    parser.add_argument("--model", default=str(DEMO), help="an ordinary model folder")
    parser.add_argument("--tokens", type=int, default=32000, help="of the examples of one pass")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--window-steps", type=int, default=6)
    parser.add_argument("--heldout", type=int, default=24, help="examples of a domain")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TITLES, help="these contenders alone")
    parser.add_argument("--detect", action="store_true", help="run bench/detect.py as well")
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as folder:
        rows = {name: Path(folder) / f"{name}.npz" for name in ("once", "all")}
        for name, more in (("once", ["--tokens", str(given.tokens)]), ("all", [])):
            encode = [str(HERE / "tune_rows.py"), given.model, str(rows[name]), *more]
            subprocess.run([sys.executable, *encode, "--length", str(given.length)], check=True)
        settings = Path(folder) / "settings.json"
        settings.write_text(json.dumps(settings_of(given)))
        runs = measure(given, rows, settings, print)
    found = figures(runs)
    lines = targets(runs, found)
    print(table(found))
    print(looks(runs))
    print("\n".join(line.line() for line in lines))
    for told in (of_way[0].told for of_way in runs.values()):
        for warning in told.get("warned", []):
            print(f"TRL warned: {warning}")
    versions = {k: v for of_way in runs.values() for k, v in of_way[0].told["versions"].items()}
    print(f"versions {versions}, {given.threads} threads, {os.cpu_count()} cores")
    if given.json:
        figured = {way: asdict(f) for way, f in found.items()}
        wanted = [vars(line) | {"met": line.met} for line in lines]
        told = {"figures": figured, "targets": wanted, "settings": settings_of(given)}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    if given.detect:
        command = [sys.executable, str(HERE / "detect.py"), given.model]
        code = subprocess.run(command, check=False).returncode
    sys.exit(max(code, int(not all(line.met for line in lines))))


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """What both sides are told."""
    return {
        "model": given.model,
        "length": given.length,
        "batch": given.batch,
        "rank": given.rank,
        "alpha": 2 * given.rank,
        "learning_rate": 2e-4,
        "dtype": given.dtype,
        "windows": given.windows,
        "window_steps": given.window_steps,
        "heldout": given.heldout,
    }


if __name__ == "__main__":
    main()
