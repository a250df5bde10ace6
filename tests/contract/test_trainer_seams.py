"""What `engine/trainer.py` relies on in `transformers.Trainer`, accelerate and torch.

Each test is one fact about them, on a model of one number; ours is not in it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

ROWS = 24


class OneNumber(nn.Module):
    """The loss of a row of value v is v * weight, so its gradient is v."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.sum() * self.weight


class Numbers(Dataset):
    """Row n is the number n."""

    def __init__(self) -> None:
        self.shift = 0

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> int:
        return index + self.shift


class Given(Sampler):
    """Rows in the order of `plan`, which may be changed between epochs."""

    def __init__(self, plan: list[int]) -> None:
        self.plan, self.asked = plan, 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[int]:
        self.asked += 1
        return iter(list(self.plan))


class Seams(Trainer):
    """Writes down what happens at each seam, in order."""

    def __init__(self, folder: Path, sampler: Given, **changes: Any) -> None:
        values: dict[str, Any] = {
            "output_dir": str(folder), "num_train_epochs": 1, "per_device_train_batch_size": 2,
            "learning_rate": 1.0, "lr_scheduler_type": "constant", "optim": "sgd",
            "max_grad_norm": 0.0, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
            "use_cpu": True, "remove_unused_columns": False, "logging_steps": 1000,
            "accelerator_config": {"dispatch_batches": False, "split_batches": False},
        }  # fmt: skip
        self.sampler, self.events, self.read = sampler, [], []
        self.items: list[Any] = []
        self.scaled = changes.pop("scaled", True)
        super().__init__(
            model=OneNumber(),
            args=TrainingArguments(**(values | changes)),
            train_dataset=Numbers(),
            data_collator=lambda rows: {"values": torch.tensor(rows, dtype=torch.float32)},
        )
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = self.scaled

    def _get_train_sampler(self, train_dataset: Any = None) -> Given:
        return self.sampler

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Any:
        self.items.append([batch["values"].tolist() for batch in batch_samples])
        return 10.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        assert num_items_in_batch == 10.0
        self.read += inputs["values"].int().tolist()
        self.events.append("loss")
        return model(inputs["values"])

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(super()._get_output_dir(trial)) / "aside")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.events.append(f"save {self.state.global_step}")
        super()._save_checkpoint(model, trial)


