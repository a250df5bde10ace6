"""How values become shades: one scale from pale to dark, or two from a middle at 0."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lamina.report import formats


@dataclass(frozen=True, slots=True)
class Shades:
    """Values between `low` and `high`; with negative ones, 0 is the middle and colours differ."""

    low: float
    high: float

    @property
    def signed(self) -> bool:
        return self.low < 0.0

    def share(self, value: float) -> float:
        """How dark, 0 to 1; of signed values, by their distance from 0."""
        if self.signed:
            most = max(abs(self.low), abs(self.high))
            return min(1.0, abs(value) / most) if most else 0.0
        span = self.high - self.low
        return min(1.0, max(0.0, (value - self.low) / span)) if span > 0.0 else 0.5

    def text(self, value: float | None) -> str:
        """A value with as many digits as tell it from the others."""
        if value is None:
            return formats.number(value)
        most = max(abs(self.low), abs(self.high))
        if most and not 1e-3 <= most < 1e6:
            return formats.short(value)
        return formats.number(value, formats.decimals_for((self.low, self.high)))


def shades_of(values: Iterable[float]) -> Shades:
    """The scale that covers these values."""
    finite = [value for value in values if math.isfinite(value)]
    return Shades(min(finite), max(finite)) if finite else Shades(0.0, 1.0)
