"""What the report knows of a run, frozen: experts by layer, losses, controls, the run itself."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lamina.report.formats import natural


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: a number per layer, the coefficient chosen from it, and where its update sits."""

    name: str
    method: str
    unit: str
    granularity: str
    higher_means: str
    values: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]]
    where: Mapping[str, float]
    coefficients: Mapping[str, float] | None = None
    others: float | None = None
    rule: str = ""
    weight: float | None = None

    @property
    def by_similarity(self) -> bool:
        """Whether the values are cosines with the instruction vector, not sizes of the update."""
        return "cosine" in self.method or self.unit == "cosine"

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(sorted(self.values, key=natural))

    def ranks(self) -> dict[str, float]:
        """1 is the highest value; ties in layer order."""
        if "rank" in self.columns:
            return dict(self.columns["rank"])
        ordered = sorted(
            (layer for layer in self.layers if math.isfinite(self.values[layer])),
            key=lambda layer: -self.values[layer],
        )
        return {layer: float(place) for place, layer in enumerate(ordered, start=1)}

    def shares(self) -> dict[str, float]:
        """The share of the task vector's squared norm in each layer, of all ranked layers."""
        if "B" in self.columns:
            squares = self.columns["B"]
        elif "norm_share" in self.columns:
            squares = self.columns["norm_share"]
        elif self.unit == "l2":
            squares = {layer: value * value for layer, value in self.values.items()}
        else:
            return {}
        return _shares(squares)

    def carried(self) -> dict[str, float]:
        """As `shares`, after the coefficients: what each layer contributes to the merge."""
        if not self.coefficients:
            return {}
        return _shares(
            {
                layer: share * self.coefficients.get(layer, 0.0) ** 2
                for layer, share in self.shares().items()
            }
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses of one model on one domain; `difference` is paired with the reference, where known."""

    loss: float
    se: float | None
    tokens: float | None
    word_perplexity: float | None
    byte_perplexity: float | None
    difference: float | None = None
    difference_se: float | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """One control: its mean loss, and how much that lies above the merge's own."""

    name: str
    mean_loss: float | None
    difference: float
    se: float | None


@dataclass(frozen=True, slots=True)
class Controls:
    text: str
    merge: str
    rows: tuple[Control, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Every member and merge on every domain."""

    domains: tuple[str, ...]
    models: Mapping[str, Mapping[str, Measured]]
    text: str = ""
    reference: str = ""
    """The model that the paired differences are from; empty where there are none."""
    warnings: tuple[str, ...] = ()
    controls: Controls | None = None
    forget: "Forget | None" = None


@dataclass(frozen=True, slots=True)
class Forget:
    """What the forgetting did: a text, losses of its own, and single facts."""

    text: str
    metrics: Metrics | None
    facts: Mapping[str, str | float]


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, whole."""

    name: str
    kind: str
    status: str
    versions: Mapping[str, str]
    recipe: Mapping[str, object]
    inputs: Mapping[str, Mapping[str, object]]
    outputs: Mapping[str, Mapping[str, object]]
    results: Mapping[str, object]
    warnings: tuple[str, ...]
    experts: tuple[Expert, ...] = ()
    metrics: Metrics | None = None
    recipe_text: str = ""
    finished: bool = True
    cost: Mapping[str, object] = field(default_factory=dict)
    """Seconds and memory from `log.jsonl`; not on a merge's own page, whose bytes stay the same."""

    def setting(self, *keys: str) -> object:
        """A setting of the recipe under any of its names, at the top or under `parameters`."""
        parameters = self.recipe.get("parameters")
        for place in (self.recipe, parameters if isinstance(parameters, Mapping) else {}):
            for key in keys:
                if place.get(key) is not None:
                    return place[key]
        return None


def _shares(squares: Mapping[str, float]) -> dict[str, float]:
    finite = {layer: value for layer, value in squares.items() if math.isfinite(value)}
    total = math.fsum(finite.values())
    return {layer: value / total for layer, value in finite.items()} if total > 0.0 else {}
