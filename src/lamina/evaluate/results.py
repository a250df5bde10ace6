"""From items' values to the numbers of a result file, and models against each other.

Pure: values in, plain JSON out, schema `lamina.evaluation/1` (docs/artefacts.md). Files are read
and written by `result_files`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.evaluate.nouns import Metric, Task, Values
from lamina.evaluate.statistics import estimate, holm
from lamina.evaluate.statistics_paired import SHOWN_BELOW, Paired, paired

SCHEMA = "lamina.evaluation/1"
NOT_SHOWN = "no difference shown"
NOT_KNOWN = "cannot be compared"

ByItem = Mapping[str, Values]
"""By the item's id, what it is worth by each metric."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Which two models are compared on which metric of which task."""

    task: str
    metric: Metric
    model: str
    reference: str


def task_entry(
    task: Task,
    *,
    items: int,
    fingerprint: str,
    few_shot: int,
    limit: int | None,
    source: str,
    chat: bool,
    groups: Sequence[str] = (),
) -> dict[str, Any]:
    """What a result says of a task that was measured; with it runs are told to be comparable."""
    return {
        "version": task.version,
        "kind": task.kind,
        "items": items,
        "fingerprint": fingerprint,
        "few_shot": few_shot,
        "limit": limit,
        "source": source,
        "chat": chat,
        "metrics": [metric_entry(metric) for metric in task.metrics],
        "chance": task.chance,
        "groups": sorted(set(groups)),
    }


def metric_entry(metric: Metric) -> dict[str, Any]:
    """A metric as a result file holds it."""
    return {
        "name": metric.name,
        "higher_is_better": metric.higher_is_better,
        "scale": metric.scale,
    }


def summarise(
    metrics: Sequence[Metric],
    values: ByItem,
    groups: Mapping[str, str | None] | None = None,
    *,
    cut: int = 0,
) -> dict[str, Any]:
    """One model's numbers on one task: every metric with its standard error, also by group.

    Args:
        groups: each item's group, where there are some.
        cut: how many items lost their beginning, as the model reads less.
    """
    named = {group for group in (groups or {}).values() if group is not None}
    return {
        "items": len(values),
        "cut": cut,
        "metrics": _metrics(metrics, list(values.values())),
        "groups": {
            group: _metrics(
                metrics, [one for id_, one in values.items() if (groups or {}).get(id_) == group]
            )
            for group in sorted(named)
        },
    }


def compare_models(
    metrics: Mapping[str, Sequence[Metric]],
    values: Mapping[str, Mapping[str, ByItem]],
    *,
    reference: str | None = None,
    seed: int = 1234,
) -> list[dict[str, Any]]:
    """Every other model against the reference, on the first metric of every task both have.

    Only the first metric, which tables show, is compared: the others of a task (acc_norm beside
    acc, three perplexities) ask nearly the same of the same items, and each would make it harder to
    show anything. p values are corrected (Holm) over all comparisons that are returned.

    Args:
        metrics: by task, its metrics.
        values: by model (in the order of tables) and task, the values of the items.
        reference: the model the others are compared with; the first, if None.
    """
    first = next(iter(values)) if reference is None else reference
    asked = [
        Comparison(task, of_task[0], model, first)
        for task, of_task in metrics.items()
        for model in values
        if model != first and task in values[model] and task in values[first]
    ]
    found = [
        compare_items(one.metric, values[one.model][one.task], values[first][one.task], seed=seed)
        for one in asked
    ]
    corrected = holm([one.p for one in found])
    return [
        comparison_entry(one, difference, p)
        for one, difference, p in zip(asked, found, corrected, strict=True)
    ]


def compare_items(metric: Metric, model: ByItem, reference: ByItem, *, seed: int) -> Paired:
    """The paired difference of two models' values; both must have the same items."""
    assert model.keys() == reference.keys(), "values of other items cannot be compared"
    name = metric.name
    return paired(
        metric,
        [one[name] for one in model.values()],
        [reference[id_][name] for id_ in model],
        seed=seed,
    )


def comparison_entry(asked: Comparison, found: Paired, p_corrected: float | None) -> dict[str, Any]:
    """A comparison as a result file holds it."""
    shown = p_corrected is not None and p_corrected < SHOWN_BELOW and bool(found.difference)
    return {
        "task": asked.task,
        "metric": asked.metric.name,
        "model": asked.model,
        "reference": asked.reference,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "better": found.better,
        "worse": found.worse,
        "same": found.same,
        "p": found.p,
        "p_corrected": p_corrected,
        "shown": shown,
        "verdict": _verdict(asked.metric, found, shown=shown),
    }


def forgetting_of(texts: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Losses on texts minus the reference's, of a `lamina.metrics/1` object, in one list."""
    gaps = (texts or {}).get("paired") or {}
    return [
        {"domain": domain, "model": model, "reference": gaps["reference"], **gap}
        for model, by_domain in gaps.get("differences", {}).items()
        for domain, gap in by_domain.items()
        if gap is not None
    ]


def _metrics(metrics: Sequence[Metric], items: Sequence[Values]) -> dict[str, Any]:
    found = {metric.name: estimate(metric, [one[metric.name] for one in items])
             for metric in metrics}  # fmt: skip
    return {name: {"value": one.value, "se": one.se} for name, one in found.items()}


def _verdict(metric: Metric, found: Paired, *, shown: bool) -> str:
    if found.p is None or found.difference is None or not math.isfinite(found.difference):
        return NOT_KNOWN
    if not shown:
        return NOT_SHOWN
    return "better" if (found.difference > 0) == metric.higher_is_better else "worse"
