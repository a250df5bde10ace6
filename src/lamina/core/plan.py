"""A coefficient per layer: what every rule hands to a merge, or to a trainer."""

import json
import math

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lamina.core.errors import DataError, LayerError
from lamina.core.layers import Granularity, LayerMap

SCHEMA = "lamina.layer_plan/1"


class LayerPlan(BaseModel):
    """How much of each layer to take: 0 leaves it out, 1 takes it whole; freezing is 0 or 1.

    Raises:
        LayerError: a coefficient is not finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    granularity: Granularity
    coefficients: dict[str, float]
    """One per unit of the granularity, `12` or `12.mlp.up_proj`."""
    others: float
    """The coefficient of the tensors outside the blocks: embeddings, final norm, head."""
    rule: str
    from_scores: str
    """Where the scores stand that the rule saw; empty for a plan made by hand."""
    parameters: dict[str, float | str] = Field(default_factory=dict)
    """What the rule was given: `share: 0.3`."""
    full: tuple[str, ...] = ()
    """Tuning: modules whose own weights are trained, `0.input_layernorm`, `norm`, `lm_head`."""
    ranks: dict[str, int] = Field(default_factory=dict)
    """Tuning: LoRA ranks of modules where they differ from the recipe's."""
    prefix: str = ""
    """Path of the list of blocks in the model: `model.layers`."""
    model: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of what the plan was made for."""
    price: dict[str, float] = Field(default_factory=dict)
    """What a step costs under this plan (`ila.price`)."""

    @model_validator(mode="after")
    def _finite(self) -> "LayerPlan":
        numbers = {**self.coefficients, "others": self.others}
        bad = [f"{unit}: {value}" for unit, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise LayerError(f"coefficients must be finite, these are not: {', '.join(bad[:8])}")
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """The units that a tuning takes: those with a coefficient other than 0, in their order."""
        return tuple(unit for unit, value in self.coefficients.items() if value)

    def to_json(self) -> str:
        """One JSON object with its `schema`; what is empty is left out."""
        kept = self.model_dump(exclude_defaults=True)
        return json.dumps({"schema": SCHEMA, **kept}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "LayerPlan":
        """The plan that `to_json` wrote.

        Raises:
            DataError: not JSON, another schema, or fields that do not fit.
        """
        try:
            read = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise DataError(f"not the JSON of a plan: {exc}") from exc
        schema = read.get("schema") if isinstance(read, dict) else None
        if schema != SCHEMA:
            raise DataError(f"a plan has the schema `{SCHEMA}`, this has {schema!r}")
        try:
            return cls(**{key: value for key, value in read.items() if key != "schema"})
        except ValidationError as exc:
            raise DataError(f"a plan that does not fit: {exc}") from exc

    def coefficient_of(self, layers: LayerMap, name: str) -> float:
        """The coefficient of one tensor.

        Raises:
            LayerError: no such tensor, or a layer that the plan does not know.
        """
        unit = layers.unit_of(name, self.granularity)
        if unit is None:
            return self.others
        if unit not in self.coefficients:
            raise LayerError(
                f"the plan has {len(self.coefficients)} layers and none is `{unit}`, where"
                f" `{name}` stands. Make the plan from scores of this architecture."
            )
        return self.coefficients[unit]

    def check(self, layers: LayerMap) -> None:
        """That the plan names exactly the layers of a model.

        Raises:
            LayerError: layers missing from the plan, or in the plan and not in the model.
        """
        units = set(layers.units(self.granularity))
        missing = sorted(units - self.coefficients.keys())
        strange = sorted(self.coefficients.keys() - units)
        if missing or strange:
            told = [f"no coefficient for {', '.join(missing[:8])}"] if missing else []
            told += [f"the model has no {', '.join(strange[:8])}"] if strange else []
            raise LayerError(
                f"a plan of {len(self.coefficients)} layers does not fit a model of {len(units)}:"
                f" {'; '.join(told)}. Make the plan from scores of this architecture."
            )