class Listening(TrainerCallback):
    def __init__(self, trainer: Seams, *, save_at: int = 0, stop_at: int = 0) -> None:
        self.trainer, self.save_at, self.stop_at = trainer, save_at, stop_at
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weight = self.trainer.model.weight
        self.trainer.events.append(("before", weight.item(), weight.grad.item()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        self.trainer.events.append(f"end {state.global_step}")
        control.should_save = state.global_step == self.save_at
        control.should_training_stop = state.global_step == self.stop_at
        return control


def test_the_sampler_is_read_in_its_order_and_anew_for_each_epoch(tmp_path: Path) -> None:
    class Moving(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                sampler.plan = [20, 21, 22, 23]

    sampler = Given([9, 3, 7, 1])
    trainer = Seams(tmp_path, sampler, num_train_epochs=2)
    trainer.add_callback(Moving())
    trainer.train()
    assert trainer.read == [9, 3, 7, 1, 20, 21, 22, 23]
    assert sampler.asked == 2


def test_workers_do_not_read_beyond_the_epoch(tmp_path: Path) -> None:
    """Two workers ask for batches ahead, yet the next epoch's plan is asked for when it begins."""

    class Moving(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                sampler.plan = [20, 21, 22, 23]

    sampler = Given([9, 3, 7, 1])
    trainer = Seams(tmp_path, sampler, num_train_epochs=2, dataloader_num_workers=2)
    trainer.add_callback(Moving())
    trainer.train()
    assert trainer.read == [9, 3, 7, 1, 20, 21, 22, 23]


def test_persistent_workers_keep_the_dataset_of_the_first_epoch() -> None:
    """Why rows are asked for by (domain, row) and nothing that moves lies in the data set."""
    rows = Numbers()
    loader = DataLoader(rows, sampler=Given([1, 2]), num_workers=1, persistent_workers=True)
    first = [int(batch) for batch in loader]
    rows.shift = 100
    second = [int(batch) for batch in loader]
    assert (first, second) == ([1, 2], [1, 2])
    plain = DataLoader(rows, sampler=Given([1, 2]), num_workers=1)
    assert [int(batch) for batch in plain] == [101, 102]


def test_the_items_of_a_whole_optimiser_step_are_counted_at_once(tmp_path: Path) -> None:
    trainer = Seams(tmp_path, Given(list(range(8))), gradient_accumulation_steps=2)
    trainer.train()
    assert trainer.items == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


@pytest.mark.parametrize(("scaled", "divided_by"), [(True, 1), (False, 2)])
def test_a_scaled_loss_is_summed_over_the_steps_that_are_accumulated(
    tmp_path: Path, scaled: bool, divided_by: int
) -> None:
    trainer = Seams(tmp_path, Given([1, 2, 3, 4]), gradient_accumulation_steps=2, scaled=scaled)
    trainer.train()
    assert trainer.model.weight.item() == -10 / divided_by


def test_gradients_are_whole_before_the_step_and_an_error_there_stops_it(tmp_path: Path) -> None:
    trainer = Seams(tmp_path, Given([1, 2, 3, 4]), gradient_accumulation_steps=2)
    Listening(trainer)
    trainer.train()
    assert trainer.events == ["loss", "loss", ("before", 0.0, 10.0), "end 1"]

    class Refusing(TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            raise ArithmeticError

    trainer = Seams(tmp_path, Given([1, 2]))
    trainer.add_callback(Refusing())
    with pytest.raises(ArithmeticError):
        trainer.train()
    assert trainer.model.weight.item() == 0


def test_a_step_ends_before_its_checkpoint_is_written_where_get_output_dir_says(
    tmp_path: Path,
) -> None:
    trainer = Seams(tmp_path, Given([1, 2, 3, 4]))
    Listening(trainer, save_at=2)
    trainer.train()
    assert [event for event in trainer.events if isinstance(event, str)] == [
        "loss", "end 1", "loss", "end 2", "save 2",
    ]  # fmt: skip
    names = {path.name for path in (tmp_path / "aside" / "checkpoint-2").iterdir()}
    wanted = "model.safetensors optimizer.pt scheduler.pt rng_state.pth trainer_state.json"
    assert set(wanted.split()) <= names
    assert [path.name for path in tmp_path.iterdir()] == ["aside"]


def test_a_stop_asked_for_at_the_end_of_a_step_is_obeyed_after_its_checkpoint(
    tmp_path: Path,
) -> None:
    trainer = Seams(tmp_path, Given([1, 2, 3, 4, 5, 6]))
    Listening(trainer, save_at=1, stop_at=1)
    trainer.train()
    assert trainer.state.global_step == 1
    assert (tmp_path / "aside" / "checkpoint-1" / "optimizer.pt").is_file()


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (2, 0), (3, 0), (4, 0), (2, 2)])
def test_a_resumed_run_skips_the_batches_of_the_epoch_that_are_done(
    tmp_path: Path, step: int, workers: int
) -> None:
    plan = [9, 3, 7, 1, 8, 2]
    changes = {"num_train_epochs": 2, "dataloader_num_workers": workers}
    first = Seams(tmp_path, Given(plan), **changes)
    Listening(first, save_at=step, stop_at=step)
    first.train()
    again = Seams(tmp_path, Given(plan), **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "aside" / f"checkpoint-{step}"))
    assert first.read + again.read == [*plan, *plan]
    assert again.state.global_step == 6


def test_the_gradient_norm_goes_through_its_own_method(tmp_path: Path) -> None:
    class Noting(Seams):
        def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
            self.norm = super()._get_grad_norm(model, grad_norm=grad_norm)
            return self.norm

    trainer = Noting(tmp_path, Given([3, 4]), max_grad_norm=1.0)
    trainer.train()
    assert float(trainer.norm) == 7.0
    assert trainer.model.weight.item() == pytest.approx(-1.0, rel=1e-5)  # scaled down to norm 1


def test_each_process_reads_every_other_batch_of_the_same_plan() -> None:
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    batches = BatchSampler(Given(list(range(8))), batch_size=2, drop_last=False)
    shards = [
        list(BatchSamplerShard(batches, num_processes=2, process_index=n, split_batches=False))
        for n in (0, 1)
    ]
    assert shards == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_the_pickle_of_the_arguments_is_not_needed_to_resume(tmp_path: Path) -> None:
    """`training_args.bin` is a pickle that we delete from a checkpoint."""
    first = Seams(tmp_path, Given([1, 2, 3, 4]))
    Listening(first, save_at=1, stop_at=1)
    first.train()
    folder = tmp_path / "aside" / "checkpoint-1"
    (folder / "training_args.bin").unlink()
    again = Seams(tmp_path, Given([1, 2, 3, 4]))
    again.train(resume_from_checkpoint=str(folder))
    assert again.read == [3, 4]
