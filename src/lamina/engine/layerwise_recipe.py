"""The `layerwise:` section of a recipe: a way of tuning that treats layers unlike one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_serializer, model_validator

from lamina.core.errors import did_you_mean
from lamina.core.recipe import Recipe
from lamina.engine.recipe import Count

Way = Literal["lisa", "spider", "prilora"]
Kept = Annotated[float, Field(gt=0, le=1)]

KEYS: Mapping[str, tuple[str, ...]] = {
    "lisa": ("period", "layers", "scores"),
    "spider": (),
    "prilora": ("first_rank", "last_rank", "every", "keep", "decay"),
}
"""What each way uses."""
METHODS: Mapping[str, str] = {"lisa": "full", "spider": "full", "prilora": "lora"}
"""The `train.method` that each way is made for."""
STEPS_INSIDE = ("layerwise", "lomo", "apollo_adamw_layerwise")
"""Parts of the names of optimisers that step in the backward pass, where no way can look on."""


class LayerwiseSection(Recipe):
    """One way: LISA's sampling, SPIDER's selective update, or PRILoRA's ranks and pruning."""

    way: Way
    """`lisa` trains a few blocks at a time, `spider` takes back what the start needs more than the
    data, `prilora` gives higher blocks higher ranks and prunes the adapters."""
    period: Count = 20
    """`lisa`: steps until other blocks are drawn."""
    layers: Count = 2
    """`lisa`: blocks trained at a time, beside embeddings, final norm and head."""
    scores: str | None = None
    """`lisa`: `scores.json`; blocks are then drawn in proportion to their scores."""
    first_rank: Count = 4
    """`prilora`: rank of the lowest block's adapters."""
    last_rank: Count = 12
    """`prilora`: rank of the highest block's; those between lie on a line."""
    every: Count = 40
    """`prilora`: steps between two prunings."""
    keep: Kept = 0.5
    """`prilora`: share of each row of A that a pruning leaves."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """`prilora`: what the running mean of the inputs' sizes keeps of itself in a step."""

    @model_validator(mode="before")
    @classmethod
    def _own_keys(cls, values: Any) -> Any:
        """A way alone may be written as a text; a key that the way does not use is refused."""
        if isinstance(values, str):
            values = {"way": values}
        if not isinstance(values, Mapping) or "way" not in values:
            return values
        way = values["way"]
        if not isinstance(way, str) or way not in KEYS:
            raise ValueError(
                f"way {way!r} is unknown; {did_you_mean(str(way), KEYS)} (known: {', '.join(KEYS)})"
            )
        problems = []
        for key in sorted(set(values) - {"way", *KEYS[way]}, key=str):
            users = [name for name, keys in KEYS.items() if key in keys]
            told = (
                f"way `{way}` does not use it ({', '.join(users)}: yes)"
                if users
                else f"unknown key; {did_you_mean(str(key), ['way', *KEYS[way]])}"
            )
            problems.append(f"`{key}`: {told}")
        if problems:
            raise ValueError("; ".join(problems))
        return values

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.first_rank > self.last_rank:
            raise ValueError(
                f"ranks rise from block to block, but first_rank is {self.first_rank} and "
                f"last_rank {self.last_rank}; give a last_rank of {self.first_rank} or more"
            )
        return self

    @model_serializer(mode="wrap")
    def _own_values(self, handler: Any) -> dict[str, Any]:
        """Only what the way uses: another way's keys would be refused when it is read again."""
        values = handler(self)
        return {key: value for key, value in values.items() if key in ("way", *KEYS[self.way])}

    def conflicts(self, method: str, optimizer: str) -> list[str]:
        """What of `train:` this way cannot work with, in words."""
        needed = METHODS[self.way]
        problems = []
        if method != needed:
            what = "an adapter" if needed == "lora" else "the model's own weights"
            problems.append(
                f"layerwise: way `{self.way}` tunes {what}, but train.method is `{method}`; write "
                f"method: {needed}, or leave `layerwise` out"
            )
        if any(part in optimizer for part in STEPS_INSIDE):
            problems.append(
                f"layerwise: the optimiser `{optimizer}` steps in the backward pass, where way "
                f"`{self.way}` cannot follow it; write optimizer: adamw_torch_fused, for instance"
            )
        return problems
