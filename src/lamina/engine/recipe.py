"""The `train:` section of a recipe: how a model is tuned, whatever it is tuned on."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from lamina.core.recipe import Recipe

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]


class TrainSection(Recipe):
    """How a model is tuned. One window is `window_steps` optimiser steps."""

    method: Literal["lora", "full"] = "lora"
    """`lora` trains an adapter on the linear modules, `full` every weight."""
    windows: Count = 8
    window_steps: Count = 20
    """Optimiser steps between two looks at the held-out losses; the weights move then."""
    batch_size: Count = 8
    """Packed rows in a forward pass, on each process."""
    accumulate: Count = 1
    """Forward passes added up before a step; exact: the loss is a mean over the whole step."""
    learning_rate: Positive = 2e-4
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup: Share = 0.03
    """Share of all steps in which the rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Gradients are scaled down to this norm; 0: not."""
    optimizer: str = "adamw_torch_fused"
    """A name that `transformers.TrainingArguments(optim=...)` knows."""
    betas: tuple[Part, Part] = (0.9, 0.999)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation and of frozen weights; what is trained is held in float32."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: a third slower, much less memory."""
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Part = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    """Modules that get an adapter: `all-linear`, or names such as `q_proj`."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = "auto"
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that put batches together."""
    save_every: Annotated[int, Field(ge=0)] = 0
    """Steps between two checkpoints; 0: at the end of every window."""
    keep_checkpoints: Count = 2
    log_every: Count = 10
    report_to: tuple[str, ...] = ("tensorboard",)
    """Trackers by the names transformers has for them: `tensorboard`, `wandb`, ...; `[]`: none."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_tracker(cls, value: object) -> object:
        if value in (None, "none"):
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("targets", mode="before")
    @classmethod
    def _list_of_targets(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _no_adapter_keys_for_full_tuning(self) -> "TrainSection":
        if self.method == "full":
            set_here = sorted(self.model_fields_set & {"rank", "alpha", "dropout", "targets"})
            if set_here:
                raise ValueError(
                    f"only an adapter has `{'`, `'.join(set_here)}`, but method is `full`; "
                    "leave that out or write method: lora"
                )
        return self

    @model_validator(mode="after")
    def _no_warmup_of_a_constant_rate(self) -> "TrainSection":
        if self.schedule == "constant" and self.warmup and "warmup" in self.model_fields_set:
            raise ValueError(
                "schedule `constant` has no warmup; leave that out or write "
                "schedule: constant_with_warmup"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.windows * self.window_steps
