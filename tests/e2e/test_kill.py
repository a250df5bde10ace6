"""Killed at any moment and started again, a merge gives the bytes of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf


@pytest.fixture
def large_home(tmp_path: Path) -> Path:
    """A family of 40 blocks, 2 MB each: long enough to be hit in the middle."""
    names = {"base": 0, "instruct": 1, "math": 2}
    tensors = tf.random_model(0, blocks=40, vocabulary=4096)
    rng = np.random.default_rng(0)
    for name in names:
        tensors = {
            key: values + rng.standard_normal(values.shape, np.float32) * np.float32(0.01)
            for key, values in tensors.items()
        }
        config = {"num_hidden_layers": 40, "vocab_size": 4096}
        tf.write_model(tmp_path / name, tensors, config=config)
    recipe = tf.LATA.replace("  - {model: ./code, parameters: {weight: 0.5}}\n", "")
    (tmp_path / "recipe.yaml").write_text(recipe + "max_shard_size: 1MB\n")
    return tmp_path


def start(home: Path, out: str) -> subprocess.Popen[bytes]:
    arguments = ["merge", home / "recipe.yaml", home / out, "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "lamina", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def reached(part: Path, lines: int) -> bool:
    """Whether the journal has so many lines; 0: whether what follows the weights has begun."""
    if not lines:
        return (part / "scores.json").exists()
    try:
        return (part / "journal.jsonl").read_bytes().count(b"\n") >= lines
    except OSError:
        return False


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_and_started_again(large_home: Path) -> None:
    home, part = large_home, large_home / ".out.lamina-part"
    assert start(home, "out").wait() == 0
    (home / "out").rename(home / "whole")
    wanted = {n: d for n, (d, _) in tf.snapshot(home / "whole").items()}
    hits = 0
    for lines in (1, 150, 0):
        run = start(home, "out")
        while run.poll() is None and not reached(part, lines):
            time.sleep(0.0005)
        run.send_signal(signal.SIGKILL)
        killed = run.wait() == -signal.SIGKILL
        hits += killed
        assert killed != (home / "out").exists()
        if not killed:
            break
    assert hits > 1, "no kill hit a running merge"
    if not (home / "out").exists():
        assert start(home, "out").wait() == 0
    found = {n: d for n, (d, _) in tf.snapshot(home / "out").items()}
    assert found.pop("log.jsonl") != ""
    del wanted["log.jsonl"]
    assert found == wanted
    assert not [path.name for path in home.iterdir() if path.name.startswith(".out")]


@pytest.mark.e2e
def test_stopped_by_hand(large_home: Path) -> None:
    """Ctrl-C: exit code 130, one line, nothing under the final name; the run can go on."""
    home, part = large_home, large_home / ".out.lamina-part"
    run = subprocess.Popen(
        [sys.executable, "-m", "lamina", "merge", home / "recipe.yaml", home / "out"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ,
    )
    while run.poll() is None and not reached(part, 20):
        time.sleep(0.0005)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate()
    if run.returncode == 0:
        pytest.skip("the merge was done before it could be stopped")
    assert run.returncode == 130, told
    lines = [line for line in told.decode().splitlines() if "%" not in line]
    assert lines == ["stopped. Run the same command again to go on."]
    assert not (home / "out").exists()
    assert start(home, "out").wait() == 0


def test_two_verbs_in_a_row(lamina: Any, home: Path) -> None:
    """What merge writes, show draws and verify finds whole."""
    assert lamina("merge", home / "lata.yaml", home / "out").code == 0
    shown = lamina("show", home / "out")
    assert shown.code == 0
    assert "math" in shown.out
    assert lamina("verify", home / "out").out.strip().endswith("every file is as it was written")
    file = home / "out" / "model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    told = lamina("verify", home / "out")
    assert (told.code, told.err) == (1, "model.safetensors: other contents than were written\n")
