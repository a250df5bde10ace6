"""A tune run that is stopped goes on to the bit; checkpoints that do not fit are refused."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.jobs.watch import Watcher

TRAIN = {"windows": 3, "window_steps": 8, "save_every": 3, "keep_checkpoints": 99}
"""24 steps; 6 and 12 are in mid-window."""
FOSTER = {"policy": "foster", "reference": {"way": "fraction"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = kit.write_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def recipe(home: Path) -> Path:
    return kit.write_recipe(home, train=TRAIN, mixture=FOSTER)


@pytest.fixture(scope="module")
def whole(home: Path, recipe: Path) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    kit.run_tune(recipe, home / "whole")
    return kit.files_of(home / "whole")


class Stopper(Watcher):
    """Sends this process a signal when a step is done."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.done, self.step, self.numbers = 0, step, numbers
        self.told: list[str] = []

    def stage(self, name: str, total_bytes: int) -> None:
        self.done = 0

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.done == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)

    def tell(self, line: str) -> None:
        self.told.append(line)


@pytest.fixture(scope="module")
def stopped(home: Path, recipe: Path, whole: dict[str, bytes]) -> Path:
    """A run that was stopped after its step 5, and 6 steps of it done: in mid-window."""
    watch = Stopper(5, signal.SIGTERM)
    told = kit.run_tune(recipe, home / "stopped", watch=watch)
    assert told["results"] == {"status": "interrupted", "step": 6, "steps": 24, "signal": 15}
    assert any("stopping after this step" in line for line in watch.told)
    return home / "stopped"


