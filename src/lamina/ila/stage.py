"""Stage 1 of ILA: LoRA on all linear modules, tuned until the loss is epsilon-stable.

Stable would mean |E L(t+1) - E L(t)| < eps for all later t (as we remember the paper), which nobody
can see ahead; here fixed probe rows are measured at the end of every window, and the stage ends
after a few looks in a row with a small relative change (docs/papers.md). Where that test stops too
early the deltas have not settled: on the demo's base model a change of .5 % in looks 8 steps apart
ended the stage after 64 of 400 steps, with half of what it could gain, and there `integrate` orders
the modules less as leaving them out does (docs/layers.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina.core.domains import DomainLosses
from lamina.engine.trainer import ClosedWindow, NextWindow


@dataclass(slots=True)
class UntilStable:
    """A `Steering` whose weights stay as they are, and which stops when the loss does not move."""

    weights: Mapping[str, float]
    change: float
    """Relative change of the probe loss that counts as none."""
    looks: int
    after: int
    """Looks before which nothing counts."""
    seen: list[float] = field(default_factory=list)
    """Probe loss at the start and after each window, in nats a token."""
    stable_since: int | None = None
    """The step of the first of the stable looks."""

    def begin(self, losses: DomainLosses, watched: DomainLosses | None) -> NextWindow:
        self.seen.append(_mean(losses))
        return NextWindow(self.weights, unit="rows")

    def close(self, closed: ClosedWindow) -> NextWindow:
        """Stops after `looks` looks in a row whose relative change is below `change`."""
        self.seen.append(_mean(closed.losses))
        calm = stable_looks(self.seen, self.change)
        num_looks = len(self.seen) - 1
        if calm < self.looks or num_looks < self.after + self.looks:
            return NextWindow(self.weights, unit="rows")
        self.stable_since = closed.step * (num_looks - self.looks + 1) // num_looks
        stop = (
            f"the loss is stable: {self.looks} looks in a row changed it by less than "
            f"{100 * self.change:g} %"
        )
        return NextWindow(self.weights, stop=stop, unit="rows")

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen, "stable_since": self.stable_since}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.seen, self.stable_since = list(state["seen"]), state["stable_since"]


def stable_looks(seen: list[float], change: float) -> int:
    """How many of the last looks in a row moved the loss by less than `change` of it."""
    count = 0
    for before, after in zip(seen[-2::-1], seen[:0:-1], strict=False):
        if abs(after - before) >= change * abs(before):
            break
        count += 1
    return count


def _mean(losses: DomainLosses) -> float:
    rows = losses.by_domain.values()
    return sum(sum(one.sums) for one in rows) / sum(sum(one.tokens) for one in rows)
