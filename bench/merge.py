"""What a merge costs: lamina beside copying the same bytes, and beside mergekit.

    python bench/merge.py [WEIGHTS] [--repeat 5] [--mergekit VENV/bin/mergekit-yaml] [--twice DIR]

WEIGHTS is what make_weights.py made (made here if it is missing; 8.8 GB). Every contender is a
process of its own. Its CPU seconds (user and system, children counted) and peak resident memory
come from the kernel (wait4), with the inputs in the page cache, the output removed, dirty pages
flushed and free memory touched before each run (a virtual machine's host takes freed memory back,
and whoever uses it next pays), the order turned round every other time; medians are told. Ratios of
one run of this program are what counts, seconds depend on the machine. Ends with 1 when a target is
missed or the outputs of lamina and mergekit do not agree.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MEMORY_TARGET = 400
NO_TOKENIZER = "--no-copy-tokenizer"


@dataclass(frozen=True)
class Cost:
    """What one run took."""

    cpu: float
    wall: float
    peak_mb: float


@dataclass(frozen=True)
class Contender:
    """One way to run: the commands, and what they write."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    out: Path
    repeat: int


@dataclass(frozen=True)
class Target:
    """One line of what was promised."""

    text: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def line(self) -> str:
        sign = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "MISSED"
        return f"{self.text:<62} {self.measured:9.2f}   {sign} {self.limit:g}: {verdict}"


