"""What a policy sees, what it decides, and the few words that say why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.core.domains import DomainLosses, Unit


@dataclass(frozen=True, slots=True)
class Seen:
    """What a policy may see at the end of a window. All maps have the domains of the recipe."""

    window: int
    """The window that has ended, from 0, within the stage."""
    windows: int
    """Windows of the stage."""
    start: Mapping[str, float]
    weights: Mapping[str, float]
    """In force in this window."""
    losses: DomainLosses
    previous: DomainLosses
    first: DomainLosses
    """Before the first window."""
    reference: Mapping[str, float] | None
    """The loss that each domain could reach, in `unit`; DoReMi's and Sheared-LLaMA's target too."""
    trained: Mapping[str, float | None]
    """Mean training loss a token in this window; None for a domain that was not read."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """What the policy returned last time."""
    unit: Unit = "nats per token"
    share: Mapping[str, float] | None = None
    """Achieved share, in the unit of the weights (tokens or rows); None: as the weights say."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The weights of the next window, and why."""

    weights: dict[str, float]
    """0 or more, with a positive sum."""
    potential: dict[str, float]
    """gamma; empty without reference losses."""
    forgetting: dict[str, float]
    """phi against the window before, 0 where it is within the noise."""
    reason: str
    memory: dict[str, Any] = field(default_factory=dict)
    """Plain JSON values, given back next time."""


def most_moved(
    before: Mapping[str, float],
    after: Mapping[str, float],
    scores: Mapping[str, float],
    *,
    high: str,
    unit: str,
) -> str:
    """`law +.04: most left to learn (potential .31); code -.03: least (.05)`."""
    moves = {name: after[name] - before[name] for name in after}
    up, down = max(moves, key=lambda n: moves[n]), min(moves, key=lambda n: moves[n])
    top, low = max(scores.values()), min(scores.values())
    if max(abs(move) for move in moves.values()) < 0.005:
        spread = f"{short(low)} to {short(top)}"
        shown = f"{unit} {spread}" if unit == "potential" else f"{spread} {unit}"
        return f"no share moves by .005 ({shown})"
    value = short(scores[up])
    shown = f"{unit} {value}" if unit == "potential" else f"{value} {unit}"
    mean = math.fsum(share * scores[name] for name, share in before.items())
    even = "back towards an even mix"  # exploration and smoothing move a share too
    why_up = high if scores[up] == top else "more than the mean" if scores[up] > mean else even
    why_down = "least" if scores[down] == low else "below the mean" if scores[down] < mean else even
    return (
        f"{up} {short(moves[up], sign=True)}: {why_up} ({shown});"
        f" {down} {short(moves[down], sign=True)}: {why_down} ({short(scores[down])})"
    )


def short(value: float, digits: int = 2, *, sign: bool = False) -> str:
    """.31, +.04, 1.20: no zero before the point."""
    told = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return told.replace("0.", ".", 1) if abs(value) < 1 and "0." in told else told
