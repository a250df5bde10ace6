"""A checkpoint is whole, or it is not trained from."""

import json
from pathlib import Path

import pytest

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine.state import (
    Identity,
    MixtureState,
    check_fits,
    latest,
    read_sealed,
    rotate,
    seal,
)

NOW = Identity(data="d", recipe="r", model="m", world=1)


def state(step: int = 10, **changes: object) -> MixtureState:
    values: dict[str, object] = {
        "step": step,
        "window": step // 5,
        "seed": 0,
        "weights": {"law": 0.25, "code": 0.75},
        "cursors": {"law": 3, "code": 9},
        "owed": {"law": 0.1, "code": -0.1},
        "sizes": {"law": 7, "code": 20},
        "world": 1,
        "window_steps": 5,
        "window_rows": 20,
        "unit": "tokens",
        "data": "d",
        "recipe": "r",
        "model": "m",
        "train_sums": {"law": 0.1 + 0.2, "code": 1e-300},
        "train_tokens": {"law": 3, "code": 4},
        "steering": {"memory": {"x": 1 / 3}},
    }
    return MixtureState.model_validate(values | changes)


def checkpoint(folder: Path, step: int) -> Path:
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights" * step)
    (made / "optimizer.pt").write_bytes(b"moments")
    seal(made, state(step))
    return made


def test_a_sealed_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    found = read_sealed(checkpoint(tmp_path, 10))
    assert found.model_copy(update={"files": {}}) == state(10)
    assert set(found.files) == {"model.safetensors", "optimizer.pt"}


def test_the_newest_whole_checkpoint_is_taken_and_half_written_ones_are_told(
    tmp_path: Path,
) -> None:
    checkpoint(tmp_path, 5)
    newest = checkpoint(tmp_path, 10)
    (tmp_path / "checkpoint-15").mkdir()
    (tmp_path / "checkpoint-15" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".writing" / "checkpoint-20").mkdir(parents=True)
    told: list[str] = []
    found = latest(tmp_path, told.append)
    assert found is not None
    assert found[0] == newest
    assert [line for line in told if "checkpoint-15 is half-written" in line] == told != []
    assert not (tmp_path / ".writing").exists()


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert latest(tmp_path, lambda line: None) is None


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda f: f.write_bytes(b"weightsweights"[::-1]), "does not match its checksum"),
        (lambda f: f.write_bytes(b"short"), "has 5 bytes, not 14"),
        (lambda f: f.unlink(), "is missing"),
    ],
    ids=["flipped", "cut", "gone"],
)
def test_a_damaged_checkpoint_is_refused_with_the_file(tmp_path: Path, harm, what: str) -> None:
    made = checkpoint(tmp_path, 2)
    harm(made / "model.safetensors")
    with pytest.raises(CheckpointError, match=what) as told:
        latest(tmp_path, lambda line: None)
    assert "model.safetensors" in str(told.value)
    assert "Delete the folder" in str(told.value)


def test_a_damaged_seal_is_refused(tmp_path: Path) -> None:
    made = checkpoint(tmp_path, 2)
    values = json.loads((made / "mixture.json").read_text())
    del values["cursors"]
    (made / "mixture.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="cursors"):
        read_sealed(made)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100):
        checkpoint(tmp_path, step)
    rotate(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-15"]


@pytest.mark.parametrize(
    ("now", "word", "switch"),
    [
        (Identity("other", "r", "m", 1), "the rows are others", "data"),
        (Identity("d", "other", "m", 1), "the recipe was changed", "recipe"),
        (Identity("d", "r", "m", 2), "1 processes made it, now there are 2", "processes"),
    ],
    ids=["data", "recipe", "processes"],
)
def test_a_change_is_refused_unless_its_switch_is_there(
    now: Identity, word: str, switch: str
) -> None:
    with pytest.raises(RecipeError, match=word) as told:
        check_fits(state(7, window=1), now, frozenset())
    assert f"--allow-changed {switch}" in str(told.value)
    assert check_fits(state(7, window=1), now, frozenset({switch}))


def test_another_model_is_refused_whatever_is_allowed() -> None:
    now = Identity("d", "r", "other", 1)
    with pytest.raises(RecipeError, match="another one"):
        check_fits(state(), now, frozenset({"data", "recipe", "processes"}))


def test_all_changes_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as told:
        check_fits(state(7, window=1), Identity("x", "y", "m", 3), frozenset())
    assert all(word in str(told.value) for word in ("rows", "recipe", "processes"))


def test_another_number_of_processes_is_fine_between_windows() -> None:
    assert check_fits(state(10), Identity("d", "r", "m", 2), frozenset()) == []
