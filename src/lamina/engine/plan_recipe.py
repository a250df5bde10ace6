"""The `plan:` section of a recipe: which modules are tuned."""

from typing import Any

from pydantic import Field

from lamina.core.recipe import Recipe


class PlanSection(Recipe):
    """Which modules are tuned, from a plan's file or by a rule from scores."""

    file: str | None = None
    """`plan.json` of `lamina plan`, `rank` or another tuning."""
    scores: str | None = None
    """`scores.json` of `lamina rank` or of a merge; then `rule` chooses."""
    expert: str | None = None
    """Whose scores, in those of a merge."""
    rule: str = "top"
    """A rule of `core.rules`; its parameters stand beside it: `share: 0.3`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    unfreeze: tuple[str, ...] = ()
    """Modules trained whole beside the adapters: `norm`, `lm_head`, `3.mlp.down_proj`."""
    cache_prefix: bool = False
    """Compute the frozen blocks below the plan once, and read their outputs from the disk."""
    check_base: bool = True
    """Refuse scores and plans that were made on another model than the one that is tuned."""
