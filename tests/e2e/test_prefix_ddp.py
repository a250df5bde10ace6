"""Two processes build one cache of the frozen prefix, each its share, and both read it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCENE = Path(__file__).parent / "prefix_scene.py"


def settled(folder: Path, told: Path, processes: int) -> list[dict[str, Any]]:
    told.mkdir()
    command = [sys.executable, str(SCENE), str(folder), str(told)]
    if processes > 1:
        launch = "-m torch.distributed.run --standalone --nnodes 1 --nproc-per-node".split()
        command = [sys.executable, *launch, str(processes), *command[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads((told / f"{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_build_what_one_builds(tmp_path: Path) -> None:
    (alone,) = settled(tmp_path / "one", tmp_path / "told-one", 1)
    first, second = settled(tmp_path / "two", tmp_path / "told-two", 2)
    assert first["states"] == second["states"] == alone["states"]
    assert alone["batches"] >= 2
    assert first["batches"] + second["batches"] == alone["batches"]
    assert min(first["batches"], second["batches"]) > 0
    assert first["loss"] == pytest.approx(alone["without"], rel=1e-5)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"states.bin", "prefix.json"}
    assert not list(tmp_path.glob(".*.part"))


def test_a_whole_cache_is_read_by_both(tmp_path: Path) -> None:
    settled(tmp_path / "prefix", tmp_path / "told-one", 1)
    for found in settled(tmp_path / "prefix", tmp_path / "told-two", 2):
        assert found["batches"] == 0
        assert "stand in" in found["told"][0]
