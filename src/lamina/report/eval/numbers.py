"""Values and differences of metrics as words: per cent for shares, digits that mean something."""

import math

from lamina.report.eval.nouns import Gap, Metric, Number
from lamina.report.formats import SPACE, number, signed


def decimals_of(metric: Metric, size: float) -> int:
    """One for per cent, three for losses, fewer for large perplexities."""
    if metric.percent:
        return 1
    if metric.scale != "exp":
        return 3
    return 3 if abs(size) < 1 else 2 if abs(size) < 1000 else 0


def value_words(metric: Metric, one: Number | None) -> str:
    """`31.3 ± 1.2`; the error is left out where items cannot give one."""
    if one is None:
        return "–"
    decimals = decimals_of(metric, metric.factor * one.value)
    text = _large(metric.factor * one.value, decimals)
    if not one.se:
        return text
    return f"{text} ± {_large(metric.factor * one.se, decimals)}"


def gap_words(metric: Metric, value: float | None) -> str:
    """`+1.3`, in points where the metric is a share."""
    if value is None:
        return "–"
    decimals = decimals_of(metric, metric.factor * value)
    text = _large(metric.factor * value, decimals)
    return ("+" + text) if value > 0 and signed(value, 12) != text and text.strip("0.") else text


def interval_words(metric: Metric, gap: Gap) -> str:
    """`+0.2 to +2.4`, or a dash; `why_none` says why."""
    if gap.low is None or gap.high is None:
        return "–"
    return f"{gap_words(metric, gap.low)} to {gap_words(metric, gap.high)}"


def why_none(gap: Gap) -> str:
    """Why there is no interval."""
    if gap.low is not None and gap.high is not None:
        return ""
    if gap.better + gap.worse + gap.same <= 1:
        return "a single item gives no interval"
    if not gap.better + gap.worse:
        return "no item changed"
    if gap.difference is None:
        return "a number was too large"
    return "all items changed alike: no interval"


def chance_words(p: float | None) -> str:
    """A p value."""
    if p is None:
        return "–"
    return "<0.001" if p < 0.001 else number(p, 3)


def name_of(metric: Metric) -> str:
    """As a person would write it."""
    return metric.name.replace("_", " ")


def unit_of(metric: Metric) -> str:
    """`acc (%)`, `word perplexity ↓`."""
    name = name_of(metric) + (" (%)" if metric.percent else "")
    return name if metric.higher_is_better else f"{name} ↓"


def points(metric: Metric) -> str:
    """What differences are counted in."""
    return f"{SPACE}points" if metric.percent else ""


def _large(value: float, decimals: int) -> str:
    """Numbers of more than six digits by their powers of ten."""
    if math.isfinite(value) and abs(value) >= 1e6:
        return f"{value:.2e}"
    return number(value, decimals)
