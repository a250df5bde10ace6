"""Kept states: the same losses and gradients, in a folder that is whole or not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prefix_kit import (
    cache_of,
    checkpointed,
    examples,
    rows_of,
    step,
)

from lamina.core.errors import OutputError
from lamina.data.encode import Examples
from lamina.engine import prefix_cache
from lamina.engine.collate import collate
from lamina.engine.distil import starting_model
from lamina.engine.fast import attending_by_example
from lamina.engine.heldout import heldout_losses
from lamina.engine.losses import LossHead
from lamina.engine.prefix import (
    blocks_of,
    end_at_prefix,
    hidden_before,
)
from lamina.engine.prefix_cache import PrefixAt, PrefixCache, reading

# ---- from the disk


@pytest.mark.parametrize("layout", ["padded", "flat", "by example"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_losses_and_gradients_are_those_without_a_cache(
    adapted: Callable[..., Any], family: str, layout: str, tmp_path: Path
) -> None:
    model = adapted(family)
    data = examples()
    flat = layout != "padded"
    with attending_by_example(model) if layout == "by example" else reading(None, model) as fast:
        assert fast is (True if layout == "by example" else None)
        cache = cache_of(model, tmp_path / "prefix", data, flatten=flat)
        assert cache.block == 2
        for rows in (rows_of(data), rows_of(data)[1:2]):
            batch = collate(rows, pad_id=0, flatten=flat)
            loss, grads = step(model, batch)
            with cache.reading(model):
                cached_loss, cached = step(model, batch)
            assert cached_loss == pytest.approx(loss, rel=1e-5)
            for name, grad in grads.items():
                torch.testing.assert_close(cached[name], grad, rtol=1e-3, atol=1e-4)


def test_the_prefix_is_not_run_and_keeps_nothing(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    model, data = adapted(), examples()
    cache = cache_of(model, tmp_path / "prefix", data)
    batch = collate(rows_of(data), pad_id=0, flatten=False)
    head = LossHead(model)

    def counted() -> tuple[list[int], int]:
        run: list[int] = []
        saved: list[torch.Tensor] = []
        handles = [
            block.mlp.register_forward_hook(lambda *_, n=n: run.append(n))
            for n, block in enumerate(blocks_of(model))
        ]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            head(model, batch)
        for handle in handles:
            handle.remove()
        return run, len(saved)

    whole, kept = counted()
    with cache.reading(model):
        short, kept_with = counted()
    assert (whole, short) == ([0, 1, 2, 3], [2, 3])
    assert kept_with == kept  # what is frozen keeps nothing even when it runs


def test_an_example_that_is_not_kept_runs_the_whole_model(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    model, data, other = adapted(), examples(), examples(7)
    cache = cache_of(model, tmp_path / "prefix", data)
    batch = collate([rows_of(data)[0], rows_of(other)[0]], pad_id=0, flatten=False)
    assert cache.find(batch["input_ids"], batch["position_ids"]) is None
    loss, grads = step(model, batch)
    with cache.reading(model):
        found = step(model, batch)
    assert found[0] == loss
    assert all(found[1][name].equal(grad) for name, grad in grads.items())


def test_held_out_losses_and_a_teacher_read_it_too(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    model, data = adapted(), examples()
    cache = cache_of(model, tmp_path / "prefix", data)
    head, teacher = LossHead(model), starting_model(model)
    batch = collate(rows_of(data), pad_id=0, flatten=False)
    chosen = torch.arange(len(batch["tokens"])) > 3
    run: list[int] = []
    blocks_of(model)[0].mlp.register_forward_hook(lambda *_: run.append(0))
    before = heldout_losses(model, head, data).sums
    kl = head(model, batch, teacher=teacher, chosen=chosen).kl
    with cache.reading(model):
        run.clear()
        torch.testing.assert_close(heldout_losses(model, head, data).sums, before, rtol=1e-5,
                                   atol=1e-6)  # fmt: skip
        cached = head(model, batch, teacher=teacher, chosen=chosen).kl
        assert not run
    torch.testing.assert_close(cached, kl, rtol=1e-4, atol=1e-5)


def test_gradients_under_checkpointing(adapted: Callable[..., Any], tmp_path: Path) -> None:
    model, data = adapted(), examples()
    batch = collate(rows_of(data), pad_id=0, flatten=False)
    loss, grads = step(model, batch)
    cache = cache_of(model, tmp_path / "prefix", data)
    checkpointed(model)
    end_at_prefix(model)
    with cache.reading(model):
        cached_loss, cached = step(model, batch)
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(cached[name], grad, rtol=1e-3, atol=1e-4)


def test_bfloat16_states_are_kept_in_bfloat16(adapted: Callable[..., Any], tmp_path: Path) -> None:
    model, data = adapted(dtype=torch.bfloat16).to(torch.bfloat16), examples()
    cache = cache_of(model, tmp_path / "prefix", data, autocast=torch.bfloat16)
    assert cache.states.dtype == torch.bfloat16
    assert (tmp_path / "prefix" / "states.bin").stat().st_size == 2 * 16 * int(data.starts[-1])
    batch = collate(rows_of(data)[:1], pad_id=0, flatten=False, multiple_of=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = hidden_before(model, batch)[2]
    kept = cache.find(batch["input_ids"], batch["position_ids"])
    assert kept is not None
    torch.testing.assert_close(kept, hidden, rtol=0.05, atol=0.05)


# ---- the folder


def test_the_same_cache_is_read_again_and_another_is_made_anew(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "prefix"
    told: list[str] = []

    def made(model: Any, data: Examples, name: str = "model") -> bool:
        told.clear()
        PrefixCache.settled(model, PrefixAt(folder, name, (data,)), tell=told.append)
        (line,) = told
        return line.startswith("keeping the outputs of the frozen blocks")

    model, data = adapted(), examples()
    assert made(model, data)
    assert not made(model, data)
    states = (folder / "states.bin").read_bytes()
    assert made(model, data, "another model")
    assert made(model, examples(1), "another model")
    assert made(adapted(blocks=(1,)), examples(1), "another model")
    assert made(adapted(blocks=(1,)).double(), examples(1), "another model")
    (folder / "prefix.json").write_text("{")
    assert made(model, data)
    assert (folder / "states.bin").read_bytes() == states
    assert [path.name for path in tmp_path.iterdir()] == ["prefix"]
    account = json.loads((folder / "prefix.json").read_text())
    assert (account["schema"], account["block"], account["dtype"]) == (
        "lamina.prefix/1", 2, "float32",
    )  # fmt: skip


def test_equal_examples_are_kept_once(adapted: Callable[..., Any], tmp_path: Path) -> None:
    data = examples()
    cache = cache_of(adapted(), tmp_path / "prefix", data, data.take([3, 4]))
    assert len(cache.states) == data.starts[-1]


def test_a_build_that_is_stopped_leaves_nothing(
    adapted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prefix_cache, "_fill", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache_of(adapted(), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_build_left_is_no_cache(adapted: Callable[..., Any], tmp_path: Path) -> None:
    part = tmp_path / ".prefix.part"
    part.mkdir()
    (part / "states.bin").write_bytes(b"half")
    cache_of(adapted(), tmp_path / "prefix")
    assert [path.name for path in tmp_path.iterdir()] == ["prefix"]


def test_a_full_disk_is_told_before_anything_is_computed(
    adapted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="0 MB are free there"):
        cache_of(adapted(), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        cache_of(adapted(), tmp_path / "out" / "prefix")


def test_a_write_that_fails_is_told_and_leaves_nothing(
    adapted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_cache, "_fill", full)
    with pytest.raises(OutputError, match="No space left on device"):
        cache_of(adapted(), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())
