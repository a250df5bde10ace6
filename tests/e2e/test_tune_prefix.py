"""`plan.cache_prefix` in a whole tuning: the losses of a run without it, resumed to the bit."""

from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.core.errors import RecipeError
from lamina.jobs.tune import run_tune
from lamina.jobs.watch import Watcher

TOP = {"rule": "last", "share": 0.5}
TRAIN = {"method": "lora", "rank": 4}


class Listening(Watcher):
    def __init__(self, stop_at: int | None = None) -> None:
        self.lines: list[str] = []
        self.done, self.stop_at = 0, stop_at

    def tell(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.done == self.stop_at:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_home(tmp_path_factory.mktemp("home"))


def tune(home: Path, out: str, *, plan: dict[str, Any], **options: Any) -> tuple[Path, Any]:
    return kit.tune(home, out, options=options, train=TRAIN, plan=plan)


@pytest.fixture(scope="module")
def kept(home: Path) -> tuple[Path, Any, list[str]]:
    watch = Listening()
    return *tune(home, "kept", plan={**TOP, "cache_prefix": True}, watch=watch), watch.lines


def test_losses_are_those_of_a_run_without(home: Path, kept: tuple[Path, Any, list[str]]) -> None:
    plain, manifest = tune(home, "plain", plan=TOP)
    out, with_it, lines = kept
    assert any("keeping the outputs of the frozen blocks 0 to 0" in line for line in lines)
    for one, other in zip(kit.lines_of(plain), kit.lines_of(out), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["tokens"] == one["tokens"]
    assert with_it["results"]["end"] == pytest.approx(manifest["results"]["end"], rel=1e-5)


def test_it_is_deleted_at_the_end(kept: tuple[Path, Any, list[str]]) -> None:
    out, manifest, _ = kept
    assert not (out / "prefix").exists()
    assert not list(out.glob(".*"))
    assert not [name for name in manifest["outputs"] if "prefix" in name]


def test_a_resumed_run_reads_it_again_and_has_the_same_bits(
    home: Path, kept: tuple[Path, Any, list[str]]
) -> None:
    plan = {**TOP, "cache_prefix": True}
    with pytest.raises(KeyboardInterrupt):
        tune(home, "stopped", plan=plan, watch=Listening(stop_at=5))
    assert (home / "stopped" / "prefix" / "prefix.json").is_file()
    watch = Listening()
    run_tune(home / "stopped.yaml", home / "stopped", resume=True, watch=watch)
    assert any("stand in" in line for line in watch.lines)
    assert kit.files_of(home / "stopped") == kit.files_of(kept[0])


def test_a_plan_that_begins_at_the_bottom_has_nothing_to_keep(home: Path) -> None:
    with pytest.raises(RecipeError, match="nothing is frozen below"):
        tune(home, "all", plan={"rule": "all", "cache_prefix": True})
    assert not (home / "all").exists()


def test_blocks_that_take_turns_cannot_have_a_prefix(home: Path) -> None:
    with pytest.raises(RecipeError, match="`lisa` tunes other blocks from time to time"):
        kit.tune(home, "lisa", plan={**TOP, "cache_prefix": True}, layerwise={"way": "lisa"})
