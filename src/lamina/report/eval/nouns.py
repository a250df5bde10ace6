"""What the report knows of an evaluation, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a task; a ratio is shown in per cent, its differences in points."""

    name: str
    higher_is_better: bool
    scale: str

    @property
    def percent(self) -> bool:
        return self.scale == "ratio"

    @property
    def factor(self) -> float:
        return 100.0 if self.percent else 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """What was asked."""

    name: str
    kind: str
    items: float | None
    metrics: tuple[Metric, ...]
    chance: float | None
    asked: Mapping[str, str]
    """Version, examples, limit, source, ..., as words."""


@dataclass(frozen=True, slots=True)
class Number:
    """A value and its standard error."""

    value: float
    se: float | None

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval of this number alone; none where items cannot give one."""
        return (self.value - 1.96 * self.se, self.value + 1.96 * self.se) if self.se else None


@dataclass(frozen=True, slots=True)
class Scored:
    """One model on one task."""

    items: float | None
    cut: float
    metrics: Mapping[str, Number]
    groups: Mapping[str, Mapping[str, Number]]


@dataclass(frozen=True, slots=True)
class Gap:
    """A model against a reference on one metric of a task."""

    task: str
    metric: str
    model: str
    reference: str
    difference: float | None
    low: float | None
    high: float | None
    better: float
    worse: float
    same: float
    p: float | None
    p_corrected: float | None
    shown: bool
    verdict: str

    @property
    def tone(self) -> str:
        """`better` or `worse` where a difference is shown."""
        return self.verdict if self.shown and self.verdict in ("better", "worse") else ""


@dataclass(frozen=True, slots=True)
class Change:
    """A model's loss on a text minus the reference's."""

    value: float
    se: float | None
    shown: bool


@dataclass(frozen=True, slots=True)
class Texts:
    """Losses on held-out texts, nats per token."""

    domains: tuple[str, ...]
    losses: Mapping[str, Mapping[str, Number]]
    """By model and domain."""
    changes: Mapping[str, Mapping[str, Change]]
    reference: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A result file, whole."""

    name: str
    models: tuple[str, ...]
    paths: Mapping[str, str]
    tasks: tuple[Task, ...]
    results: Mapping[str, Mapping[str, Scored]]
    skipped: Mapping[str, str]
    gaps: tuple[Gap, ...]
    texts: Texts | None
    harness: Mapping[str, Mapping[str, Mapping[str, Number]]]
    """By model, task and metric: what lm-evaluation-harness measured itself."""
    settings: Mapping[str, str]
    sandbox: str
    samples: str
    version: str
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The model that the others are compared with; empty where none was."""
        if self.gaps:
            return self.gaps[0].reference
        return self.texts.reference if self.texts else ""

    def number(self, model: str, task: str, metric: str) -> Number | None:
        scored = self.results.get(model, {}).get(task)
        return scored.metrics.get(metric) if scored else None

    def gap(self, model: str, task: str, metric: str) -> Gap | None:
        """The comparison of this model, where there is one."""
        return next(
            (
                one
                for one in self.gaps
                if (one.model, one.task, one.metric) == (model, task, metric)
            ),
            None,
        )
