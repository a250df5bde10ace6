"""The recipe of `lamina rank`: a model or an adapter, data, and how modules are ranked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from lamina.core.recipe import Recipe
from lamina.data.recipe import DataSection, DomainSpec, check_names
from lamina.engine.recipe import Count, Positive, TrainSection

Way = Literal[
    "integrate",
    "taylor",
    "learn",
    "sparse",
    "leave_one_out",
    "shapley",
    "block_influence",
    "snr",
    "delta_norm",
    "lora_drop",
    "cosine",
]
WAYS: tuple[str, ...] = get_args(Way)
GATED = ("integrate", "taylor", "learn", "sparse", "leave_one_out", "shapley")
"""Ways that put gates on the deltas of a trained adapter."""
OF_ADAPTER = (*GATED, "delta_norm", "lora_drop")
"""Ways that need an adapter; a model without one is tuned first."""
NEEDS_DATA = (*GATED, "lora_drop", "block_influence")

STAGE_ONE: dict[str, Any] = {
    "learning_rate": 5e-4, "schedule": "constant_with_warmup", "windows": 50, "window_steps": 10,
}  # fmt: skip
"""What `train` has where nothing is written: a rate that does not fall, so that the loss is stable
because nothing more is learnt and not because the rate is 0."""

Part = Annotated[float, Field(gt=0, le=1)]


class StableSection(Recipe):
    """When stage 1 ends: the loss of fixed probe rows no longer changes (epsilon-stable)."""

    change: Positive = 0.001
    """Relative change of the probe loss from one look to the next that counts as none."""
    looks: Count = 3
    """Looks in a row that must be stable."""
    after: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps before which nothing counts: a new adapter begins at 0."""


class GateSection(Recipe):
    """How gates are measured or learnt."""

    batches: Count = 12
    """Batches of rows for each seed; `learn` and `sparse` go through them again and again."""
    rows: Count = 8
    """Packed rows in a batch."""
    points: Annotated[int, Field(ge=1, le=32)] = 3
    """`integrate`: Gauss-Legendre points between 0 and 1."""
    steps: Count | None = None
    """`learn`, `sparse`: steps; 128 and 256 if nothing is written."""
    learning_rate: Positive | None = None
    """`learn`, `sparse`: of gradient descent on s (found by the first gradient), of AdamW .05."""
    start: Annotated[float, Field(ge=-20, le=20)] = 4.0
    """`learn`, `sparse`: s0 of every gate, gamma = sigmoid(s)."""
    sparsity: Positive = 0.01
    """`sparse`: lambda, the price of an open gate in nats a token."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`learn`: AdamW gives each gate a step of the same size, and a noisier ranking."""
    samples: Count = 8
    """`shapley`: pairs of coalitions for each sub-layer."""


class RankRecipe(Recipe):
    """Everything `lamina rank` needs."""

    model: str
    """A folder or hub name of a model, or a PEFT adapter's folder, ranked as it is."""
    domains: dict[str, DomainSpec] = Field(default_factory=dict)
    """Rows to tune and to measure on; all domains together, as large as they are."""
    base: str | None = None
    """An adapter's base, where its own file does not say; `cosine`: the raw model."""
    instruct: str | None = None
    """`cosine`: the instruct model that the ranked one was tuned from."""
    way: Way = "taylor"
    """Nearest to exact leave-one-out of all that cost the same (docs/studies.md)."""
    beside: tuple[Way, ...] = ()
    """Other ways measured beside, for the agreement; if nothing is written `delta_norm`, which
    costs nothing, where there is an adapter."""
    seeds: Annotated[int, Field(ge=1, le=64)] = 2
    """Measurements with other rows; their spread is told with every score."""
    share: Part = 0.3
    """The top set that is marked and compared."""
    data: DataSection = DataSection()
    train: TrainSection = TrainSection(**STAGE_ONE)
    """Stage 1: a LoRA on all linear modules. A window is a look at the probe rows."""
    stable: StableSection = StableSection()
    gates: GateSection = GateSection()

    @property
    def ways(self) -> frozenset[str]:
        """All that are measured."""
        return frozenset((self.way, *self.beside))

    @field_validator("beside", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("train", mode="before")
    @classmethod
    def _stage_one(cls, value: Any) -> Any:
        """One key that is written leaves the others as they are in a ranking."""
        return {**STAGE_ONE, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="before")
    @classmethod
    def _free_beside(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "beside" in values:
            return values
        way = values.get("way", cls.model_fields["way"].default)
        return {**values, "beside": ("delta_norm",) if way in GATED else ()}

    @field_validator("domains")
    @classmethod
    def _names(cls, value: dict[str, DomainSpec]) -> dict[str, DomainSpec]:
        check_names(value, "domains")
        return value

    @model_validator(mode="after")
    def _fits(self) -> RankRecipe:
        problems = []
        ways = self.ways
        if not self.domains and (needing := sorted(ways & set(NEEDS_DATA))):
            problems.append(f"`{'`, `'.join(needing)}` needs rows; give --data FILE or `domains`")
        if "cosine" in ways and self.base is None:
            problems.append(
                "`cosine` compares what a tuning did with the instruction vector; give --base, the "
                "raw model, and --instruct, the instruct model that this one was tuned from"
            )
        if self.instruct is not None and "cosine" not in ways:
            problems.append("instruct is for the way `cosine`; leave it out")
        if self.train.method != "lora":
            problems.append("train.method is `full`, but what is ranked are a LoRA's deltas")
        if problems:
            raise ValueError("; ".join(problems))
        return self
