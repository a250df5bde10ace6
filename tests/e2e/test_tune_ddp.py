"""Two processes on the CPU (gloo) tune as one does, stop together and fail with one voice."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCENES = Path(__file__).parent / "ddp_scenes.py"
FOSTER = {"policy": "foster", "reference": {"way": "tuned", "windows": 1, "window_steps": 2}}
TRAIN = {"windows": 3, "window_steps": 4, "save_every": 3, "workers": 0}
BAD = "§§§"
"""Its token's embedding is not a number."""


def torchrun(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"),
            *("--nproc-per-node", "2", *map(str, arguments)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def write_bad(home: Path) -> None:
    """A model that one row of law makes not finite, and a recipe in which it is read."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    folder = kit.write_pico(home / "bad-model", tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    ids = AutoTokenizer.from_pretrained(folder)(BAD, add_special_tokens=False)["input_ids"]
    tensors["model.embed_tokens.weight"][ids] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.isnan(tensors["model.embed_tokens.weight"]).any()
    rows = kit.rows_of("law", 12)
    rows[7]["prompt"] += BAD
    kit.write_rows(home / "few" / "law.jsonl", rows)
    kit.write_rows(home / "few" / "held.jsonl", kit.rows_of("law", 4, seed=1))
    kit.write_recipe(
        home,
        "bad.yaml",
        model="bad-model",
        domains={"law": {"path": "few/law.jsonl", "heldout": "few/held.jsonl"}},
        data={"packing": False},
        train={"windows": 1, "window_steps": 3, "batch_size": 2, "save_every": 1},
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = kit.write_home(tmp_path_factory.mktemp("home"))
    kit.write_recipe(folder, "two.yaml", train=TRAIN, mixture=FOSTER)
    kit.write_recipe(folder, "lost.yaml", domains={"law": "rows/lost.jsonl"})
    write_bad(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def told(home: Path) -> list[dict[str, Any]]:
    """How each run ended, by process."""
    done = torchrun(SCENES, home)
    assert done.returncode == 0, done.stderr
    return [json.loads((home / f"told-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_are_one_with_twice_the_accumulation(
    home: Path, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    assert [one["whole"] for one in told] == ["done", "done"]
    monkeypatch.setenv("LAMINA_CACHE", str(home / "cache of one"))
    out, _ = kit.tune(home, "one", train=TRAIN | {"accumulate": 2}, mixture=FOSTER)
    one, two = kit.lines_of(out), kit.lines_of(home / "two")
    assert len(one) == len(two) == 3
    for ours, theirs in zip(two, one, strict=True):
        assert (ours["rows"], ours["tokens"]) == (theirs["rows"], theirs["tokens"])
        for field in ("weights", "loss", "loss_se", "train_loss", "potential"):
            for name, value in theirs[field].items():
                assert math.isclose(ours[field][name], value, rel_tol=1e-5, abs_tol=1e-7), field
    references = [kit.json_of(folder / "reference.json") for folder in (out, home / "two")]
    for name, loss in references[0]["losses"].items():
        assert math.isclose(references[1]["losses"][name], loss, rel_tol=1e-5)
    ours, theirs = (load_file(f / "model" / "model.safetensors") for f in (home / "two", out))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert float((ours[name] - tensor).abs().max()) < 1e-5, name


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on_to_the_bit(
    home: Path, told: list[dict[str, Any]]
) -> None:
    stopped = {"status": "interrupted", "step": 6, "steps": 12, "signal": 15}
    assert [one["stopped"] for one in told] == [stopped, stopped]
    assert [one["resumed"] for one in told] == ["done", "done"]
    assert kit.files_of(home / "again") == kit.files_of(home / "two")


def test_a_loss_that_is_not_finite_in_one_process_ends_both_alike(
    home: Path, told: list[dict[str, Any]]
) -> None:
    assert told[0]["bad"] == told[1]["bad"]
    assert "DataError: the loss at step " in told[0]["bad"]
    assert "law (few/law.jsonl:8)" in told[0]["bad"]
    assert not (home / "bad" / "manifest.json").exists()


def test_rows_that_are_not_there_are_told_alike(told: list[dict[str, Any]]) -> None:
    assert told[0]["lost"] == told[1]["lost"]
    assert "rows/lost.jsonl" in told[0]["lost"]


def test_the_command_line_of_two_processes_speaks_once(home: Path) -> None:
    done = torchrun("-m", "lamina", "tune", home / "bad.yaml", "--out", home / "bad by command")
    assert done.returncode == 1  # torchrun's own
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "is not finite, in law (few/law.jsonl:8)" in done.stderr
    assert done.stderr.count("Traceback") <= 1  # torchrun's own
    assert "exitcode  : 2" in done.stderr
