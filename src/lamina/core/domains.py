"""Domains: how much of each a model reads, and what it loses on each.

`Domains` is a point on the simplex, `RowLosses` the held-out losses of one domain, example by
example. Sums and counts are kept, never means: they add over processes, and two measurements of
the same examples can be compared pair by pair, which is far sharper than comparing two means.
Losses are in nats, sums in float64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lamina.core.errors import DataError, RecipeError

Unit = Literal["nats per token", "nats per byte"]
TOLERANCE = 1e-9
"""How far the weights may sum from 1."""
_TIE = 9
"""Remainders equal to so many digits are a tie: .35 and .65 of 10 are 3.5 and 6.5, as written."""


@dataclass(frozen=True, slots=True)
class Domains:
    """A share for every domain, in the order of the recipe. The shares sum to 1.

    Raises:
        RecipeError: no domain, or shares that are negative, not finite, or do not sum to 1.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        problems = _problems(self.weights)
        total = math.fsum(self.weights.values()) if not problems else 1.0
        if abs(total - 1) > TOLERANCE:
            problems.append(f"they sum to {total:.10g}, not to 1")
        if problems:
            raise RecipeError(_told(problems))
        object.__setattr__(self, "weights", dict(self.weights))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @classmethod
    def normalised(cls, scores: Mapping[str, float]) -> "Domains":
        """The shares in proportion to scores.

        Raises:
            RecipeError: no domain, scores that are negative or not finite, or all of them zero.
        """
        return cls(in_proportion(scores))


