"""FSDP2 with one process on a CPU: what a sharded model needs differs, its numbers do not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from lamina.core.errors import RecipeError
from lamina.engine.collate import PackedRow, collate
from lamina.engine.distil import starting_model
from lamina.engine.heldout import heldout_losses
from lamina.engine.load import quiet
from lamina.engine.losses import LossHead
from lamina.engine.parallel import check_can_shard
from lamina.engine.tunable import save_model, whole_weights


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def sharded(model: Any, mesh: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    for block in [m for m in model.modules() if type(m).__name__.endswith("DecoderLayer")]:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def adapted(network: Callable[..., Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    with quiet():
        config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(0)
        return get_peft_model(network(), config)


def held_out(rows: list[PackedRow]) -> Any:
    """The rows, one example each."""
    starts = np.concatenate([[0], np.cumsum([len(row.ids) for row in rows])])
    ids = np.concatenate([row.ids for row in rows])
    return SimpleNamespace(
        ids=ids, trained=np.concatenate([r.trained for r in rows]), starts=starts
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_sharded_model_has_the_losses_gradients_and_weights_of_a_whole_one(
    network: Callable[..., Any], rows: list[PackedRow], mesh: Any, tmp_path: Path, lora: bool
) -> None:
    models = [adapted(network) if lora else network() for _ in range(2)]
    heads = [LossHead(model, inside=True) for model in models]
    teachers = [starting_model(model) if lora else None for model in models]
    sharded(models[0], mesh)
    batch = collate(rows, pad_id=0, flatten=False)
    measured = [
        heldout_losses(model, head, held_out(rows)).sums
        for model, head in zip(models, heads, strict=True)
    ]
    assert measured[0].equal(measured[1])
    some = torch.arange(len(batch["tokens"])) == 1
    for chosen in (some, torch.zeros_like(some)):
        found = [
            head(model, batch, teacher=teacher, chosen=chosen)
            for head, model, teacher in zip(heads, models, teachers, strict=True)
        ]
        assert found[0].loss == found[1].loss
        assert found[0].kl == found[1].kl
        for sums in found:
            (sums.loss + sums.kl).backward()
    grads = [
        {n: p.grad for n, p in model.named_parameters() if p.requires_grad} for model in models
    ]
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert grad.full_tensor().equal(grads[1][name]), name
    for name, model in zip(("sharded", "whole"), models, strict=True):
        save_model(model, tmp_path / name, dtype=None, weights=whole_weights(model))
    file = "adapter_model.safetensors" if lora else "model.safetensors"
    saved, wanted = (load_file(tmp_path / name / file) for name in ("sharded", "whole"))
    assert saved.keys() == wanted.keys()
    assert all(saved[name].equal(wanted[name]) for name in wanted)


def test_the_teacher_is_run_where_no_example_is_chosen(
    network: Callable[..., Any], rows: list[PackedRow]
) -> None:
    """Another process may have chosen some, and would wait for this one's part of the weights."""
    model = adapted(network)
    batch = collate(rows, pad_id=0, flatten=False)
    none = torch.zeros(len(batch["tokens"]), dtype=torch.bool)
    runs: list[int] = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    for inside, wanted in ((True, 2), (False, 1)):
        head = LossHead(model, inside=inside)
        runs.clear()
        assert head(model, batch, teacher=starting_model(model), chosen=none).kl == 0
        assert len(runs) == wanted


def test_without_sharding_there_is_nothing_to_gather(network: Callable[..., Any]) -> None:
    assert whole_weights(network()) is None


def test_the_first_version_of_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RecipeError, match="fsdp_version: 2"):
        check_can_shard()
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_can_shard()
