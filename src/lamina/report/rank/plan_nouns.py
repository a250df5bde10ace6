"""What the report knows of a tuning plan, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Which modules a tuning takes, and what a step costs then."""

    granularity: str
    coefficients: Mapping[str, float]
    rule: str
    parameters: Mapping[str, object]
    full: tuple[str, ...]
    ranks: Mapping[str, float]
    from_scores: str
    model: str
    price: Mapping[str, float]

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(unit for unit, value in self.coefficients.items() if value)