def in_proportion(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores divided by their sum: shares that sum to 1.

    Raises:
        RecipeError: no domain, scores that are negative or not finite, or all of them zero.
    """
    problems = _problems(scores)
    largest = max(scores.values(), default=0.0)
    if not problems and largest <= 0:
        problems.append("all of them are 0")
    if problems:
        raise RecipeError(_told(problems))
    if not 1e-150 < largest < 1e150:  # so that the sum stays in range
        scores = {name: score / largest for name, score in scores.items()}
    total = math.fsum(scores.values())
    return {name: score / total for name, score in scores.items()}


def apportion(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` things dealt out by weights, by largest remainder; a tie goes to the earlier name.

    The counts sum to `total` exactly and each is its quota rounded down or up; a domain of weight
    0 gets none. The weights need not sum to 1.

    Raises:
        RecipeError: no domain, weights that are negative or not finite, or all of them zero.
    """
    assert total >= 0, f"a count below zero: {total}"
    shares = {name: Fraction(share) for name, share in in_proportion(weights).items()}
    whole = sum(shares.values())
    quotas = {name: share * total / whole for name, share in shares.items()}
    counts = {name: math.floor(quota) for name, quota in quotas.items()}
    left = total - sum(counts.values())
    by_remainder = sorted(quotas, key=lambda name: -round(quotas[name] - counts[name], _TIE))
    for name in by_remainder[:left]:  # sorted() is stable: ties stay in the order of the names
        counts[name] += 1
    return counts


@dataclass(frozen=True, slots=True)
class RowLosses:
    """The losses of one domain's held-out examples, one entry an example, all ranks together.

    Raises:
        DataError: no example, no trained token, or a loss that is not finite.
    """

    sums: tuple[float, ...]
    """Nats, summed over the trained tokens of an example, in float64."""
    tokens: tuple[int, ...]
    """Trained tokens of each example."""
    num_bytes: tuple[int, ...]
    """Bytes of UTF-8 of the trained text of each example."""

    def __post_init__(self) -> None:
        lengths = {len(self.sums), len(self.tokens), len(self.num_bytes)}
        assert len(lengths) == 1, f"one entry an example, here {sorted(lengths)}"
        if not sum(self.tokens):
            raise DataError(
                f"{len(self.sums)} held-out examples with no trained token have no loss."
                " Give the domain held-out rows with an answer."
            )
        bad = [number for number, value in enumerate(self.sums) if not math.isfinite(value)]
        if bad:
            raise DataError(
                f"the loss of {len(bad)} of {len(self.sums)} held-out examples is not finite"
                f" (the first is number {bad[0]}, counted from 0). Has the run diverged? A smaller"
                " learning rate, or a warm-up, helps."
            )

    @property
    def total_tokens(self) -> int:
        return sum(self.tokens)

    @property
    def loss(self) -> float:
        """Nats per token, over all tokens together."""
        return _ratio(self.sums, self.tokens)

    @property
    def se(self) -> float:
        """Standard error of `loss` over examples drawn at random; infinite for one example."""
        return _ratio_se(self.sums, self.tokens)

    @property
    def nats_per_byte(self) -> float:
        """What two tokenizers can be compared by."""
        return _ratio(self.sums, self._bytes())

    @property
    def nats_per_byte_se(self) -> float:
        return _ratio_se(self.sums, self._bytes())

    def in_unit(self, unit: Unit) -> tuple[float, float]:
        """The loss and its standard error in a unit."""
        if unit == "nats per byte":
            return self.nats_per_byte, self.nats_per_byte_se
        return self.loss, self.se

    def _bytes(self) -> tuple[int, ...]:
        if not sum(self.num_bytes):
            raise DataError("the trained text of the held-out examples has no bytes to divide by")
        return self.num_bytes


@dataclass(frozen=True, slots=True)
class Change:
    """A difference of two losses of the same examples, after minus before: below 0 is better."""

    value: float
    se: float
    """Of the paired difference, over examples; infinite for one example."""

    @property
    def z(self) -> float:
        """The difference in standard errors; 0 where nothing changed."""
        if self.value == 0:
            return 0.0
        return self.value / self.se if self.se else math.copysign(math.inf, self.value)


def change(after: RowLosses, before: RowLosses, *, unit: Unit = "nats per token") -> Change:
    """The change of a domain's loss, paired example by example and weighted by tokens.

    What makes an example hard cancels, so the standard error is that of the change alone.

    Raises:
        DataError: the two are not of the same examples.
    """
    if after.tokens != before.tokens or after.num_bytes != before.num_bytes:
        raise DataError(
            f"{len(after.sums)} held-out examples of {after.total_tokens} tokens cannot be paired"
            f" with {len(before.sums)} of {before.total_tokens}: they are not the same examples."
            " Measure both on the same held-out rows, with the same tokenizer."
        )
    gaps = [new - old for new, old in zip(after.sums, before.sums, strict=True)]
    counts = after.num_bytes if unit == "nats per byte" else after.tokens
    return Change(_ratio(gaps, counts), _ratio_se(gaps, counts))


@dataclass(frozen=True, slots=True)
class DomainLosses:
    """The held-out losses of all domains at one step, in the order of the recipe."""

    step: int
    """Optimiser steps done when they were measured."""
    by_domain: Mapping[str, RowLosses]

    def losses(self, unit: Unit = "nats per token") -> dict[str, float]:
        return {name: rows.in_unit(unit)[0] for name, rows in self.by_domain.items()}

    def ses(self, unit: Unit = "nats per token") -> dict[str, float]:
        """Standard errors; infinite for a domain with one held-out example."""
        return {name: rows.in_unit(unit)[1] for name, rows in self.by_domain.items()}


def _ratio(sums: Sequence[float], counts: Sequence[int]) -> float:
    return math.fsum(sums) / sum(counts)


def _ratio_se(sums: Sequence[float], counts: Sequence[int]) -> float:
    """Standard error of sum(sums) / sum(counts): the ratio estimator, ddof 1."""
    rows = [(value, count) for value, count in zip(sums, counts, strict=True) if count]
    if len(rows) < 2:
        return math.inf
    total = sum(count for _, count in rows)
    ratio = math.fsum(value for value, _ in rows) / total
    squares = math.fsum((value - ratio * count) ** 2 for value, count in rows)
    return math.sqrt(squares * len(rows) / (len(rows) - 1)) / total


def _problems(weights: Mapping[str, float]) -> list[str]:
    """What is wrong with weights one by one."""
    if not weights:
        return ["there is no domain"]
    bad = [
        f"`{name}` is {value:g}"
        for name, value in weights.items()
        if not (math.isfinite(value) and value >= 0)
    ]
    return [f"{', '.join(bad[:8])}{' ...' if len(bad) > 8 else ''}"] if bad else []


def _told(problems: Sequence[str]) -> str:
    return (
        f"weights of domains: {'; '.join(problems)}."
        " Give every domain a number that is 0 or more; together they are 1."
    )
