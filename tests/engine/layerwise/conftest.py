"""A pico model, three domains of random tokens, and whole runs of it with a layer-wise tuner."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lamina.core.domains import DomainLosses
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.data.pack import pack
from lamina.engine.layerwise.ways import tuner_of
from lamina.engine.layerwise_recipe import LayerwiseSection
from lamina.engine.load import quiet
from lamina.engine.recipe import TrainSection
from lamina.engine.run import Finished, run_windows
from lamina.engine.state import Identity
from lamina.engine.trainer import ClosedWindow, NextWindow

SIZES = {"law": 40, "code": 60}


def _examples(seed: int, count: int, low: int) -> Examples:
    draws = np.random.default_rng(seed)
    lengths = draws.integers(6, 20, count)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.ones(starts[-1], dtype=bool)
    trained[starts[:-1]] = False
    return Examples(
        ids=draws.integers(low, low + 20, starts[-1]).astype(np.int32),
        trained=trained,
        starts=starts,
        num_bytes=lengths.astype(np.int64),
        places=tuple(f"rows.jsonl:{number + 1}" for number in range(count)),
    )


def _domains() -> dict[str, DomainData]:
    return {
        name: DomainData(
            name=name,
            train=pack(_examples(number, size, 4 + 20 * number), max_length=32),
            heldout=_examples(100 + number, 6, 4 + 20 * number),
            report={},
            fingerprint=name,
        )
        for number, (name, size) in enumerate(SIZES.items())
    }


def _pico(*, rank: int = 0, **changes: Any) -> Any:
    """A Llama of four blocks; with a rank, frozen under a LoRA adapter on all linear modules."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    values = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    model = LlamaForCausalLM(LlamaConfig(**(values | changes)))
    if not rank:
        return model
    with quiet():
        return get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear"))


class _Even:
    """The same weights in every window."""

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        return NextWindow(dict.fromkeys(SIZES, 0.5))

    def close(self, closed: ClosedWindow) -> NextWindow:
        return NextWindow(dict.fromkeys(SIZES, 0.5))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass
class Done:
    """A run that ended."""

    finished: Finished
    model: Any
    tuner: Any

    @property
    def weights(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())


def _run(
    folder: Path,
    section: Mapping[str, Any] | None,
    *,
    model: Any = None,
    tuner: Any = None,
    resume: bool = False,
    **train: Any,
) -> Done:
    """Six steps in two windows, with a checkpoint after every one."""
    if model is None:
        model = _pico(rank=4 if section and section["way"] == "prilora" else 0)
    if tuner is None and section is not None:
        tuner = tuner_of(LayerwiseSection.model_validate(section), seed=0)
    values = {
        "method": "full",
        "windows": 2,
        "window_steps": 3,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": (),
        "save_every": 1,
        "keep_checkpoints": 99,
    }
    folder.mkdir(parents=True, exist_ok=True)
    finished = run_windows(
        model,
        _domains(),
        TrainSection.model_validate(values | train),
        steering=_Even(),
        folder=folder,
        identity=Identity("data", "recipe", "model", 1),
        pad_id=0,
        resume=resume,
        layerwise=tuner,
    )
    return Done(finished, model, tuner)


@pytest.fixture(scope="session")
def pico() -> Callable[..., Any]:
    return _pico


@pytest.fixture(scope="session")
def run() -> Callable[..., Done]:
    return _run
