"""OUT/prefix: what the frozen blocks of a run give, kept while it trains (`plan.cache_prefix`)."""

from __future__ import annotations

import shutil
from pathlib import Path

from lamina.core.errors import RecipeError
from lamina.engine.prefix_cache import NOTHING_BELOW, PrefixAt
from lamina.jobs.tune_run import Run

NAME = "prefix"


def prefix_of(run: Run) -> PrefixAt | None:
    """Where a run keeps it, for all that it reads; None where the recipe does not ask for it."""
    plan = run.recipe.plan
    if plan is None or not plan.cache_prefix:
        return None
    read = [part for one in run.data.values() for part in (one.train.examples, one.heldout)]
    return PrefixAt(run.out / NAME, run.identity.model, (*read, *run.watched.values()))


def check_prefix(run: Run) -> None:
    """Refuses a plan that begins at the lowest block, before anything is measured or trained.

    Raises:
        RecipeError: `cache_prefix` would have nothing to keep.
    """
    if prefix_of(run) is None or run.plan is None:
        return
    tuned = (unit.partition(".")[0] for unit in (*run.plan.chosen, *run.plan.full))
    if "0" in tuned:
        raise RecipeError(NOTHING_BELOW)


def forget_prefix(out: Path) -> None:
    """Deletes it: the run has trained, and the model does not need it."""
    for name in (NAME, f".{NAME}.part"):  # a build that was killed leaves the second
        shutil.rmtree(out / name, ignore_errors=True)
