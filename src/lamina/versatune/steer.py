"""Moves the weights of a run: losses in, the policy's answer projected, a line of reasons out.

The engine calls `begin`, then `close` at the end of every window. Everything that later windows
depend on is in `state`, plain values that go through JSON without a loss: a resumed run decides as
an undisturbed one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamina.core.domains import DomainLosses, RowLosses, Unit
from lamina.engine.trainer import ClosedWindow, NextWindow
from lamina.versatune.ledger import crossed
from lamina.versatune.policies import FIXED, POLICIES, Decision, Seen, opening
from lamina.versatune.project import Repeats, project_within
from lamina.versatune.recipe import StageSection


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run, settled: its section with what had to be measured first."""

    section: StageSection
    windows: int
    start: Mapping[str, float] | None
    """None: go on with the weights of the stage before."""
    reference: Mapping[str, float] | None
    start_reason: str


@dataclass(slots=True)
class Mixture:
    """The `Steering` of a tune run."""

    stages: Sequence[Stage]
    sizes: Mapping[str, int]
    """Packed rows of each domain."""
    rows_per_window: int
    tokens_per_row: Mapping[str, float]
    max_forgetting: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    """The lines of `domains.jsonl`."""
    losses: list[DomainLosses] = field(default_factory=list)
    """At the start and at the end of every window."""
    watched: list[DomainLosses] = field(default_factory=list)
    """The same for text that is only watched."""
    start: dict[str, float] = field(default_factory=dict)
    """Weights that the stage in work began with, as they were asked for."""
    memory: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    gate: dict[str, Any] | None = None
    told: list[str] = field(default_factory=list)
    """Warnings, each once."""

    @property
    def unit(self) -> Unit:
        """Of the ledger and of the gate on forgetting."""
        return unit_of(self.stages[-1].section)

    def begin(self, losses: DomainLosses, watched: DomainLosses | None = None) -> NextWindow:
        """The weights of the first window."""
        self.losses.append(losses)
        if watched is not None:
            self.watched.append(watched)
        stage = self.stages[0]
        assert stage.start is not None, "the first stage has weights of its own"
        self.start, self.reason = dict(stage.start), stage.start_reason
        asked = opening(stage.section.policy, self.start)
        weights = self._projected(stage, asked, dict.fromkeys(self.sizes, 0))
        return NextWindow(weights, unit=stage.section.unit)

    def close(self, closed: ClosedWindow) -> NextWindow:
        """Writes the window's line and decides the next window's weights."""
        number, stage, inside = self._stage(closed.window)
        decision = self._decide(stage, closed, inside)
        losses = closed.losses.losses()
        self.losses.append(closed.losses)
        if closed.watched is not None:
            self.watched.append(closed.watched)
        self.history.append(
            {
                "window": closed.window,
                "step": closed.step,
                "stage": stage.section.title,
                "policy": stage.section.policy,
                "weights": dict(closed.weights),
                "rows": dict(closed.rows),
                "tokens": dict(closed.tokens),
                "share": _shares(closed.tokens),
                "loss": losses,
                "loss_se": closed.losses.ses(),
                "potential": decision.potential,
                "forgetting": decision.forgetting,
                "repeats": dict(closed.repeats),
                "train_loss": dict(closed.train_loss),
                "reason": self.reason,
            }
        )
        self.memory = decision.memory
        following = stage
        weights: Mapping[str, float] = decision.weights
        self.reason = decision.reason
        if inside + 1 == stage.windows and number + 1 < len(self.stages):
            following = self.stages[number + 1]
            self.memory = {}
            self.start = dict(decision.weights if following.start is None else following.start)
            weights = opening(following.section.policy, self.start)
            if following.start is not None or following.section.policy in FIXED:
                self.reason = following.start_reason
        if len(self.history) < sum(stage.windows for stage in self.stages):
            projected = self._projected(following, weights, closed.rows_read)
        else:
            projected = dict(closed.weights)  # no window comes that could break a bound
        stop = None
        if self.max_forgetting is not None:
            self.gate = crossed(self.losses, self.max_forgetting, unit=self.unit)
            if self.gate is not None:
                stop = f"{self.gate['domain']} forgot {100 * self.gate['value']:.1f} %"
        return NextWindow(projected, stop=stop, unit=following.section.unit)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain values."""
        return {
            "history": self.history,
            "losses": _plain(self.losses),
            "watched": _plain(self.watched),
            "start": self.start,
            "memory": self.memory,
            "reason": self.reason,
            "gate": self.gate,
            "told": self.told,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to where a checkpoint was written."""
        self.history = list(state["history"])
        self.losses = _losses(state["losses"])
        self.watched = _losses(state["watched"])
        self.start = dict(state["start"])
        self.memory, self.reason = dict(state["memory"]), state["reason"]
        self.gate, self.told = state["gate"], list(state["told"])

    def _stage(self, window: int) -> tuple[int, Stage, int]:
        """Number and stage of a window, and the window's number inside the stage."""
        begun = 0
        for number, stage in enumerate(self.stages):
            if window < begun + stage.windows:
                return number, stage, window - begun
            begun += stage.windows
        raise AssertionError(f"window {window} of {begun}")

    def _decide(self, stage: Stage, closed: ClosedWindow, inside: int) -> Decision:
        section = stage.section
        first = self.losses[len(self.losses) - 1 - inside]
        read = closed.rows if section.unit == "rows" else closed.tokens
        seen = Seen(
            window=inside,
            windows=stage.windows,
            start=self.start,
            weights=closed.weights,
            losses=closed.losses,
            previous=self.losses[-1],
            first=first,
            reference=stage.reference,
            trained=closed.train_loss,
            memory=self.memory,
            share=_shares(read),
            unit=unit_of(section),
        )
        return POLICIES[section.policy](seen, **section.parameters)

    def _projected(
        self, stage: Stage, weights: Mapping[str, float], rows_read: Mapping[str, int]
    ) -> dict[str, float]:
        """The nearest weights that keep the floor and the cap on repeats.

        What a bound did to a share goes into the reason, what had to give way is a warning. Weights
        that never move are not smoothed: a domain that is given 0 gets nothing.
        """
        section = stage.section
        repeats = None
        if section.max_repeats is not None:
            repeats = Repeats(
                max_repeats=section.max_repeats,
                sizes=self.sizes,
                read=rows_read,
                rows=self.rows_per_window,
                tokens_per_row=self.tokens_per_row if section.unit == "tokens" else None,
            )
        domains, told = project_within(
            weights,
            repeats=repeats,
            smoothing=0.0 if section.policy in FIXED else section.smoothing,
            floor=section.floor,
        )
        moved = [line for line in told if " raised from " in line or " lowered from " in line]
        self.reason = "; ".join([self.reason, *moved])
        self.told += [line for line in told if line not in (*moved, *self.told)]
        return dict(domains.weights)


