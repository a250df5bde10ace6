"""SVG by hand: an escaped tag, a straight scale, round ticks.

Colours live in `style.css`, so that pictures follow dark mode.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape


def tag(name: str, *inner: object, **attributes: object) -> Markup:
    """One element, all of it escaped; `class_` is written `class`, `text_anchor` `text-anchor`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), _value(value))
        for key, value in attributes.items()
        if value is not None
    )
    body = Markup("").join(escape(part) for part in inner)
    if not inner:
        return Markup("<{}{}/>").format(Markup(name), written)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, body)


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def picture(
    width: float, height: float, title: str, parts: Iterable[Markup], *, desc: str = ""
) -> Markup:
    """The whole drawing, named (and, with `desc`, described) for those who cannot see it."""
    return tag(
        "svg",
        tag("title", title),
        *([tag("desc", desc)] if desc else []),
        *parts,
        viewBox=f"0 0 {_value(float(width))} {_value(float(height))}",
        role="img",
        aria_label=title,
    )


def label(
    x: float, y: float, text: str, anchor: str = "start", class_: str | None = None
) -> Markup:
    return tag(
        "text", text, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """Values between `low` and `high` onto pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values that cover the range: steps of 1, 2 or 5 times a power of ten.

    A range too narrow to tell its ends apart is widened.
    """
    largest = max(abs(low), abs(high))
    if high - low < max(1e-12, 1e-9 * largest):
        reach = 0.5 * largest if largest > 1e-9 else 0.5
        low, high = low - reach, high + reach
    raw = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    decimals = 2 - math.floor(math.log10(step))
    return [round(place * step, decimals) for place in range(first, last + 1)]


def tick_decimals(values: list[float]) -> int:
    """How many decimals tell neighbouring ticks apart."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-6))
