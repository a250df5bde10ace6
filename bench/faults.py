"""What is left when a merge is killed, and when the disk is full.

    python bench/faults.py [WORK] [--kills 20] [--seed 0] [--method task_arithmetic]

Merges weights of TinyLlama's shapes with two blocks (1.8 GB for all four models, made in WORK),
once undisturbed. Then, time after time, kills the merge with -9 at a random moment, now and then
more than once, and starts it again until it is done: nothing may stand under the output's name
before that, and afterwards every byte must be the undisturbed run's. Files that two undisturbed
runs write differently (they tell the time) are left out and named. Then the disk is full in
mid-write, twice: by a limit on the size of a file, and by a small file system where mounting is
allowed. There must be no output and one clear error with exit code 2. Ends with 1 when anything
else is seen.
"""

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
FULL_DISK = 300 * 2**20
NUM_TENSORS = 21
TELL_THE_TIME = {"log.jsonl", "manifest.json", "report.html"}


class Failed(Exception):
    """Something that must not happen was seen."""


def recipe(weights: Path, method: str) -> str:
    """The YAML of the merge that is disturbed."""
    lines = [f"merge_method: {method}"]
    if method == "lata":
        lines += [f"base_model: {weights / 'base'}", f"instruct_model: {weights / 'instruct'}"]
        lines += ["parameters: {rule: linear_drop}"]
    else:
        lines += [f"base_model: {weights / 'instruct'}"]
    density = ", density: 0.5" if method == "ties" else ""
    lines += ["models:"] + [
        f"  - {{model: {weights / name}, parameters: {{weight: 0.5{density}}}}}"
        for name in ("math", "code")
    ]
    return "\n".join(lines) + "\n"


def start(
    lamina: str, config: Path, out: Path, before: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    """A merge in a process group of its own."""
    return subprocess.Popen(
        [lamina, "merge", str(config), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ
        | {"LAMINA_CACHE": str(config.parent / "cache"), "TMPDIR": str(config.parent)},
        start_new_session=True,
        preexec_fn=before,
    )


def finish(lamina: str, config: Path, out: Path) -> float:
    """A merge that nothing disturbs, and the seconds it took."""
    began = time.perf_counter()
    child = start(lamina, config, out)
    told = child.communicate()[1].decode(errors="replace")
    if child.returncode:
        raise Failed(f"an undisturbed merge ended with {child.returncode}:\n{told}")
    return time.perf_counter() - began


def finished_tensors(out: Path) -> int:
    """How many tensors the journal of an unfinished output names."""
    total = 0
    for journal in out.parent.glob(".*/journal.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            total += journal.read_bytes().count(b"\n")
    return total


def checksums(folder: Path) -> dict[str, str]:
    """Every file of an output with its checksum."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def kill_once(
    lamina: str, config: Path, out: Path, delay: float, seen: dict[str, int], *, after: int
) -> bool:
    """Start the merge, kill it some time after so many tensors are done; whether it still ran."""
    child = start(lamina, config, out)
    while child.poll() is None and finished_tensors(out) < after:
        time.sleep(0.002)
    try:
        child.communicate(timeout=delay)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
    done = finished_tensors(out)
    if out.exists():
        seen["after the output was whole"] += 1
    else:
        seen["in mid-write" if done else "before the first tensor was whole"] += 1
    return True


def check_kills(lamina: str, config: Path, work: Path, *, kills: int, seed: int) -> None:
    """Kill, start again, compare; raises when a byte differs."""
    rng = random.Random(seed)
    out = work / "out"
    finish(lamina, config, out)
    wanted = checksums(out)
    shutil.rmtree(out)
    lasts = finish(lamina, config, out)
    again = checksums(out)
    shutil.rmtree(out)
    timed = sorted(name for name in wanted if wanted[name] != again.get(name))
    if set(timed) - TELL_THE_TIME or wanted.keys() != again.keys():
        raise Failed(f"two undisturbed runs wrote different files: {', '.join(timed)}")
    print(f"an undisturbed merge takes {lasts:.1f} s; only {', '.join(timed)} tells its time")
    seen = {
        "before the first tensor was whole": 0,
        "in mid-write": 0,
        "after the output was whole": 0,
    }
    done = 0
    while done < kills:
        turns = rng.choice((1, 1, 2, 3))
        for _ in range(min(turns, kills - done)):
            if not out.exists():
                after = rng.choice((0, rng.randrange(NUM_TENSORS + 1)))
                delay = rng.random() * (0.05 if after else lasts)
                done += kill_once(lamina, config, out, delay, seen, after=after)
        if not out.exists():
            finish(lamina, config, out)
        found = checksums(out)
        unequal = sorted(
            name
            for name in wanted.keys() | found.keys()
            if name not in timed and wanted.get(name) != found.get(name)
        )
        if unequal or found.keys() != wanted.keys():
            raise Failed(f"after {done} kills these files differ: {unequal or 'their names'}")
        shutil.rmtree(out)
        left = [p.name for p in work.iterdir()]
        if left:
            raise Failed(f"left behind: {left}")
    told = ", ".join(f"{count} {what}" for what, count in seen.items())
    print(f"{done} kills with -9 ({told}): all outputs byte-identical after the restart")
    if not seen["in mid-write"]:
        raise Failed("no kill fell into the writing; use larger weights or another --seed")


def check_refusal(
    lamina: str, config: Path, out: Path, what: str, before: Callable[[], None] | None = None
) -> None:
    """The merge must end with 2, one error that says why, and no output."""
    child = start(lamina, config, out, before)
    told = child.communicate()[1].decode(errors="replace").strip()
    if child.returncode != 2 or "error:" not in told or "Traceback" in told:
        raise Failed(f"{what}: ended with {child.returncode}:\n{told}")
    left = [p.name for p in out.parent.iterdir() if out.name in p.name]
    if left:
        raise Failed(f"{what}: left behind {left}\n{told}")
    print(f"{what}: exit code 2, nothing left behind:\n    " + told.splitlines()[-1])


def limit_file_size() -> None:
    """In the child: no file may grow beyond the size that the disk then seems to have."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK, FULL_DISK))


def check_full_file_system(lamina: str, config: Path, work: Path) -> None:
    """A file system that fills up while the merge writes: something else takes the room."""
    place = work / "small-disk"
    place.mkdir()
    size = f"size={2 * FULL_DISK}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]
    if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
        print("a file system of its own: mounting is not allowed here, left out")
        return
    try:
        with (place / "something-else").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * FULL_DISK - 64 * 2**20)
        check_refusal(lamina, config, place / "out", "a disk that is nearly full")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path, nargs="?", help="a folder for weights and outputs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--lamina", default=str(Path(sys.executable).with_name("lamina")))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work, prefix="lamina-faults-") as folder:
        work = Path(folder)
        weights = (given.work or work).absolute() / "weights-of-two-blocks"
        make = [sys.executable, str(HERE / "make_weights.py"), str(weights), "--blocks", "2"]
        subprocess.run(make, check=True)
        config = work / "merge.yaml"
        config.write_text(recipe(weights, given.method))
        (work / "merges").mkdir()
        try:
            check_kills(given.lamina, config, work / "merges", kills=given.kills, seed=given.seed)
            what = "a file that may not grow any further"
            check_refusal(given.lamina, config, work / "merges" / "out", what, limit_file_size)
            check_full_file_system(given.lamina, config, work)
        except Failed as failed:
            sys.exit(f"FAILED: {failed}")


if __name__ == "__main__":
    main()
