"""Whole runs that keep their prefix: the same losses, the same bits when resumed."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lamina.core.domains import DomainLosses
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.data.pack import pack
from lamina.engine.load import quiet
from lamina.engine.prefix import blocks_of
from lamina.engine.prefix_cache import PrefixAt
from lamina.engine.recipe import TrainSection
from lamina.engine.run import run_windows
from lamina.engine.state import Identity
from lamina.engine.trainer import ClosedWindow, NextWindow

NAMES = ("law", "code")


def examples(seed: int, count: int) -> Examples:
    draws = np.random.default_rng(seed)
    lengths = draws.integers(6, 14, count)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.ones(starts[-1], dtype=bool)
    trained[starts[:-1]] = False
    return Examples(
        ids=draws.integers(4, 60, starts[-1]).astype(np.int32),
        trained=trained,
        starts=starts,
        num_bytes=lengths.astype(np.int64),
        places=tuple(f"rows.jsonl:{number + 1}" for number in range(count)),
    )


DATA = {
    name: DomainData(name, pack(examples(n, 20), max_length=32), examples(9 + n, 6), {}, name)
    for n, name in enumerate(NAMES)
}
READ = tuple(part for one in DATA.values() for part in (one.train.examples, one.heldout))


class Still:
    """Equal weights; remembers every loss it was told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        self.told += losses.losses().values()
        return NextWindow(dict.fromkeys(NAMES, 0.5))

    def close(self, closed: ClosedWindow) -> NextWindow:
        self.told += [*closed.losses.losses().values(), *map(float, closed.train_loss.values())]
        return NextWindow(dict.fromkeys(NAMES, 0.5))

    def state(self) -> dict[str, Any]:
        return {"told": self.told}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.told = list(state["told"])


def adapted() -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    targets = [f"layers.{block}.mlp.up_proj" for block in (2, 3)]
    with quiet():
        adapter = LoraConfig(r=4, target_modules=targets, lora_dropout=0.1, task_type="CAUSAL_LM")
        return get_peft_model(LlamaForCausalLM(config), adapter).train()


def run(folder: Path, *, kept: Path | None = None, resume: bool = False, **train: Any) -> Any:
    steering, model = Still(), adapted()
    section = TrainSection.model_validate(
        {
            "windows": 2, "window_steps": 3, "batch_size": 2, "learning_rate": 1e-2,
            "report_to": (), "save_every": 2, "keep_checkpoints": 99, **train,
        }
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[int] = []
    blocks_of(model)[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    run_windows(
        model, DATA, section, steering=steering, folder=folder, resume=resume, pad_id=0,
        identity=Identity("data", "recipe", "model", 1),
        prefix=None if kept is None else PrefixAt(kept, "model", READ),
    )  # fmt: skip
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return steering.told, weights, len(runs)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "checkpointing"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run without a cache, one with, and where they stand."""
    home = tmp_path_factory.mktemp("runs")
    train = {"gradient_checkpointing": request.param}
    whole = run(home / "whole", **train)
    kept = run(home / "kept", kept=home / "prefix", **train)
    return whole, kept, home, train


def test_the_losses_are_those_of_a_run_without(pair: Any) -> None:
    (whole, _, runs), (kept, _, fewer), home, _ = pair
    assert len(whole) == 2 + 2 * 4
    assert kept == pytest.approx(whole, rel=1e-5)
    assert (home / "prefix" / "states.bin").is_file()
    assert fewer < runs  # what is left are probes and the building


@pytest.mark.parametrize("deleted", [False, True], ids=["as it is", "made anew"])
def test_a_resumed_run_has_the_same_bits(pair: Any, tmp_path: Path, deleted: bool) -> None:
    _, (told, weights, _), home, train = pair
    shutil.copytree(home / "kept" / "checkpoint-2", tmp_path / "checkpoints" / "checkpoint-2")
    if not deleted:
        shutil.copytree(home / "prefix", tmp_path / "prefix")
    again = run(tmp_path / "checkpoints", kept=tmp_path / "prefix", resume=True, **train)
    assert again[:2] == (told, weights)


def test_checkpointing_hooks_no_embedding(pair: Any) -> None:
    """Without the cache, too: the frozen blocks run once a pass, not again going backward."""
    (_, _, runs), _, home, train = pair
    plain = run(home / "again", gradient_checkpointing=not train["gradient_checkpointing"])
    assert plain[2] == runs