@pytest.fixture
def half(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(kit.shutil.copytree(stopped, tmp_path / "half"))


# ---- signals -----------------------------------------------------------------------------------


def start(recipe: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    import torch

    return subprocess.Popen(
        [sys.executable, "-m", "lamina", "tune", str(recipe), "--out", str(out), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"]
)
def test_a_signal_leaves_a_checkpoint_and_the_way_to_go_on(
    home: Path, recipe: Path, whole: dict[str, bytes], number: int, code: int
) -> None:
    out = home / f"by {code}"
    run = start(recipe, out, "-s", "train.log_every=5")
    while (
        run.poll() is None and not (out / "checkpoints" / "checkpoint-3" / "mixture.json").exists()
    ):
        time.sleep(0.001)
    run.send_signal(number)
    _, told = run.communicate()
    if run.returncode == 0:
        pytest.skip("the run was done before it could be stopped")
    assert run.returncode == code, told
    last = told.splitlines()[-1]
    assert last.startswith("stopped at step ")
    again = f"lamina tune {recipe} --out '{out}' --resume -s train.log_every=5"
    assert last.endswith(f"of 24. Go on with: {again}")
    step = int(last.split()[3])
    assert 3 < step < 24
    assert (out / "checkpoints" / f"checkpoint-{step}" / "mixture.json").is_file()
    assert not (out / "manifest.json").exists()
    kit.run_tune(recipe, out, resume=True)
    assert kit.files_of(out) == whole


def test_a_second_ctrl_c_stops_at_once(home: Path, recipe: Path, whole: dict[str, bytes]) -> None:
    out = home / "at once"
    with pytest.raises(KeyboardInterrupt):
        kit.run_tune(recipe, out, watch=Stopper(4, signal.SIGINT, signal.SIGINT))
    folders = {path.name for path in (out / "checkpoints").iterdir()}
    assert folders == {"checkpoint-3"}
    kit.run_tune(recipe, out, resume=True)
    assert kit.files_of(out) == whole


def test_a_run_is_stopped_while_it_tunes_for_a_reference(
    home: Path, lamina: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib

    from lamina.cli import progress

    reference = {"way": "tuned", "windows": 1, "window_steps": 6}
    changes = {
        "domains": {name: f"rows/{name}.jsonl" for name in ("law", "code")},
        "train": {"windows": 1, "window_steps": 4, "save_every": 4},
        "mixture": {"policy": "foster", "reference": reference},
    }
    monkeypatch.setenv("LAMINA_CACHE", str(home / "cache of one"))
    undisturbed, _ = kit.tune(home, "referred", **changes)
    path = kit.write_recipe(home, "stopped-early.yaml", **changes)
    out = home / "stopped-early"
    monkeypatch.setenv("LAMINA_CACHE", str(home / "cache of two"))
    with monkeypatch.context() as patch:
        watch = Stopper(5, signal.SIGTERM)
        patch.setattr(progress, "progress_watcher", lambda: contextlib.nullcontext(watch))
        told = lamina("tune", path, "--out", out)
    assert told.code == 143
    assert f"Go on with: lamina tune {path} --out {out} --resume" in told.err
    assert "not finished" in lamina("tune", path, "--out", out).err
    assert lamina("tune", path, "--out", out, "--resume").code == 0
    assert kit.files_of(out) == kit.files_of(undisturbed)


# ---- going on ----------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_to_the_bit(
    stopped: Path, home: Path, recipe: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = home / "goes on"
    kit.shutil.copytree(stopped, out)
    manifest = kit.run_tune(recipe, out, resume=True)
    assert kit.files_of(out) == whole
    assert manifest["status"] == "done"
    events = [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert events == ["begun", "data", "trained", "resumed", "data", "trained", "written"]


def test_a_run_goes_on_by_its_own_recipe(
    stopped: Path, home: Path, whole: dict[str, bytes]
) -> None:
    out = home / "by its own"
    kit.shutil.copytree(stopped, out)
    kit.run_tune(out / "recipe.yaml", out, resume=True)
    found = kit.files_of(out)
    told_paths = {"data.json", "model/README.md"}  # the way from the recipe to its rows
    assert {name for name in whole if found[name] != whole[name]} <= told_paths
    assert set(found) == set(whole)


def test_resume_begins_where_there_is_nothing(home: Path) -> None:
    short = {"windows": 1, "window_steps": 1}
    _, manifest = kit.tune(home, "nothing", train=short, options={"resume": True})
    assert manifest["status"] == "done"


def refusal(lamina: Any, half: Path, recipe: Path, *flags: object) -> str:
    """The message of a run that may not go on; the unfinished run is as it was."""
    before = {p: p.read_bytes() for p in half.rglob("*") if p.is_file()}
    told = lamina("tune", recipe, "--out", half, *flags)
    assert told.code == 2, told.err
    assert told.err.count("error: ") == 1
    assert {p: p.read_bytes() for p in half.rglob("*") if p.is_file()} == before
    return told.err


def test_an_unfinished_run_is_not_begun_again(lamina: Any, half: Path, recipe: Path) -> None:
    told = refusal(lamina, half, recipe)
    assert "--resume" in told
    assert "--overwrite" in told


def test_another_recipe_is_refused_or_allowed(
    lamina: Any, half: Path, recipe: Path, home: Path
) -> None:
    told = refusal(lamina, half, recipe, "--resume", "-s", "train.learning_rate=0.001")
    assert "the recipe was changed" in told
    assert "--allow-changed recipe" in told
    flags = ("--resume", "--allow-changed", "recipe", "-s", "train.learning_rate=0.001")
    done = lamina("tune", recipe, "--out", half, *flags)
    assert done.code == 0, done.err
    assert "not the same run any more: the recipe was changed" in done.err


def test_other_rows_are_refused(
    lamina: Any, half: Path, recipe: Path, home: Path, tmp_path: Path
) -> None:
    kit.write_rows(tmp_path / "law.jsonl", kit.rows_of("law", 60, seed=5))
    path = tmp_path / "law.jsonl"
    told = refusal(lamina, half, recipe, "--resume", "-s", f"domains.law={path}")
    assert "--allow-changed data" in told
    assert "recipe" not in told.replace("--allow-changed", "").replace("recipe.yaml", "")


def test_another_model_is_refused(lamina: Any, half: Path, recipe: Path, tmp_path: Path) -> None:
    kit.write_pico(tmp_path / "other", intermediate_size=48)
    flags = ("--resume", "--allow-changed", "recipe", "--allow-changed", "data")
    told = refusal(lamina, half, recipe, *flags, "-s", f"model={tmp_path / 'other'}")
    assert "the model to tune is another one" in told


def test_other_processes_in_mid_window_are_refused(
    lamina: Any, half: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = half / "checkpoints" / "checkpoint-6" / "mixture.json"
    file.write_text(file.read_text().replace('"world": 1', '"world": 2'))
    told = refusal(lamina, half, recipe, "--resume")
    assert "2 processes made it, now there are 1" in told
    assert "--allow-changed processes" in told


def test_a_damaged_checkpoint_is_refused_until_it_is_deleted(
    lamina: Any, half: Path, recipe: Path, whole: dict[str, bytes]
) -> None:
    folder = half / "checkpoints" / "checkpoint-6"
    file = folder / "optimizer.pt"
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 1
    file.write_bytes(bytes(raw))
    told = lamina("tune", recipe, "--out", half, "--resume")
    assert told.code == 2
    assert "optimizer.pt does not match its checksum" in told.err
    assert "Delete the folder to go on from the one before it" in told.err
    (folder / "mixture.json").write_text("{")
    assert "damaged" in refusal(lamina, half, recipe, "--resume")
    kit.shutil.rmtree(folder)
    assert lamina("tune", recipe, "--out", half, "--resume").code == 0


def test_a_half_written_checkpoint_is_left_out(half: Path, recipe: Path, lamina: Any) -> None:
    newest = half / "checkpoints" / "checkpoint-6"
    kit.shutil.copytree(newest, half / "checkpoints" / "checkpoint-7")
    (half / "checkpoints" / "checkpoint-7" / "mixture.json").unlink()
    (half / "checkpoints" / ".writing" / "checkpoint-8").mkdir(parents=True)
    told = lamina("tune", recipe, "--out", half, "--resume")
    assert told.code == 0, told.err
    assert "checkpoint-7 is half-written and is left out" in told.err
