"""Forward passes for hooks: shared out over processes, no logits, in the dtype of the model."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lamina.engine import parallel
from lamina.ila.block_influence import block_influence
from lamina.ila.forwards import passes
from lamina.ila.norms import lora_drop

sys.path.append(str(Path(__file__).parent))

from scored_pico import adapted_pico, batches, pico


def test_logits_cost_nothing_and_each_batch_is_run_once() -> None:
    model = pico()
    seen: list[tuple[int, ...]] = []
    model.lm_head.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape)))
    masks = list(passes(model, batches()))
    assert [mask.sum().item() for mask in masks] == [21, 8, 18]
    assert [shape[1] for shape in seen] == [0, 0, 0]


@pytest.mark.parametrize("measure", [block_influence, lora_drop])
def test_the_sums_of_two_processes_are_those_of_one(
    measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted_pico()
    wanted = measure(model, batches())
    shares: list[np.ndarray] = []

    def total(sums: np.ndarray) -> np.ndarray:
        shares.append(sums.copy())
        return np.sum(shares, axis=0)

    monkeypatch.setattr(parallel, "total", total)
    monkeypatch.setattr(parallel, "world", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        found = measure(model, batches())
    assert found == pytest.approx(wanted, rel=1e-9)
    assert [share[-1] for share in shares] == [39, 8]


@pytest.mark.parametrize("measure", [block_influence, lora_drop])
def test_a_base_in_bfloat16_gives_nearly_the_same(measure: Any) -> None:
    wanted = measure(adapted_pico(), batches())
    model = adapted_pico()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    found = measure(model, batches())
    assert found == pytest.approx(wanted, rel=0.1, abs=0.02)
