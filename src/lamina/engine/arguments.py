"""What transformers' Trainer is told of a `train:` section, and what of it is not known here."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from lamina.core.errors import RecipeError
from lamina.engine.load import first_line, quiet
from lamina.engine.recipe import TrainSection


def check_arguments(train: TrainSection) -> None:
    """Refuses what transformers does not know, before anything is read.

    Raises:
        RecipeError: an optimiser, a schedule or a tracker that is unknown or not installed.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    arguments = training_arguments(train, Path())
    try:
        with quiet():
            get_reporting_integration_callbacks(arguments.report_to)
    except (ValueError, ImportError) as error:
        raise RecipeError(f"train.report_to: {first_line(error)}") from error
    try:
        with quiet():
            Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ValueError, ImportError, RuntimeError) as error:
        raise RecipeError(
            f"train.optimizer {train.optimizer} cannot be used here: {first_line(error)}"
        ) from error


def training_arguments(train: TrainSection, folder: Path) -> TrainingArguments:
    """What transformers' Trainer is told."""
    try:
        with quiet():
            return TrainingArguments(
                output_dir=str(folder),
                num_train_epochs=train.windows,
                per_device_train_batch_size=train.batch_size,
                gradient_accumulation_steps=train.accumulate,
                learning_rate=train.learning_rate,
                lr_scheduler_type=train.schedule,
                warmup_steps=round(train.warmup * train.steps),
                weight_decay=train.weight_decay,
                max_grad_norm=train.max_grad_norm,
                optim=train.optimizer,
                adam_beta1=train.betas[0],
                adam_beta2=train.betas[1],
                bf16=train.dtype == "bfloat16",
                activation_checkpointing=train.gradient_checkpointing,
                activation_checkpointing_kwargs={"use_reentrant": False},
                logging_steps=train.log_every,
                logging_nan_inf_filter=False,
                report_to=list(train.report_to) or "none",
                save_strategy="no",
                seed=train.seed,
                data_seed=train.seed,
                dataloader_num_workers=train.workers,
                dataloader_pin_memory=torch.cuda.is_available(),
                dataloader_persistent_workers=False,
                remove_unused_columns=False,
                disable_tqdm=True,
                use_cpu=not torch.cuda.is_available(),
                ddp_find_unused_parameters=False,
                accelerator_config={"dispatch_batches": False, "split_batches": False},
            )
    except (ValueError, ImportError, RuntimeError) as error:
        raise RecipeError(f"train: {first_line(error)}") from error
