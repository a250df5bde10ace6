"""What the report knows of a tuning and of a detection, frozen. Shares are of 1, losses in nats."""

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.report.nouns import Run
from lamina.report.rank.plan_nouns import Plan


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error and the ends of its 95 % interval."""

    value: float
    se: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class Window:
    """One line of `domains.jsonl`; `weights` were in force in it, losses are from its end."""

    number: int
    step: float
    stage: str
    policy: str
    reason: str
    weights: Mapping[str, float]
    rows: Mapping[str, float]
    tokens: Mapping[str, float]
    share: Mapping[str, float]
    loss: Mapping[str, float]
    loss_se: Mapping[str, float]
    potential: Mapping[str, float]
    forgetting: Mapping[str, float]
    repeats: Mapping[str, float]
    train_loss: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    policy: str
    step: float | None
    domains: tuple[str, ...] | None
    """What the stage was for; None: all."""


@dataclass(frozen=True, slots=True)
class General:
    """Losses on a slice of general text, one a stage."""

    path: str
    losses: tuple[Estimate | None, ...]
    total: Estimate | None = None
    """The change over the whole run, paired."""


@dataclass(frozen=True, slots=True)
class Gate:
    most: float | None
    crossed: bool
    window: float | None
    domain: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Ledger:
    domains: tuple[str, ...]
    unit: str
    stages: tuple[Stage, ...]
    losses: Mapping[str, tuple[Estimate | None, ...]]
    """One a stage, the start first."""
    changes: Mapping[str, tuple[Estimate | None, ...]]
    """One a stage after the start."""
    total: Mapping[str, Estimate]
    forgetting: Mapping[str, float]
    bwt: float | None
    nbwt: float | None
    why: str
    """Why there is no backward transfer, where there is none."""
    general: General | None
    gate: Gate | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One example as the model sees it: pieces of text, and whether they are trained on."""

    place: str
    pieces: tuple[tuple[str, bool], ...]
    cut: bool


@dataclass(frozen=True, slots=True)
class DomainRows:
    """What the data of one domain was."""

    name: str
    sources: tuple[Mapping[str, object], ...]
    counts: Mapping[str, float]
    repeated: tuple[tuple[str, ...], ...]
    """A training row and the held-out row that it repeats, for instance."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Data:
    settings: Mapping[str, object]
    domains: Mapping[str, DomainRows]


@dataclass(frozen=True, slots=True)
class Reference:
    way: str
    losses: Mapping[str, float]
    se: Mapping[str, float]
    steps: Mapping[str, float]
    degenerate: tuple[str, ...]
    """Domains whose loss says little; empty if none is, or if only `warnings` tell which."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text that the model made, and what the judge said of it; None: no valid judgement."""

    text: str
    cut: bool
    tokens: float | None
    finished: bool | None
    repeat: float | None
    judged: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Judge:
    kind: str
    accuracy: float | None
    accuracy_se: float | None
    rows: float | None
    confusion: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Detection:
    domains: tuple[str, ...]
    shares: Mapping[str, float]
    se: Mapping[str, float]
    raw: Mapping[str, float]
    repeats: tuple[Mapping[str, float], ...]
    texts: float | None
    tokens: float | None
    invalid: float | None
    judge: Judge | None
    corrected: bool
    stopped: str
    finished: float | None
    """Texts that the model ended by itself."""
    warnings: tuple[str, ...]
    settings: Mapping[str, object]
    sampled: tuple[Text, ...]
    """A handful, for a person to read."""

    @property
    def from_losses(self) -> bool:
        """Whether nothing was sampled, and the shares come from losses on the domains' rows."""
        return self.judge is None or self.judge.kind in ("", "none", "losses")


@dataclass(frozen=True, slots=True)
class Tuned:
    """A run folder of a tuning or a detection, whole; `problems` are of its files."""

    run: Run
    domains: tuple[str, ...]
    windows: tuple[Window, ...]
    ledger: Ledger | None
    data: Data | None
    reference: Reference | None
    detection: Detection | None
    problems: tuple[str, ...]
    plan: Plan | None = None
    """Which modules were tuned, where a plan said so."""

    @property
    def unit(self) -> str:
        return (self.ledger.unit if self.ledger else "") or "nats per token"
