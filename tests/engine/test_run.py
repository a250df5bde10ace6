"""Whole runs of a pico model: what moves, what is counted, and that a resumed run is the same."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lamina.core.domains import DomainLosses
from lamina.core.errors import DataError, RecipeError
from lamina.data.encode import Examples
from lamina.data.load import DomainData
from lamina.data.pack import pack
from lamina.engine.arguments import check_arguments
from lamina.engine.recipe import TrainSection
from lamina.engine.run import Finished, _restore, run_windows
from lamina.engine.state import Identity, MixtureState
from lamina.engine.trainer import ClosedWindow, NextWindow

IDENTITY = Identity("data", "recipe", "model", 1)
SIZES = {"law": 50, "code": 80, "maths": 31}


def examples(seed: int, count: int, low: int) -> Examples:
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


def domains() -> dict[str, DomainData]:
    return {
        name: DomainData(
            name=name,
            train=pack(examples(number, size, 4 + 20 * number), max_length=32),
            heldout=examples(100 + number, 12, 4 + 20 * number),
            report={},
            fingerprint=name,
        )
        for number, (name, size) in enumerate(SIZES.items())
    }


def pico(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    values = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "attention_dropout": 0.1,
    }
    return LlamaForCausalLM(LlamaConfig(**(values | changes)))


def settings(**changes: Any) -> TrainSection:
    values = {
        "method": "full",
        "windows": 3,
        "window_steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": (),
        "log_every": 1,
        "save_every": 3,
        "keep_checkpoints": 99,
    }
    return TrainSection.model_validate(values | changes)


class Swinging:
    """Weights that depend on the losses seen so far."""

    def __init__(self) -> None:
        self.closed: list[ClosedWindow] = []
        self.trail: list[dict[str, float]] = []

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        return self._next(losses)

    def close(self, closed: ClosedWindow) -> NextWindow:
        self.closed.append(closed)
        return self._next(closed.losses)

    def state(self) -> dict[str, Any]:
        return {"trail": self.trail}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.trail = list(state["trail"])

    def _next(self, losses: DomainLosses) -> NextWindow:
        told = losses.losses()
        self.trail.append(told)
        total = sum(told.values())
        return NextWindow({name: value / total for name, value in told.items()})


@dataclass
class Done:
    finished: Finished
    steering: Swinging
    model: LlamaForCausalLM

    @property
    def weights(self) -> bytes:
        return b"".join(p.detach().numpy().tobytes() for p in self.model.parameters())


def run(folder: Path, *, model: Any = None, data: Any = None, **options: Any) -> Done:
    train = settings(**options.pop("train", {}))
    steering = options.pop("steering", None) or Swinging()
    model = pico() if model is None else model
    folder.mkdir(parents=True, exist_ok=True)
    finished = run_windows(
        model,
        domains() if data is None else data,
        train,
        steering=steering,
        folder=folder,
        identity=options.pop("identity", IDENTITY),
        pad_id=0,
        **options,
    )
    return Done(finished, steering, model)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    folder = tmp_path_factory.mktemp("whole") / "checkpoints"
    return run(folder), folder


def test_each_window_reads_what_its_weights_say(undisturbed: tuple[Done, Path]) -> None:
    done, _ = undisturbed
    assert done.finished.step == 12
    assert [closed.step for closed in done.steering.closed] == [4, 8, 12]
    for closed in done.steering.closed:
        assert sum(closed.rows.values()) == 16
        share = {n: t / sum(closed.tokens.values()) for n, t in closed.tokens.items()}
        assert all(abs(share[name] - closed.weights[name]) < 0.07 for name in share)


def test_the_losses_fall(undisturbed: tuple[Done, Path]) -> None:
    trail = undisturbed[0].steering.trail
    assert all(trail[-1][name] < trail[0][name] - 0.2 for name in SIZES)


@pytest.mark.parametrize("step", [3, 6, 9, 12], ids=["mid", "mid 2", "mid 3", "the last"])
def test_a_resumed_run_has_the_same_bits(
    undisturbed: tuple[Done, Path], tmp_path: Path, step: int
) -> None:
    whole, folder = undisturbed
    shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    again = run(tmp_path, resume=True)
    assert again.finished.resumed_from == step
    assert again.weights == whole.weights
    assert again.steering.trail == whole.steering.trail
    tail = again.steering.closed
    assert tail == whole.steering.closed[len(whole.steering.closed) - len(tail) :]
    for name in ("mixture.json", "trainer_state.json", "model.safetensors", "optimizer.pt"):
        ours, theirs = (f / "checkpoint-12" / name for f in (tmp_path, folder))
        assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.mark.parametrize("workers", [2], ids=["two workers"])
def test_workers_change_no_bit(
    undisturbed: tuple[Done, Path], tmp_path: Path, workers: int
) -> None:
    whole, _ = undisturbed
    assert run(tmp_path / "a", train={"workers": workers}).weights == whole.weights


def test_accumulation_is_exact(tmp_path: Path) -> None:
    """Four rows at once, or two and two: the same gradient, up to the order of a sum."""
    plain = {"max_grad_norm": 0, "optimizer": "sgd", "windows": 1, "window_steps": 3}
    whole = run(tmp_path / "a", model=pico(attention_dropout=0.0), train=plain)
    parts = run(
        tmp_path / "b",
        model=pico(attention_dropout=0.0),
        train=plain | {"batch_size": 1, "accumulate": 4},
    )
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_checkpoint_holds_no_pickle_of_the_arguments(undisturbed: tuple[Done, Path]) -> None:
    names = {p.name for p in (undisturbed[1] / "checkpoint-12").iterdir()}
    assert "training_args.bin" not in names
    assert {"mixture.json", "model.safetensors", "optimizer.pt", "rng_state.pth"} <= names


def test_without_save_every_a_checkpoint_is_written_at_every_boundary(tmp_path: Path) -> None:
    run(tmp_path, train={"save_every": 0, "keep_checkpoints": 2})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-8"]


def test_the_steering_may_end_the_run(tmp_path: Path) -> None:
    class Enough(Swinging):
        def _next(self, losses: DomainLosses) -> NextWindow:
            following = super()._next(losses)
            return NextWindow(following.weights, stop="enough" if len(self.trail) == 3 else None)

    done = run(tmp_path, steering=Enough())
    assert (done.finished.step, done.finished.stopped) == (8, "enough")
    assert (tmp_path / "checkpoint-8" / "mixture.json").is_file()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(tmp_path: Path) -> None:
    model = pico()
    with torch.no_grad():
        model.model.embed_tokens.weight[50] = float("nan")  # a token of maths alone
    data = domains()
    clean = examples(9, 12, 4)  # held-out rows that do not meet it
    data["maths"] = DomainData("maths", data["maths"].train, clean, {}, "maths")
    with pytest.raises(DataError, match="not finite") as told:
        run(tmp_path, model=model, data=data)
    assert "maths (rows.jsonl:" in str(told.value)
    assert "law" not in str(told.value)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_last_good_checkpoint_survives_a_run_that_diverges(tmp_path: Path) -> None:
    """An absurd rate: the gradient overflows some steps after a checkpoint was written."""
    with pytest.raises(DataError, match="not finite"):
        run(
            tmp_path,
            train={
                "learning_rate": 1e30,
                "max_grad_norm": 0,
                "optimizer": "sgd",
                "schedule": "constant_with_warmup",
                "warmup": 0.5,
                "save_every": 1,
            },
        )
    kept = sorted(tmp_path.glob("checkpoint-*"))
    assert kept
    from safetensors.torch import load_file

    for folder in kept:
        assert all(
            value.isfinite().all() for value in load_file(folder / "model.safetensors").values()
        )


def test_resuming_with_other_rows_is_refused(
    undisturbed: tuple[Done, Path], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[1] / "checkpoint-6", tmp_path / "checkpoint-6")
    other = Identity("other", "recipe", "model", 1)
    with pytest.raises(RecipeError, match="--allow-changed data"):
        run(tmp_path, resume=True, identity=other)
    told: list[str] = []
    run(tmp_path, resume=True, identity=other, allowed=frozenset({"data"}), tell=told.append)
    assert any("not the same run any more" in line for line in told)


def test_other_held_out_rows_or_domains_are_refused_whatever_is_allowed(
    undisturbed: tuple[Done, Path], tmp_path: Path
) -> None:
    shutil.copytree(undisturbed[1] / "checkpoint-6", tmp_path / "checkpoint-6")
    every = frozenset({"data", "recipe", "processes"})
    changed = domains()
    changed["law"] = DomainData("law", changed["law"].train, examples(7, 12, 4), {}, "law")
    with pytest.raises(RecipeError, match=r"held-out rows .* are others"):
        run(tmp_path, resume=True, data=changed, allowed=every)
    fewer = {name: domain for name, domain in domains().items() if name != "code"}
    with pytest.raises(RecipeError, match="it has the domains law, code, maths, the recipe law"):
        run(tmp_path, resume=True, data=fewer, allowed=every)


def test_the_tracker_gets_weights_and_losses(tmp_path: Path) -> None:
    run(tmp_path / "checkpoints", train={"report_to": ("tensorboard",)})
    (events,) = (tmp_path / "logs").glob("events.*")
    assert b"held_out/law" in events.read_bytes()
    assert b"weights/maths" in events.read_bytes()


def test_each_process_gets_its_own_sums_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """(.1 + .2) + .3 is not .1 + (.2 + .3): put back as one sum, a window's loss has other bits."""
    parts = ({"law": 0.1}, {"law": 0.2})
    held = {"weights": {"law": 1.0}, "cursors": {}, "owed": {}, "sizes": {"law": 9}, "steering": {}}
    where = {"step": 1, "window": 0, "seed": 0, "window_steps": 2, "window_rows": 4, "world": 2}
    named = dict.fromkeys(("unit", "data", "recipe", "model"), "")
    sums = {"train_sums": {"law": 0.1 + 0.2}, "train_tokens": {"law": 7}, "rank_sums": parts}
    state = MixtureState.model_validate(held | where | named | sums)

    def restored(world: int) -> list[tuple[float, float]]:
        found = []
        for rank in range(world):
            monkeypatch.setattr("lamina.engine.parallel.rank", lambda rank=rank: rank)
            monkeypatch.setattr("lamina.engine.parallel.world", lambda: world)
            trainer: Any = SimpleNamespace(
                sampler=SimpleNamespace(names=("law",)),
                args=SimpleNamespace(device=torch.device("cpu")),
            )
            _restore(trainer, state)
            found.append((float(trainer.tally.sums[0]), float(trainer.tally.tokens[0])))
        return found

    assert restored(2) == [(0.1, 7), (0.2, 0)]
    assert restored(1) == [(0.1 + 0.2, 7)]
    assert restored(3) == [(0.1 + 0.2, 7), (0, 0), (0, 0)]


def test_a_gpu_that_is_too_small_is_told_with_what_needs_less(tmp_path: Path) -> None:
    model = pico()

    def full(*_: Any) -> None:
        if model.training and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.model.register_forward_pre_hook(full)
    with pytest.raises(RecipeError, match=r"out of memory.*train\.method: lora") as told:
        run(tmp_path, model=model)
    assert "gradient_checkpointing" in str(told.value)


def test_an_unknown_optimiser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="adamx"):
        run(tmp_path, train={"optimizer": "adamx"})


def test_an_optimiser_that_is_not_installed_is_refused_before_anything_is_read() -> None:
    check_arguments(settings())
    with pytest.raises(RecipeError, match=r"train\.optimizer lomo cannot be used here.*install"):
        check_arguments(settings(optimizer="lomo"))


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="tensorbord"):
        run(tmp_path, train={"report_to": ("tensorbord",)})


def test_lines_of_the_state_go_through_json(undisturbed: tuple[Done, Path]) -> None:
    state = json.loads((undisturbed[1] / "checkpoint-6" / "mixture.json").read_text())
    assert state["steering"]["trail"] == undisturbed[0].steering.trail[:2]
    assert state["window"] == 1
    assert sum(state["train_tokens"].values()) > 0
