"""A dot a row over one axis, with its interval: changes, shares, repeats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lamina.report.svg import Scale, label, picture, tag, tick_decimals, ticks
from lamina.report.tune.paint import axis_label, brief, colour

_WIDTH, _ROW, _TOP = 440.0, 26.0, 8.0


@dataclass(frozen=True, slots=True)
class Dot:
    """One row: a value, the ends of its interval, another value drawn hollow, and fine ticks."""

    name: str
    value: float
    words: str
    place: int | None = None
    low: float | None = None
    high: float | None = None
    hollow: float | None = None
    fine: tuple[float, ...] = ()
    faint: bool = False
    """Drawn hollow, as it cannot be told from zero."""
    tone: str = ""
    """`better` or `worse`: the colour of a clear difference, in place of a domain's."""


@dataclass(frozen=True, slots=True)
class Axis:
    title: str
    """What the picture is, for those who cannot see it."""
    below: str
    told: Callable[[float, int], str]
    """A mark's value and the decimals it needs -> text."""
    line: float | None = None
    line_words: str = ""
    at_least: float = 0.0
    """How far the axis reaches at least."""
    from_zero: bool = True
    """Whether zero is on the axis."""


def draw(rows: Sequence[Dot], axis: Axis) -> Markup:
    """All rows over one axis."""
    reach = [0.0, axis.at_least] if axis.from_zero else []
    reach += [axis.line] if axis.line is not None else []
    for row in rows:
        ends = (row.value, row.low, row.high, row.hollow, *row.fine)
        reach += [value for value in ends if value is not None]
    marks = ticks(min(reach), max(reach), 4)
    left = min(170.0, 16.0 + 6.9 * max(len(brief(row.name)) for row in rows))
    top = _TOP + (14.0 if axis.line is not None and axis.line_words else 0.0)
    bottom = top + _ROW * len(rows)
    x = Scale(marks[0], marks[-1], left, _WIDTH - 20.0)
    parts: list[Markup] = []
    decimals = tick_decimals(marks)
    for mark in marks:
        class_ = "zero" if mark == 0.0 else "grid"
        parts.append(tag("line", x1=x(mark), x2=x(mark), y1=top, y2=bottom, class_=class_))
        parts.append(label(x(mark), bottom + 15, axis.told(mark, decimals), "middle"))
    if axis.line is not None:
        at = x(axis.line)
        parts.append(tag("line", x1=at, x2=at, y1=top - 4, y2=bottom, class_="limit"))
        anchor = "end" if at > _WIDTH - 45.0 else "middle"
        parts.append(label(at + 5 * (anchor == "end"), top - 8, axis.line_words, anchor, "strong"))
    for number, row in enumerate(rows):
        y = top + _ROW * (number + 0.5)
        parts.append(label(left - 10, y + 4, brief(row.name), "end", "who"))
        parts.append(tag("g", *_marks(row, x, y), class_=_class(row)))
    parts.append(axis_label((left + _WIDTH - 20) / 2, bottom + 32, axis.below))
    desc = "; ".join(row.words for row in rows)
    return picture(_WIDTH, bottom + 40, axis.title, parts, desc=desc)


def _class(row: Dot) -> str:
    if row.tone:
        return f"plain-dot tone-{row.tone}"
    return colour(row.place) if row.place is not None else "plain-dot"


def _marks(row: Dot, x: Scale, y: float) -> list[Markup]:
    parts = [
        tag("line", x1=x(value), x2=x(value), y1=y - 8, y2=y - 4, class_="fine")
        for value in row.fine
    ]
    if row.low is not None and row.high is not None:
        low, high = x(row.low), x(row.high)
        parts.append(tag("path", class_="whisker", d=f"M{low:.1f} {y:.1f}H{high:.1f}"
                         f"M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"))  # fmt: skip
    if row.hollow is not None:
        parts.append(tag("circle", cx=x(row.hollow), cy=y, r=7, class_="asked"))
    class_ = "ring" if row.faint else "point"
    title = tag("title", row.words)
    parts.append(tag("circle", title, cx=x(row.value), cy=y, r=4.5, class_=class_))
    return parts
