"""Killed with -9 at random moments and started again: the same bytes as an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_family import CONFIG, write_model

KILLS = 8
WIDE = {"hidden_size": 256, "intermediate_size": 768, "vocab_size": 1500, "num_hidden_layers": 3}
RECIPE = """\
merge_method: lata
base_model: ./base
instruct_model: ./instruct
models:
  - {model: ./math, parameters: {weight: 0.5}}
  - {model: ./code, parameters: {weight: 0.5}}
parameters: {rule: linear_drop}
dtype: bfloat16
max_shard_size: 2MB
"""
SLOW = """
import sys, time
from lamina.cli import main
from lamina.weights.writer import PartialOutput
write, finish = PartialOutput.write, PartialOutput.finish
def slow_write(self, output, place, first, data):
    half = len(data) // 2
    write(self, output, place, first, data[:half])
    time.sleep(0.008)
    write(self, output, place, first + half, data[half:])
def slow_finish(self, *arguments):
    time.sleep(0.004)
    finish(self, *arguments)
PartialOutput.write, PartialOutput.finish = slow_write, slow_finish
main(sys.argv[1:])
"""


def shapes() -> dict[str, tuple[int, ...]]:
    hidden, wide, words = WIDE["hidden_size"], WIDE["intermediate_size"], WIDE["vocab_size"]
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (words, hidden),
        "model.embed_tokens.weight": (words, hidden),
        "model.norm.weight": (hidden,),
    }
    for block in range(WIDE["num_hidden_layers"]):
        at = f"model.layers.{block}"
        found |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.mlp.down_proj.weight": (hidden, wide),
            f"{at}.mlp.gate_proj.weight": (wide, hidden),
            f"{at}.mlp.up_proj.weight": (wide, hidden),
            f"{at}.self_attn.k_proj.weight": (hidden // 2, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, hidden),
            f"{at}.self_attn.q_proj.weight": (hidden, hidden),
            f"{at}.self_attn.v_proj.weight": (hidden // 2, hidden),
        }
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)

    def step(size: float) -> dict[str, np.ndarray]:
        return {n: rng.standard_normal(s).astype(np.float32) * size for n, s in shapes().items()}

    base = step(0.1)
    instruct = {n: base[n] + move for n, move in step(0.01).items()}
    write_model(tmp_path / "base", base, config=WIDE)
    write_model(tmp_path / "instruct", instruct, config=WIDE)
    for name in ("math", "code"):
        tuned = {n: instruct[n] + move for n, move in step(0.005).items()}
        write_model(tmp_path / name, tuned, config=WIDE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert CONFIG["model_type"] == "llama"
    return tmp_path


def start(home: Path, out: Path, cache: str, *, slow: bool, threads: int) -> subprocess.Popen[str]:
    command = ["-c", SLOW] if slow else ["-m", "lamina"]
    return subprocess.Popen(
        [sys.executable, *command, "merge", "recipe.yaml", str(out), "--threads", str(threads)],
        cwd=home,
        env={**os.environ, "LAMINA_CACHE": str(home / cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def finished_tensors(part: Path) -> int:
    try:
        return (part / "journal.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0


@pytest.mark.e2e
@pytest.mark.slow
def test_a_killed_merge_goes_on_to_the_same_bytes(home: Path) -> None:
    calm = home / "calm" / "out"
    run = start(home, calm, "calm-cache", slow=False, threads=2)
    told = run.communicate(timeout=200)
    assert run.returncode == 0, told

    out = home / "shaken" / "out"
    part = out.with_name(".out.lamina-part")
    rng, seen = random.Random(7), []
    for number in range(KILLS):
        run = start(home, out, "shaken-cache", slow=True, threads=1 + number % 2)
        before, waited = finished_tensors(part), time.monotonic()
        # Either soon after the first new tensor is done, or at a random moment of the start.
        while run.poll() is None and time.monotonic() - waited < (60 if number else 0.3):
            if finished_tensors(part) > before:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.05))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        seen.append(finished_tensors(part))
        if out.exists():
            break
        assert not (out.parent / "manifest.json").exists()
    assert len(seen) == KILLS, f"it was done after {len(seen)} starts: {seen}"
    assert len(set(seen)) > 3, f"kills in mid-merge: {seen}"

    run = start(home, out, "shaken-cache", slow=False, threads=2)
    told = run.communicate(timeout=200)
    assert run.returncode == 0, told
    ours, theirs = files(out), files(calm)
    assert ours.keys() == theirs.keys()
    assert len([name for name in ours if name.endswith(".safetensors")]) > 2
    assert [n for n in ours if n != "log.jsonl" and ours[n] != theirs[n]] == []
    assert [path.name for path in out.parent.iterdir()] == ["out"]
