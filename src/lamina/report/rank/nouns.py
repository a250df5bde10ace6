"""What the report knows of a ranking, frozen. Shares are of 1."""

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.report.nouns import Run
from lamina.report.rank.plan_nouns import Plan
from lamina.report.tune.nouns import Data

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """A value for each unit, in the order of the file; high: important."""

    method: str
    unit: str
    granularity: str
    higher_means: str
    values: Mapping[str, float]
    spread: Mapping[str, float]
    """Standard deviation over seeds; empty with one seed."""
    seeds: tuple[Mapping[str, float], ...]
    parameters: Mapping[str, float]
    """LoRA values of each module at the adapter's rank."""
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far rankings agree, with one another and over seeds; matrices in the order of `names`."""

    names: tuple[str, ...]
    spearman: Matrix
    shared: Matrix
    corrected: Matrix
    jaccard: Matrix
    chance: float | None
    jaccard_chance: float | None
    lowest_between_seeds: float | None
    removed: Mapping[str, float]
    """How much the loss rises without each unit: the exact answer, where it was measured."""
    removed_spearman: float | None
    removed_examples: float | None
    completeness_error: float | None
    """How far the sum of all values is from the loss difference it should be, relative."""
    completeness_sum: float | None
    completeness_difference: float | None
    cost: Mapping[str, float]
    passes: Mapping[str, float]
    """Forward and backward batches of each way, over all seeds."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A run folder of a ranking, whole; `problems` are of its files."""

    run: Run
    way: str
    share: float
    main: Ranking | None
    top: tuple[str, ...]
    """The units with the highest values, the highest first."""
    beside: Mapping[str, Ranking]
    """Other rankings, by their way; some rank whole blocks or sub-layers."""
    agreement: Agreement | None
    plan: Plan | None
    data: Data | None
    problems: tuple[str, ...]
