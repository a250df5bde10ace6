"""Two processes on the CPU (gloo) rank as one does, write once and fail with one voice."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_kit as ranks
import tune_kit as kit
import yaml

from lamina.jobs.rank import run_rank

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCENES = Path(__file__).parent / "rank_scenes.py"
BESIDE = ["leave_one_out", "integrate", "learn", "shapley", "lora_drop", "block_influence"]


def write_recipe(home: Path, name: str, **changes: Any) -> None:
    values: dict[str, Any] = {
        "model": "model",
        "domains": {"law": "rows/law.jsonl", "code": "rows/code.jsonl"},
        "beside": BESIDE,
    }
    for key, value in ranks.SMALL.items():
        section, _, inner = key.partition(".")
        values.setdefault(section, {})[inner] = [] if value == "[]" else value
    values["train"] |= changes.pop("train", {})
    (home / f"{name}.yaml").write_text(yaml.safe_dump(values | changes))


def write_bad(home: Path) -> None:
    """An adapter with a factor that is not a number."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(home / "adapter", home / "bad-adapter")
    file = home / "bad-adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ranks.home_in(tmp_path_factory.mktemp("home")) as folder:
        write_recipe(folder, "one", train={"accumulate": 2})
        run_rank(str(folder / "one.yaml"), folder / "one")
        shutil.copytree(folder / "one" / "adapter", folder / "adapter")
        write_bad(folder)
        write_recipe(folder, "two")
        write_recipe(folder, "given", model="adapter")
        write_recipe(folder, "bad", model="bad-adapter")
        write_recipe(folder, "lost", domains={"law": "rows/lost.jsonl"})
        yield folder


@pytest.fixture(scope="module")
def told(home: Path) -> list[dict[str, Any]]:
    """How each ranking ended, by process."""
    launch = "-m torch.distributed.run --standalone --nnodes 1 --nproc-per-node 2".split()
    done = subprocess.run(
        [sys.executable, *launch, str(SCENES), str(home)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((home / f"told-{rank}.json").read_text()) for rank in (0, 1)]


def assert_near(ours: Path, theirs: Path) -> None:
    """Scores, ranks aside, up to rounding."""
    files = ["scores.json", *(f"scores/{name}.json" for name in BESIDE)]
    for file in files:
        found, wanted = kit.json_of(ours / file), kit.json_of(theirs / file)
        assert found["values"] == pytest.approx(wanted["values"], rel=2e-3, abs=2e-6), file


def test_two_processes_rank_an_adapter_as_one_does(home: Path, told: list[dict[str, Any]]) -> None:
    run_rank(str(home / "given.yaml"), home / "given alone")
    assert_near(home / "given", home / "given alone")
    costs = [kit.json_of(home / f / "agreement.json")["cost"] for f in ("given", "given alone")]
    assert costs[0] == costs[1]
    assert told[0]["given"] == told[1]["given"]


def test_two_processes_tune_and_rank_as_one_with_twice_the_accumulation(
    home: Path, told: list[dict[str, Any]]
) -> None:
    from safetensors.torch import load_file

    assert [one["two"] for one in told] == ["done", "done"]
    file = "adapter/adapter_model.safetensors"
    ours, theirs = load_file(home / "two" / file), load_file(home / "one" / file)
    for name, tensor in theirs.items():
        assert float((ours[name] - tensor).abs().max()) < 1e-4, name
    assert_near(home / "two", home / "one")


def test_one_process_writes(home: Path, told: list[dict[str, Any]]) -> None:
    assert told[0]["written"].count("scores.json") == 2
    assert "scores.json" not in told[1]["written"]
    assert "manifest.json" not in told[1]["written"]
    log = (home / "two" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log] == ["ranking begun", "stage 1", "written"]
    assert [one["again"] for one in told] == ["done", "done"]


def test_what_is_wrong_is_told_alike(home: Path, told: list[dict[str, Any]]) -> None:
    assert told[0]["bad"] == told[1]["bad"]
    assert "not finite" in told[0]["bad"]
    assert told[0]["lost"] == told[1]["lost"]
    assert "rows/lost.jsonl" in told[0]["lost"]
    assert not (home / "bad").exists()
    assert not (home / "lost").exists()
