"""A coefficient per layer: what every rule hands to a merge, or to a trainer."""

import math

from pydantic import BaseModel, ConfigDict, model_validator

from lamina.core.errors import LayerError
from lamina.core.layers import Granularity, LayerMap


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

    @model_validator(mode="after")
    def _finite(self) -> "LayerPlan":
        numbers = {**self.coefficients, "others": self.others}
        bad = [f"{unit}: {value}" for unit, value in numbers.items() if not math.isfinite(value)]
        if bad:
            raise LayerError(f"coefficients must be finite, these are not: {', '.join(bad[:8])}")
        return self

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
