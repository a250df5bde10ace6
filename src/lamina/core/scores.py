"""A number per layer, with its unit and origin: what every measuring paper hands to a rule."""

import json
import math
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lamina.core.errors import DataError, LayerError
from lamina.core.layers import Grain
from lamina.core.plan import LayerPlan

SCHEMA = "lamina.scores/1"


class LayerScores(BaseModel):
    """One score per layer unit. The order of `values` is the order of the layers.

    Raises:
        LayerError: a value is not finite, or a column has a layer without a value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    method: str
    """What was measured: `lata_cosine`, `delta_norm`, ..."""
    unit: str
    """The unit of the values: `cosine`, `l2`, ..."""
    granularity: Grain
    higher_means: str
    """What a high value says, in words."""
    values: dict[str, float]
    columns: dict[str, dict[str, float]] = Field(default_factory=dict)
    """What the values were made of, by layer: A, B, C, rho, ... for LATA."""
    spread: dict[str, float] | None = None
    """The uncertainty of each value, where one was measured."""
    model: str
    inputs: dict[str, str]
    """Fingerprints of what was measured."""
    prefix: str = ""
    """Path of the list of blocks in the model: `model.layers`; empty where nobody asked."""

    @field_validator("values")
    @classmethod
    def _finite(cls, values: dict[str, float]) -> dict[str, float]:
        bad = [f"{unit}: {value}" for unit, value in values.items() if not math.isfinite(value)]
        if bad:
            raise LayerError(
                f"scores must be finite, these are not: {', '.join(bad[:8])}."
                " Does a model hold NaN or infinity there?"
            )
        return values

    @model_validator(mode="after")
    def _same_layers(self) -> "LayerScores":
        parts = {**self.columns, **({} if self.spread is None else {"spread": self.spread})}
        for name, part in parts.items():
            strange = sorted(part.keys() - self.values.keys())
            if strange:
                raise LayerError(f"`{name}` has layers without a score: {', '.join(strange[:8])}")
        return self

    def rank(self) -> dict[str, int]:
        """The place of every layer, 1 for the highest value; equal values in the layers' order."""
        ordered = sorted(self.values, key=lambda unit: -self.values[unit])  # sorted() is stable
        places = {unit: place for place, unit in enumerate(ordered, start=1)}
        return {unit: places[unit] for unit in self.values}

    def top(self, share: float) -> tuple[str, ...]:
        """The layers with the highest values, a `share` of all (rounded half up), highest first."""
        return self._ordered()[: self._count(share)]

    def bottom(self, share: float) -> tuple[str, ...]:
        """The layers with the lowest values, a `share` of all (rounded half up), lowest first."""
        return self._ordered()[::-1][: self._count(share)]

    def overlap(self, other: "LayerScores", share: float) -> tuple[float, float, float]:
        """How far two rankings agree on their top `share`: observed, by chance, corrected.

        Observed is the part of our top layers that is in the other's top. Two random choices of k
        out of n layers share k/n of them on average; corrected = (observed - chance) / (1 - chance)
        is 0 for chance and 1 for full agreement. Where all or none are chosen it is 0: nothing was
        compared.

        Raises:
            LayerError: the two have different layers.
        """
        if self.values.keys() != other.values.keys():
            odd = sorted(self.values.keys() ^ other.values.keys())
            raise LayerError(
                f"scores of {len(self.values)} and {len(other.values)} layers cannot be compared;"
                f" only one has {', '.join(odd[:8])}. Measure both on models of one architecture."
            )
        count = self._count(share)
        if not count:
            return 0.0, 0.0, 0.0
        observed = len(set(self.top(share)) & set(other.top(share))) / count
        chance = count / len(self.values)
        return observed, chance, (observed - chance) / (1 - chance) if chance < 1 else 0.0

    def plan(
        self,
        rule: Callable[[float], float],
        *,
        name: str,
        others: float,
        origin: str = "scores.json",
    ) -> LayerPlan:
        """The plan that gives every layer the coefficient `rule(its value)`.

        Of blocks or modules: scores of sub-layers are first spread (`Linears.by_module`).
        """
        assert self.granularity != "sublayer", "a plan is of blocks or modules"
        return LayerPlan(
            granularity=self.granularity,
            coefficients={unit: rule(value) for unit, value in self.values.items()},
            others=others,
            rule=name,
            from_scores=origin,
        )

    def to_json(self) -> str:
        """One JSON object with its `schema`, the layers in their order."""
        return json.dumps({"schema": SCHEMA, **self.model_dump()}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "LayerScores":
        """The scores that `to_json` wrote.

        Raises:
            DataError: not JSON, another schema, or fields that do not fit.
        """
        try:
            read = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise DataError(f"not the JSON of layer scores: {exc}") from exc
        schema = read.get("schema") if isinstance(read, dict) else None
        if schema != SCHEMA:
            raise DataError(f"layer scores have the schema `{SCHEMA}`, this has {schema!r}")
        try:
            return cls(**{key: value for key, value in read.items() if key != "schema"})
        except ValidationError as exc:
            raise DataError(f"layer scores that do not fit: {exc}") from exc

    def _ordered(self) -> tuple[str, ...]:
        return tuple(sorted(self.values, key=lambda unit: -self.values[unit]))

    def _count(self, share: float) -> int:
        if not 0 <= share <= 1:
            raise LayerError(f"a share of the layers lies between 0 and 1, this is {share}")
        return math.floor(share * len(self.values) + 0.5)
