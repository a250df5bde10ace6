"""A tune run that is killed at random steps, and gone on with, ends with the same bytes.

    python bench/resume.py [WORK] [--kills 20] [--seed 0] [--model DIR]

Tunes the demo's base model (or a smaller one made in WORK, by default) on the demo's rows with
moving weights, once undisturbed. Then, time after time, kills the run with -9: in mid-window, at
a window's boundary, and while a checkpoint is being written; now and then more than once. Each run
is gone on with by --resume until it is done, and every file that does not tell the time must have
the undisturbed run's bytes. Ends with 1 when anything else is seen.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
DEMO = HERE.parent / "src" / "lamina" / "demo"
TELL_THE_TIME = {"log.jsonl"}
NOT_COMPARED = {"logs"}
STEPS, WINDOW = 24, 6


def small_model(folder: Path) -> Path:
    """A Llama of 0.3 M parameters with the demo's tokenizer: its steps take a few milliseconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        attention_dropout=0.1,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (DEMO / "models" / "base" / name).is_file():
            shutil.copyfile(DEMO / "models" / "base" / name, folder / name)
    return folder


def write_recipe(file: Path, model: Path) -> None:
    rows = {name: str(DEMO / "domains" / f"{name}.jsonl.gz") for name in ("law", "code", "general")}
    recipe = {
        "model": str(model),
        "domains": rows,
        "data": {"max_length": 256, "heldout_rows": 16},
        "train": {
            "method": "lora",
            "dropout": 0.1,
            "windows": STEPS // WINDOW,
            "window_steps": WINDOW,
            "batch_size": 2,
            "save_every": 2,
            "learning_rate": 5e-3,
            "keep_checkpoints": 2,
        },
        "mixture": {
            "policy": "foster",
            "floor": 0.05,
            "reference": {"way": "fraction", "fraction": 0.5},
        },
    }
    file.write_text(json.dumps(recipe))


def start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "lamina", "tune", str(recipe), "--out", str(out), "--resume"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def done_steps(out: Path) -> int:
    """The step of the newest checkpoint."""
    folders = [p.name.partition("-")[2] for p in (out / "checkpoints").glob("checkpoint-*")]
    return max((int(step) for step in folders if step.isdigit()), default=0)


def kill_at(process: subprocess.Popen[bytes], out: Path, how: str, step: int, wait: float) -> str:
    """Kills a run at a moment of the kind asked for; gives what was hit."""
    writing = out / "checkpoints" / ".writing"
    while process.poll() is None:
        if done_steps(out) >= step:
            if how == "save":
                if any(writing.glob("*/*")):
                    break
            else:
                time.sleep(wait)
                break
        time.sleep(0.0005)
    if process.poll() is not None:
        return "finished before"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    in_save = any(writing.glob("*/*"))
    at = done_steps(out)
    if in_save:
        return "during a save"
    return "at a boundary" if at % WINDOW == 0 else "in mid-window"


def finish(recipe: Path, out: Path) -> None:
    process = start(recipe, out)
    _, told = process.communicate()
    if process.returncode:
        sys.exit(f"a resumed run ended with {process.returncode}:\n{told.decode()[-2000:]}")


def contents(out: Path) -> dict[str, str]:
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if name not in TELL_THE_TIME and name.split("/")[0] not in NOT_COMPARED:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="?", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp(prefix="lamina-resume-"))
    work.mkdir(parents=True, exist_ok=True)
    recipe = work / "recipe.json.yaml"
    write_recipe(recipe, asked.model or small_model(work / "model"))
    print("undisturbed ...", flush=True)
    finish(recipe, work / "whole" / "run")
    whole = contents(work / "whole" / "run")
    draws = random.Random(asked.seed)
    hit: collections.Counter[str] = collections.Counter()
    different = 0
    while sum(hit.values()) < asked.kills:
        out = work / "killed" / "run"
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(draws.choice([1, 1, 2])):
            how = draws.choice(["any", "any", "save"])
            step = draws.randrange(done_steps(out) if out.exists() else 0, STEPS - 2)
            what = kill_at(start(recipe, out), out, how, step, draws.uniform(0, 0.12))
            if what != "finished before":
                hit[what] += 1
        if not (out / "manifest.json").is_file():
            finish(recipe, out)
        now = contents(out)
        wrong = sorted(n for n in whole.keys() | now.keys() if whole.get(n) != now.get(n))
        different += bool(wrong)
        told = f"DIFFERENT: {', '.join(wrong)}" if wrong else "same bytes"
        print(f"{sum(hit.values()):3} kills: {told}", flush=True)
    print(f"kills: {sum(hit.values())} ({', '.join(f'{n} {what}' for what, n in hit.items())})")
    print(f"runs that differ from the undisturbed one: {different}")
    print(f"files compared in each: {len(whole)}")
    if asked.work is None:
        shutil.rmtree(work, ignore_errors=True)
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