def unit_of(section: StageSection) -> Unit:
    """What the losses of a stage are compared in."""
    return "nats per byte" if section.loss_unit == "bytes" else "nats per token"


def _shares(tokens: Mapping[str, int]) -> dict[str, float]:
    total = sum(tokens.values())
    return {name: count / total for name, count in tokens.items()}


def _plain(losses: Sequence[DomainLosses]) -> dict[str, Any]:
    """Tokens and bytes once, as the examples stay the same; sums for every time."""
    if not losses:
        return {"fixed": {}, "times": []}
    first = losses[0].by_domain
    return {
        "fixed": {name: [list(r.tokens), list(r.num_bytes)] for name, r in first.items()},
        "times": [
            [at.step, {name: list(rows.sums) for name, rows in at.by_domain.items()}]
            for at in losses
        ],
    }


def _losses(plain: Mapping[str, Any]) -> list[DomainLosses]:
    fixed = {name: (tuple(t), tuple(b)) for name, (t, b) in plain["fixed"].items()}
    return [
        DomainLosses(
            step=step,
            by_domain={
                name: RowLosses(sums=tuple(sums), tokens=fixed[name][0], num_bytes=fixed[name][1])
                for name, sums in by_domain.items()
            },
        )
        for step, by_domain in plain["times"]
    ]
