"""A ranking that is stopped goes on to the same bytes; other folders are not touched."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rank_kit as ranks
import tune_kit as kit

FLAGS = (*ranks.DATA, "--beside", "leave_one_out", "--beside", "shapley")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ranks.home_in(tmp_path_factory.mktemp("home")) as folder:
        yield folder


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C as at a terminal: a shell that starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def watch(home: Path) -> ranks.Stopper:
    """What a run that nothing disturbed told of its stages."""
    watch = ranks.Stopper("nothing", 0)
    with ranks.watched_by(watch):
        ranks.ranked("model", home / "whole", *FLAGS)
    return watch


@pytest.fixture(scope="module")
def whole(home: Path, watch: ranks.Stopper) -> dict[str, bytes]:
    return kit.files_of(home / "whole")


def stopped(out: Path, watch: ranks.Stopper, *flags: object) -> str:
    """The last line of a run that a signal ended."""
    with ranks.watched_by(watch):
        told = ranks.rank("model", out, *FLAGS, *flags)
    assert told.code == 128 + watch.number, told.err
    assert not (out / "manifest.json").exists()
    return told.err.splitlines()[-1]


# ---- progress ----------------------------------------------------------------------------------


def test_every_stage_that_lasts_says_how_long_it_is(watch: ranks.Stopper) -> None:
    known = dict(watch.stages)
    assert {name for name, total in known.items() if not total} == {
        "reading the data",
        "loading the model",
    }
    assert known["stage 1: LoRA on all linear modules"] == 12
    assert known["taylor, seed 2 of 2"] == 6
    assert known["leave one out, seed 1 of 2"] == 14
    assert known["shapley, seed 1 of 2"] == 8


@pytest.mark.parametrize("way", ["integrate", "learn", "sparse", "lora_drop", "block_influence"])
def test_the_length_that_is_told_is_the_length(
    home: Path, whole: dict[str, bytes], way: str
) -> None:
    assert whole
    counted = Counted()
    with ranks.watched_by(counted):
        ranks.ranked("whole/adapter", home / f"long {way}", *ranks.DATA, "--way", way)
    assert counted.lengths
    assert all(done == total for done, total in counted.lengths.values()), counted.lengths


class Counted(ranks.Watcher):
    """Stage -> [steps told, steps promised]."""

    def __init__(self) -> None:
        self.lengths: dict[str, list[int]] = {}
        self.now = ""

    def stage(self, name: str, total_bytes: int) -> None:
        self.now = name
        if total_bytes:
            self.lengths[name] = [0, total_bytes]

    def advance(self, num_bytes: int) -> None:
        self.lengths[self.now][0] += num_bytes


# ---- stopped -----------------------------------------------------------------------------------


def test_stopped_in_stage_one_it_goes_on_to_the_same_bytes(
    home: Path, whole: dict[str, bytes]
) -> None:
    out = home / "in stage one"
    last = stopped(out, ranks.Stopper("stage 1", 5))
    words = "lamina rank model --out '{}' --data rows/law.jsonl --data rows/code.jsonl --beside "
    assert last.startswith(f"stopped. Go on with: {words.format(out)}leave_one_out")
    assert "--beside shapley --resume -s data.max_length=96" in last
    assert (out / "checkpoints").is_dir()
    assert "not finished" in ranks.rank("model", out, *FLAGS).err
    ranks.ranked("model", out, *FLAGS, "--resume")
    assert kit.files_of(out) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "ctrl-c"])
def test_stopped_while_measuring_what_was_measured_is_kept(
    home: Path, whole: dict[str, bytes], number: int
) -> None:
    out = home / f"measuring {number}"
    last = stopped(out, ranks.Stopper("leave one out, seed 2", 3, number))
    assert last.startswith("stopped. Go on with: ")
    assert {path.name for path in (out / "measured").iterdir()} == {
        "taylor-0.json",
        "taylor-1.json",
        "leave_one_out-0.json",
    }
    watch = ranks.Stopper("nothing", 0)
    with ranks.watched_by(watch):
        ranks.ranked("model", out, *FLAGS, "--resume")
    stages = [name for name, _ in watch.stages]
    assert "taylor, seed 1 of 2" not in stages
    assert "leave one out, seed 1 of 2" not in stages
    assert "leave one out, seed 2 of 2" in stages
    assert kit.files_of(out) == whole
    assert not (out / "measured").exists()


def test_it_goes_on_by_its_own_recipe(home: Path, whole: dict[str, bytes]) -> None:
    out = home / "own recipe"
    stopped(out, ranks.Stopper("shapley, seed 1", 2))
    told = ranks.cli("rank", out / "recipe.yaml", "--out", out, "--resume")
    assert told.code == 0, told.err
    found = kit.files_of(out)
    assert found.keys() == whole.keys()
    for name in whole:  # but for the way from the recipe to its files
        assert found[name].replace(b"../", b"") == whole[name].replace(b"../", b""), name


def test_more_seeds_are_added_to_what_was_measured(home: Path) -> None:
    out = home / "more seeds"
    stopped(out, ranks.Stopper("leave one out, seed 1", 2))
    watch = ranks.Stopper("nothing", 0)
    with ranks.watched_by(watch):
        scores = ranks.ranked("model", out, *FLAGS, "--resume", "--seeds", 3)
    assert {f"seed_{n}" for n in range(3)} <= set(scores["columns"])
    assert [name for name, _ in watch.stages if name.startswith("taylor")] == [
        "taylor, seed 3 of 3"
    ]


def test_other_gates_measure_again(home: Path) -> None:
    out = home / "other gates"
    stopped(out, ranks.Stopper("leave one out, seed 1", 2))
    ranks.ranked("model", out, *FLAGS, "--resume", gates__batches=2)
    ranks.ranked("model", home / "other gates new", *FLAGS, gates__batches=2)
    assert kit.files_of(out) == kit.files_of(home / "other gates new")


def test_another_stage_one_is_refused(home: Path) -> None:
    out = home / "other rate"
    stopped(out, ranks.Stopper("stage 1", 5))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    told = ranks.rank("model", out, *FLAGS, "--resume", train__learning_rate=0.02)
    assert told.code == 2
    assert "the recipe was changed" in told.err
    assert "--allow-changed" not in told.err  # `rank` has no such flag
    told = ranks.rank("model", out, "--data", "rows/maths.jsonl", "--resume")
    assert "the rows are others" in told.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_anywhere_it_goes_on_to_the_same_bytes(home: Path, whole: dict[str, bytes]) -> None:
    out = home / "killed"
    marks = ("checkpoints/*/mixture.json", "adapter", "measured/taylor-1.json")
    hits = 0
    for mark in marks:
        flags = [str(word) for word in (*FLAGS, *ranks.settings(), "--resume")]
        run = subprocess.Popen(
            [sys.executable, "-m", "lamina", "rank", "model", "--out", str(out), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads())},
        )
        while run.poll() is None and next(out.glob(mark), None) is None:
            time.sleep(0.001)
        run.send_signal(signal.SIGKILL)
        hits += run.wait() == -signal.SIGKILL
    assert hits > 1, "too few kills hit a run"
    told = ranks.rank("model", out, *FLAGS, "--resume")
    assert told.code == 0, told.err
    assert kit.files_of(out) == whole
    assert not list(out.glob(".*"))


def threads() -> int:
    import torch

    return torch.get_num_threads()


# ---- folders that are there --------------------------------------------------------------------


def test_a_finished_ranking_is_only_told_by_resume(home: Path, whole: dict[str, bytes]) -> None:
    out = home / "whole"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    told = ranks.rank("model", out, *FLAGS, "--resume")
    assert told.code == 0
    assert "is a finished ranking: nothing is left to do" in told.err
    assert "Which modules of model matter" in told.out
    assert "--overwrite" in ranks.rank("model", out, *FLAGS).err
    both = ranks.rank("model", out, *FLAGS, "--resume", "--overwrite")
    assert both.code == 2
    assert "Give one of them" in both.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_overwrite_deletes_a_ranking_and_nothing_else(home: Path, whole: dict[str, bytes]) -> None:
    shutil.copytree(home / "whole", home / "old")
    ranks.ranked("model", home / "old", "--way", "snr", "--overwrite")
    assert not (home / "old" / "adapter").exists()
    _, manifest = kit.tune(home, "tuned", train={"windows": 1, "window_steps": 1})
    assert manifest["status"] == "done"
    (home / "mine").mkdir()
    (home / "mine" / "thesis.tex").write_text("years")
    before = kit.files_of(home / "tuned")
    for folder, word in (("tuned", "holds no rank run"), ("mine", "thesis.tex")):
        told = ranks.rank("model", home / folder, "--way", "snr", "--overwrite")
        assert told.code == 2
        assert word in told.err
    assert kit.files_of(home / "tuned") == before
    assert (home / "mine" / "thesis.tex").read_text() == "years"


def test_a_tuning_does_not_take_a_rankings_folder(home: Path, whole: dict[str, bytes]) -> None:
    recipe = kit.write_recipe(home)
    told = ranks.cli("tune", recipe, "--out", home / "whole", "--overwrite")
    assert told.code == 2
    assert "no tune run" in told.err
    assert kit.files_of(home / "whole") == whole
