"""What all layer-wise tuners have in common: a run that was stopped goes on to the bit."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine.layerwise.interface import FILE, check_whole, load_state
from lamina.engine.layerwise.spider import Spider
from lamina.engine.layerwise_recipe import LayerwiseSection

SECTIONS = {
    "lisa": {"way": "lisa", "period": 2, "layers": 1},
    "spider": {"way": "spider"},
    "prilora": {"way": "prilora", "every": 2},
}


@pytest.fixture(scope="module", params=SECTIONS)
def whole(
    request: pytest.FixtureRequest,
    run: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Any, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, run(folder, SECTIONS[request.param]), folder


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_a_run_that_goes_on_has_the_same_bits(
    whole: tuple[str, Any, Path], run: Callable[..., Any], tmp_path: Path, step: int
) -> None:
    way, done, folder = whole
    name = f"checkpoint-{step}"
    shutil.copytree(folder / name, tmp_path / name)
    again = run(tmp_path, SECTIONS[way], resume=True)
    assert again.finished.resumed_from == step
    assert again.weights == done.weights
    if step < 6:
        for file in sorted(p.name for p in (folder / "checkpoint-6").iterdir()):
            ours, theirs = (home / "checkpoint-6" / file for home in (tmp_path, folder))
            assert ours.read_bytes() == theirs.read_bytes(), file


def test_the_same_recipe_gives_the_same_bits(
    whole: tuple[str, Any, Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    way, done, _ = whole
    assert run(tmp_path, SECTIONS[way], save_every=0).weights == done.weights


def test_it_is_another_tuning_than_the_plain_one(
    whole: tuple[str, Any, Path], run: Callable[..., Any], pico: Callable[..., Any], tmp_path: Path
) -> None:
    way, done, _ = whole
    plain = run(tmp_path, None, model=pico(rank=4 if way == "prilora" else 0))
    assert plain.weights != done.weights


def test_what_was_trainable_is_so_again(whole: tuple[str, Any, Path]) -> None:
    way, done, _ = whole
    trained = {name for name, p in done.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(("lora_" in name) == (way == "prilora") for name in trained)
    assert way == "prilora" or len(trained) == len(list(done.model.named_parameters()))


def test_a_state_of_another_tuner_is_refused(
    run: Callable[..., Any], pico: Callable[..., Any], tmp_path: Path
) -> None:
    tuner = Spider()
    tuner.begin(pico())
    with pytest.raises(CheckpointError, match="39 tensors are missing, unknown or of another"):
        load_state(tuner, tmp_path)
    run(tmp_path, SECTIONS["spider"], windows=1, window_steps=1)
    state = load_file(tmp_path / "checkpoint-1" / FILE)
    assert len(state) == 39
    state["model.norm.weight"] = torch.zeros(3)
    save_file(state, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"1 tensors .* \(model\.norm\.weight\)"):
        load_state(tuner, tmp_path)


def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    section = LayerwiseSection.model_validate("spider")
    check_whole(section)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_whole(None)
    with pytest.raises(RecipeError, match="way `spider` compares values inside whole tensors"):
        check_whole(section)
