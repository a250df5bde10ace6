"""Small sums over a run: shares asked for and achieved, changes between stages. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.report.tune.nouns import Estimate, Ledger, Tuned, Window


@dataclass(frozen=True, slots=True)
class Share:
    """Of the whole run, weighted by the tokens of each window; `worst`: of any one window."""

    asked: float
    achieved: float
    worst: float


def by_rows(tuned: Tuned) -> bool:
    """Whether weights are shares of packed rows; by default they are of trained tokens."""
    mixture = tuned.run.recipe.get("mixture")
    listed = mixture if isinstance(mixture, list | tuple) else [mixture]
    return any(isinstance(one, dict) and one.get("unit") == "rows" for one in listed)


def asked_and_achieved(tuned: Tuned) -> dict[str, Share]:
    """What each domain was to get of the whole run, and what it got."""
    rows = by_rows(tuned)
    known = [(window, _achieved(window, rows)) for window in tuned.windows]
    sizes = [math.fsum((window.rows if rows else window.tokens).values()) for window, _ in known]
    whole = math.fsum(sizes)
    if whole <= 0:
        sizes, whole = [1.0] * len(known), float(len(known))
    found: dict[str, Share] = {}
    for name in tuned.domains:
        pairs = [
            (window.weights[name], share[name], size)
            for (window, share), size in zip(known, sizes, strict=True)
            if name in window.weights and name in share
        ]
        if not pairs:
            continue
        found[name] = Share(
            asked=math.fsum(asked * size for asked, _, size in pairs) / whole,
            achieved=math.fsum(got * size for _, got, size in pairs) / whole,
            worst=max(abs(got - asked) for asked, got, _ in pairs),
        )
    return found


def _achieved(window: Window, rows: bool) -> dict[str, float]:
    if not rows:
        return dict(window.share)
    total = math.fsum(window.rows.values())
    return {name: one / total for name, one in window.rows.items()} if total > 0 else {}


def general_change(ledger: Ledger) -> Estimate | None:
    """Over the whole run: paired, or from the two losses as if they were independent."""
    if ledger.general is not None and ledger.general.total is not None:
        return ledger.general.total
    known = [one for one in ledger.general.losses if one] if ledger.general else []
    if len(known) < 2:
        return None
    first, last = known[0], known[-1]
    if first.se is None or last.se is None:
        return Estimate(last.value - first.value)
    se = math.hypot(first.se, last.se)
    value = last.value - first.value
    return Estimate(value, se, value - 1.96 * se, value + 1.96 * se)


def trained_shares(tuned: Tuned) -> dict[str, float]:
    """Of all trained tokens in the data, how many are of each domain."""
    if tuned.data is None:
        return {}
    tokens = {d: one.counts.get("trained_tokens", 0.0) for d, one in tuned.data.domains.items()}
    whole = math.fsum(tokens.values())
    return {name: value / whole for name, value in tokens.items()} if whole > 0 else {}


def borders(windows: Sequence[Window]) -> list[tuple[int, str]]:
    """The places in the list where a stage begins, with its name; the first is 0."""
    found: list[tuple[int, str]] = []
    for place, window in enumerate(windows):
        if not found or window.stage != windows[place - 1].stage:
            found.append((place, window.stage or window.policy))
    return found


@dataclass(frozen=True, slots=True)
class Point:
    step: float
    value: float
    se: float | None


def loss_points(tuned: Tuned, name: str) -> list[Point]:
    """The held-out losses of a domain by step, that of the start included where it is known."""
    points = [
        Point(window.step, window.loss[name], window.loss_se.get(name))
        for window in tuned.windows
        if name in window.loss
    ]
    start = tuned.ledger.losses.get(name, ())[:1] if tuned.ledger else ()
    if start and start[0] is not None:
        points.insert(0, Point(0.0, start[0].value, start[0].se))
    return points
