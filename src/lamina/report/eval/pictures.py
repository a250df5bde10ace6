"""Dots with intervals for each task, and differences as a forest plot around zero."""

from collections.abc import Sequence

from lamina.report.eval import numbers
from lamina.report.eval.nouns import Evaluation, Gap, Metric, Task
from lamina.report.eval.tables import metric_of
from lamina.report.figure import Figure
from lamina.report.formats import count, number, signed
from lamina.report.tune import dots


def reached(read: Evaluation, task: Task) -> Figure | None:
    """The first metric of a task, a dot a model."""
    metric = task.metrics[0]
    found = [(model, read.number(model, task.name, metric.name)) for model in read.models]
    rows = []
    for model, one in found:
        if one is None:
            continue
        ends = [metric.factor * end for end in one.ends] if one.ends else [None, None]
        if metric.percent and ends[0] is not None and ends[1] is not None:
            ends = [max(0.0, ends[0]), min(100.0, ends[1])]
        rows.append(
            dots.Dot(
                model,
                metric.factor * one.value,
                f"{model} {numbers.value_words(metric, one)}",
                None if model == read.reference else 0,
                ends[0],
                ends[1],
            )
        )
    if not rows:
        return None
    chance = None if task.chance is None else metric.factor * task.chance
    axis = dots.Axis(
        f"{numbers.name_of(metric)} of {task.name}",
        numbers.unit_of(metric),
        number,
        line=chance,
        line_words="chance" if chance is not None else "",
        at_least=5.0,
        from_zero=metric.percent and not any(row.value for row in rows),
    )
    return Figure(task.name, _note(task, metric), dots.draw(rows, axis))


def _note(task: Task, metric: Metric) -> str:
    items = "" if task.items is None else f", {count(task.items)} items"
    side = "right" if metric.higher_is_better else "left"
    return f"{numbers.name_of(metric)}{items}; {side}: better"


def forests(read: Evaluation) -> list[Figure]:
    """For each model, its differences around zero: shares in one picture, others one by one."""
    figures = []
    for model in dict.fromkeys(gap.model for gap in read.gaps):
        gaps = [(gap, metric_of(read, gap)) for gap in read.gaps
                if gap.model == model and gap.difference is not None]  # fmt: skip
        points = [(gap, metric) for gap, metric in gaps if metric.percent]
        alone = [[one] for one in gaps if not one[1].percent]
        for rows in [*([points] if points else []), *alone]:
            figures.append(_forest(model, rows))
    return figures


def _forest(model: str, gaps: Sequence[tuple[Gap, Metric]]) -> Figure:
    first, metric = gaps[0]
    rows = [
        dots.Dot(
            gap.task,
            one.factor * (gap.difference or 0.0),
            f"{gap.task} {numbers.gap_words(one, gap.difference)}, "
            f"interval {numbers.interval_words(one, gap)}, {gap.verdict}",
            None,
            None if gap.low is None else one.factor * gap.low,
            None if gap.high is None else one.factor * gap.high,
            faint=not gap.shown,
            tone=gap.tone,
        )
        for gap, one in gaps
    ]
    side = "right" if metric.higher_is_better else "left"
    what = "difference in points" if metric.percent else f"difference of {numbers.name_of(metric)}"
    axis = dots.Axis(f"{model} minus {first.reference}", f"{what} ({side}: better)", signed)
    note = f"minus {first.reference}; bars: 95 % intervals; hollow: no difference shown"
    return Figure(model, note, dots.draw(rows, axis))