def timed(commands: tuple[tuple[str, ...], ...], environment: dict[str, str]) -> Cost:
    """Run the commands one after the other and add up what they took."""
    cpu, peak, began = 0.0, 0.0, time.perf_counter()
    for command in commands:
        with tempfile.TemporaryFile() as told:
            child = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=told, env=os.environ | environment
            )
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                told.seek(0)
                sys.exit(f"{' '.join(command)}\n{told.read().decode(errors='replace')[-3000:]}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss / 1024)
    return Cost(cpu, time.perf_counter() - began, peak)


def write_recipes(weights: Path, work: Path) -> dict[str, Path]:
    """The YAML files: lamina and mergekit read the same ones; float32 inside, bf16 out."""
    instruct = f"base_model: {weights / 'instruct'}\n"
    rounded_once = "dtype: float32\nout_dtype: bfloat16\n"
    texts = {
        "task_arithmetic": instruct + experts(weights) + rounded_once,
        "task_arithmetic_in_bf16": instruct + experts(weights) + "dtype: bfloat16\n",
        "ties": instruct + experts(weights, ", density: 0.5") + rounded_once,
        "lata": f"base_model: {weights / 'base'}\ninstruct_model: {weights / 'instruct'}\n"
        + experts(weights)
        + "parameters: {rule: linear_drop}\n"
        + rounded_once,
    }
    paths = {}
    for name, text in texts.items():
        paths[name] = work / f"{name}.yaml"
        paths[name].write_text(f"merge_method: {name.removesuffix('_in_bf16')}\n{text}")
    return paths


def experts(weights: Path, more: str = "") -> str:
    """The `models:` of a recipe."""
    return "models:\n" + "".join(
        f"  - {{model: {weights / name}, parameters: {{weight: 0.5{more}}}}}\n"
        for name in ("math", "code")
    )


def contenders(given: argparse.Namespace, weights: Path, work: Path) -> list[Contender]:
    """Everything that is run, cheap things first."""
    recipes = write_recipes(weights, work)
    files = [str(weights / name / "model.safetensors") for name in ("instruct", "math", "code")]
    copied = str(work / "copied")
    copy = (("cat", *files), ("cp", files[0], copied))
    found = [
        Contender("copy", copy, work / "copied", given.repeat),
        Contender("copy, flushed", (*copy, ("sync", copied)), work / "copied", given.repeat),
    ]
    for method in ("task_arithmetic", "ties", "lata"):
        out = work / f"lamina-{method}"
        command = (given.lamina, "merge", str(recipes[method]), str(out))
        found.append(Contender(f"lamina {method}", (command,), out, given.repeat))
    if given.mergekit:
        for name in ("task_arithmetic_in_bf16", "task_arithmetic", "ties"):
            out = work / f"mergekit-{name}"
            command = (
                given.mergekit,
                str(recipes[name]),
                str(out),
                "--no-copy-tokenizer",
                "--quiet",
            )
            found.append(Contender(f"mergekit {name}", (command,), out, given.mergekit_repeat))
    return found


def warm(weights: Path) -> None:
    """Bring all inputs into the page cache."""
    for path in sorted(weights.glob("*/*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def touch_memory(num_bytes: int = 5 << 30) -> None:
    """Use free memory once, so that a virtual machine's host gives it before the clock starts.

    A host takes memory back that a guest has freed; whoever uses it next pays seconds of system
    time for that, at random: here nobody does.
    """
    flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE"
    touch = f"import mmap; mmap.mmap(-1, {num_bytes}, flags={flags})"
    subprocess.run([sys.executable, "-c", touch], check=True)  # apart: peaks are inherited


def forget_output(out: Path) -> None:
    """Remove what a contender wrote, and let the disk come to rest."""
    if out.is_dir():
        shutil.rmtree(out)
    out.unlink(missing_ok=True)
    os.sync()


def measure(
    found: list[Contender], weights: Path, cache: Path, tell: Callable[[str], None]
) -> dict[str, Cost]:
    """The median cost of every contender. LATA's statistics are never taken from an earlier run."""
    costs: dict[str, list[Cost]] = {contender.name: [] for contender in found}
    environment = {"LAMINA_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    for turn in range(max(contender.repeat for contender in found)):
        for contender in found if turn % 2 == 0 else reversed(found):
            if turn >= contender.repeat:
                continue
            forget_output(contender.out)
            shutil.rmtree(cache, ignore_errors=True)
            warm(weights)
            touch_memory()
            cost = timed(contender.commands, environment)
            costs[contender.name].append(cost)
            tell(
                f"{contender.name:<34} {cost.cpu:7.2f} CPU s {cost.wall:7.2f} s"
                f" {cost.peak_mb:6.0f} MB   load {os.getloadavg()[0]:.1f}"
            )
    return {
        name: Cost(
            statistics.median(cost.cpu for cost in runs),
            statistics.median(cost.wall for cost in runs),
            max(cost.peak_mb for cost in runs),
        )
        for name, runs in costs.items()
    }


def targets(costs: dict[str, Cost]) -> list[Target]:
    """What was promised, and what was measured."""
    copy, flushed = costs["copy"], costs["copy, flushed"]
    ta, lata = costs["lamina task_arithmetic"], costs["lamina lata"]
    lines = [
        Target("task_arithmetic / copy, CPU", ta.cpu / copy.cpu, 1.5),
        Target("task_arithmetic / copy, wall", ta.wall / copy.wall, 1.0),
        Target("task_arithmetic / copy flushed to the disk, wall", ta.wall / flushed.wall, 1.0),
        Target("lata, both passes / task_arithmetic, CPU", lata.cpu / ta.cpu, 2.2),
    ]
    lines += [
        Target(f"{name}, peak MB", cost.peak_mb, MEMORY_TARGET)
        for name, cost in costs.items()
        if name.startswith("lamina")
    ]
    if "mergekit ties" in costs:
        peer, same = costs["mergekit task_arithmetic_in_bf16"], costs["mergekit task_arithmetic"]
        ties, ours = costs["mergekit ties"], costs["lamina ties"]
        lines += [
            Target("mergekit task_arithmetic / ours, CPU", same.cpu / ta.cpu, 10, True),
            Target("mergekit task_arithmetic / ours, wall", same.wall / ta.wall, 12, True),
            Target("mergekit task_arithmetic in bf16 / ours, CPU", peer.cpu / ta.cpu, 10, True),
            Target("mergekit task_arithmetic in bf16 / ours, wall", peer.wall / ta.wall, 12, True),
            Target("mergekit ties / ours, CPU", ties.cpu / ours.cpu, 25, True),
        ]
    return lines


def compare_outputs(work: Path, weights: Path, tell: Callable[[str], None]) -> bool:
    """Whether lamina and mergekit wrote the same tensors; TIES but for equal magnitudes."""
    agree = True
    for method in ("task_arithmetic", "ties"):
        pair = [work / f"{who}-{method}" / "model.safetensors" for who in ("lamina", "mergekit")]
        trimmed = ["--weights", str(weights), "--density", "0.5"] if method == "ties" else []
        done = subprocess.run(
            [sys.executable, str(HERE / "same_tensors.py"), *map(str, pair), *trimmed],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        tell(f"{method}: {done.stdout.strip()}")
        agree &= done.returncode == 0
    return agree


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("weights", type=Path, nargs="?", help="of make_weights.py")
    parser.add_argument("--work", type=Path, help="where outputs go (and are removed from)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lamina", default=str(Path(sys.executable).with_name("lamina")))
    parser.add_argument("--mergekit", help="the mergekit-yaml of its own environment")
    parser.add_argument("--mergekit-repeat", type=int, default=1)
    parser.add_argument("--twice", type=Path, help="measure memory on twice the blocks too")
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work, prefix="lamina-bench-") as folder:
        work = Path(folder)
        weights = (given.weights or work / "weights").absolute()
        make(weights, 1)
        found = contenders(given, weights, work)
        warm_up(found, weights, work)
        costs = measure(found, weights, work / "cache", print)
        lines = targets(costs)
        agree = not given.mergekit or compare_outputs(work, weights, print)
        for contender in found:
            forget_output(contender.out)
        if given.twice:
            lines += memory_at_twice(given, work, costs)
    print(table(costs))
    print("\n".join(line.line() for line in lines))
    if given.json:
        told = {
            "costs": {name: vars(cost) for name, cost in costs.items()},
            "targets": [vars(line) | {"met": line.met} for line in lines],
            "outputs_agree": agree,
            "cores": os.cpu_count(),
        }
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    sys.exit(not (agree and all(line.met for line in lines)))


def make(weights: Path, scale: int) -> None:
    """The weights, unless they are there."""
    command = [sys.executable, str(HERE / "make_weights.py"), str(weights), "--scale", str(scale)]
    subprocess.run(command, check=True)


def warm_up(found: list[Contender], weights: Path, work: Path) -> None:
    """One run of each of lamina's methods that is not counted: compiled kernels are kept."""
    print(f"inputs in {weights}; outputs in {work}; first runs are not counted")
    for contender in found:
        if contender.name.startswith("lamina"):
            timed(contender.commands, {"LAMINA_CACHE": str(work / "cache")})


def memory_at_twice(given: argparse.Namespace, work: Path, costs: dict[str, Cost]) -> list[Target]:
    """Peak memory on twice the blocks: at most the target, and about the same."""
    twice = given.twice.absolute()
    make(twice, 2)
    ours = [c for c in contenders(given, twice, work) if c.name.startswith("lamina")]
    lines = []
    for contender in ours:
        forget_output(contender.out)
        cost = timed(contender.commands, {"LAMINA_CACHE": str(work / "cache-twice")})
        forget_output(contender.out)
        lines.append(
            Target(f"{contender.name}, twice the size, peak MB", cost.peak_mb, MEMORY_TARGET)
        )
        grown = cost.peak_mb / costs[contender.name].peak_mb
        lines.append(Target(f"{contender.name}, twice the size / once, peak", grown, 1.1))
    return lines


def table(costs: dict[str, Cost]) -> str:
    """The costs, and what they are of the copy's."""
    copy = costs["copy"]
    lines = [f"\n{'':<34} {'CPU s':>8} {'wall s':>8} {'peak MB':>8} {'CPU':>6} {'wall':>6} of copy"]
    lines += [
        f"{name:<34} {cost.cpu:8.2f} {cost.wall:8.2f} {cost.peak_mb:8.0f}"
        f" {cost.cpu / copy.cpu:6.2f} {cost.wall / copy.wall:6.2f}"
        for name, cost in costs.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
