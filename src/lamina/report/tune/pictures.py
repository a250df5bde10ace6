"""Pictures over windows: the band of weights, losses with their errors, small rows of areas.

A band of 12 domains and 200 windows is about 90 kB, everything else below that.
"""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from lamina.report import formats
from lamina.report.svg import Scale, label, picture, tag, tick_decimals, ticks
from lamina.report.tune.nouns import Tuned, Window
from lamina.report.tune.paint import axis_label, brief, colour, fill, spread
from lamina.report.tune.sums import Point, borders, loss_points

WIDE, TALL = 640.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 128.0, 22.0, 36.0
_MOST_MARKS = 40
"""More windows than this are drawn as a line with a shade, fewer as dots with whiskers."""


def band(tuned: Tuned) -> Markup:
    """The weights of all domains over the windows, stacked to one."""
    windows, domains = tuned.windows, tuned.domains
    bottom = TALL - BOTTOM
    x = Scale(0.0, float(len(windows)), LEFT, WIDE - RIGHT)
    y = Scale(0.0, 1.0, bottom, TOP)
    gap = 1.2 if len(windows) <= _MOST_MARKS else 0.0
    parts = [
        label(LEFT - 6, y(mark) + 3.5, formats.percent(mark), "end")
        for mark in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    below = dict.fromkeys(range(len(windows)), 0.0)
    middles: list[float] = []
    for number, name in reversed(list(enumerate(domains))):
        edges: list[tuple[float, float]] = []
        for place, window in enumerate(windows):
            base = below[place]
            below[place] += max(0.0, window.weights.get(name, 0.0))
            edges.append((y(below[place]), y(base)))
        middles.append(sum(edges[-1]) / 2)
        path = _columns(edges, x, gap) if gap else _outline(edges, x)
        parts.append(tag("path", d=path, fill=fill(number), class_="area"))
    parts += _stage_lines(windows, x, bottom)
    parts += _window_axis(windows, x, bottom)
    parts += [
        tag("rect", tag("title", _weights_words(window)), x=x(place), y=TOP,
            width=x(place + 1) - x(place), height=bottom - TOP, class_="touch")
        for place, window in enumerate(windows)
    ]  # fmt: skip
    heights = spread(middles[::-1], gap=13.0, low=TOP + 4, high=bottom)
    last = windows[-1].weights
    for number, (name, height) in enumerate(zip(domains, heights, strict=True)):
        square = tag("rect", x=WIDE - RIGHT + 8, y=height - 4.5, width=9, height=9, rx=1.5,
                     fill=fill(number))  # fmt: skip
        share = formats.percent(last.get(name, 0.0))
        words = f"{brief(name, 17 - len(share))} {share}"
        text = label(WIDE - RIGHT + 21, height + 3.8, words, class_="who")
        parts.append(tag("g", square, text, class_="direct"))
    moved = [
        f"{name} from {formats.percent(windows[0].weights.get(name))} "
        f"to {formats.percent(last.get(name))}"
        for name in domains
    ]
    title = f"Weights of {len(domains)} domains over {len(windows)} windows"
    return picture(WIDE, TALL, title, parts, desc=f"{'; '.join(moved)}. All in the table below.")


def _columns(edges: Sequence[tuple[float, float]], x: Scale, gap: float) -> str:
    """A rectangle a window, from its top to its base."""
    wide = x(1.0) - x(0.0) - gap
    return "".join(
        f"M{x(place) + gap / 2:.1f} {top:.1f}h{wide:.1f}v{base - top:.1f}h-{wide:.1f}z"
        for place, (top, base) in enumerate(edges)
        if base - top > 0.005
    )


def _outline(edges: Sequence[tuple[float, float]], x: Scale) -> str:
    """One shape along all tops and back along all bases: no seams between many windows."""
    there = "".join(f"V{top:.1f}H{x(place + 1):.1f}" for place, (top, _) in enumerate(edges))
    back = "".join(
        f"V{edges[place][1]:.1f}H{x(place):.1f}" for place in reversed(range(len(edges)))
    )
    return f"M{x(0):.1f} {edges[0][0]:.1f}{there}{back}z"


def _weights_words(window: Window) -> str:
    weights = ", ".join(
        f"{name} {formats.percent(weight)}" for name, weight in window.weights.items()
    )
    return f"window {window.number}: {weights}" + (f" ({window.reason})" if window.reason else "")


def _stage_lines(windows: Sequence[Window], x: Scale, bottom: float) -> list[Markup]:
    found = borders(windows)
    if len(found) < 2:
        return []
    parts: list[Markup] = []
    for place, name in found:
        if place:
            parts.append(tag("line", x1=x(place), x2=x(place), y1=TOP - 14, y2=bottom,
                             class_="border"))  # fmt: skip
        parts.append(label(x(place) + 4, TOP - 6, brief(name, 18)))
    return parts


def _window_axis(windows: Sequence[Window], x: Scale, bottom: float) -> list[Markup]:
    most = 13
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**9) if len(windows) <= most * step)
    parts = [
        label(x(place + 0.5), bottom + 14, str(window.number), "middle")
        for place, window in enumerate(windows)
        if place % every == 0
    ]
    return [*parts, axis_label((x.start + x.end) / 2, bottom + 30, "window")]


def losses(tuned: Tuned, name: str) -> Markup:
    """Held-out losses of one domain with two standard errors to each side; the reference dashed."""
    width, height, left, right, top, bottom = 440.0, 178.0, 46.0, 10.0, 10.0, 142.0
    points = loss_points(tuned, name)
    train = [Point(w.step, w.train_loss[name], None) for w in tuned.windows if name in w.train_loss]
    reference = tuned.reference.losses.get(name) if tuned.reference else None
    reach = [p.value + side * 2.0 * (p.se or 0.0) for p in points for side in (-1, 1)]
    reach += [reference] if reference is not None else []
    span = max(reach) - min(reach)
    train = [p for p in train if min(reach) - span <= p.value <= max(reach) + span]
    reach += [p.value for p in train]
    marks = ticks(min(reach), max(reach), 4)
    steps = [p.step for p in points] + [p.step for p in train]
    x = Scale(0.0, max([1.0, *steps]), left, width - right)
    y = Scale(marks[0], marks[-1], bottom, top)
    decimals = tick_decimals(marks)
    parts: list[Markup] = []
    for mark in marks:
        parts.append(tag("line", x1=left, x2=width - right, y1=y(mark), y2=y(mark), class_="grid"))
        parts.append(label(left - 6, y(mark) + 3.5, formats.number(mark, decimals), "end"))
    for mark in [mark for mark in ticks(0.0, x.high, 5) if mark <= x.high]:
        anchor = "end" if x(mark) > width - right - 12 and mark >= 1000 else "middle"
        parts.append(label(x(mark), bottom + 15, formats.count(mark), anchor))
    parts.append(axis_label((left + width - right) / 2, bottom + 31, "optimiser step"))
    for place, _ in borders(tuned.windows)[1:]:
        at = x(tuned.windows[place - 1].step)
        parts.append(tag("line", x1=at, x2=at, y1=top, y2=bottom, class_="border"))
    if reference is not None:
        at, title = y(reference), tag("title", f"reference {formats.number(reference)}")
        ends = {"x1": left, "x2": width - right, "y1": at, "y2": at}
        parts.append(tag("line", title, class_="limit", **ends))
        parts.append(label(left + 4, y(reference) - 4, "reference", class_="strong"))
    if len(train) > 1:
        path = " ".join(f"{x(p.step):.1f},{y(p.value):.1f}" for p in train)
        parts.append(tag("polyline", points=path, class_="train"))
    parts += _error_marks(points, x, y)
    inner = tag("g", *parts, class_=colour(tuned.domains.index(name)))
    first, last = points[0], points[-1]
    title = f"Held-out loss of {name} over {len(points)} measurements"
    desc = f"From {formats.number(first.value)} to {formats.number(last.value)} {tuned.unit}."
    return picture(width, height, title, [inner], desc=desc)


def _error_marks(points: Sequence[Point], x: Scale, y: Scale) -> list[Markup]:
    """A line through the values; whiskers where there is room, else a shade."""
    line = " ".join(f"{x(p.step):.1f},{y(p.value):.1f}" for p in points)
    few = len(points) <= _MOST_MARKS
    parts: list[Markup] = []
    known = [p for p in points if p.se is not None]
    if not few and known:
        upper = [f"{x(p.step):.1f},{y(p.value + 2 * (p.se or 0)):.1f}" for p in known]
        lower = [f"{x(p.step):.1f},{y(p.value - 2 * (p.se or 0)):.1f}" for p in known]
        parts.append(tag("polygon", points=" ".join([*upper, *lower[::-1]]), class_="shade"))
    parts.append(tag("polyline", points=line, class_="trace"))
    for p in points:
        words = f"step {formats.count(p.step)}: {formats.number(p.value)}"
        if p.se is not None:
            words += f" ± {formats.number(p.se)}"
            if few:
                low, high, at = y(p.value - 2 * p.se), y(p.value + 2 * p.se), x(p.step)
                whisker = f"M{at:.1f} {low:.1f}V{high:.1f}"
                whisker += f"M{at - 3:.1f} {low:.1f}h6M{at - 3:.1f} {high:.1f}h6"
                parts.append(tag("path", class_="whisker", d=whisker))
        radius = 3.2 if few else 1.4
        parts.append(tag("circle", tag("title", words), cx=x(p.step), cy=y(p.value), r=radius,
                         class_="point"))  # fmt: skip
    return parts


def ridges(
    tuned: Tuned, values: Sequence[Mapping[str, float]], what: str, *, percents: bool
) -> Markup:
    """A row of columns for each domain over the windows, all on one scale from zero."""
    told = formats.percent if percents else formats.number
    domains = [name for name in tuned.domains if any(name in one for one in values)]
    width, row, top = 440.0, 26.0, 16.0
    left = min(150.0, 14.0 + 6.1 * max(len(brief(name)) for name in domains))
    right = width - 50.0
    high = max([value for one in values for value in one.values()] + [0.0])
    x = Scale(0.0, float(len(values)), left, right)
    bottom = top + row * len(domains)
    gap = 1.0 if len(values) <= _MOST_MARKS else 0.0
    parts = [label(width - 2, top - 5, "last", "end")]
    for number, name in enumerate(domains):
        base = top + row * (number + 1) - 3.0
        y = Scale(0.0, high or 1.0, base, base - row + 6.0)
        parts.append(tag("line", x1=left, x2=right, y1=base, y2=base, class_="grid"))
        parts.append(label(left - 8, base - 4, brief(name), "end", "who"))
        pieces: list[str] = []
        for place, one in enumerate(values):
            value = one.get(name, 0.0)
            if value > 0.0:
                wide = x(1.0) - x(0.0) - gap
                pieces.append(f"M{x(place) + gap / 2:.1f} {base:.1f}V{y(value):.1f}h{wide:.1f}"
                              f"V{base:.1f}z")  # fmt: skip
        title = tag("title", f"{name}: {_ends(values, name, told)}")
        parts.append(tag("path", title, d="".join(pieces), class_=f"fill {colour(number)}"))
        parts.append(label(width - 2, base - 4, told(values[-1].get(name)), "end"))
    for place, _ in borders(tuned.windows)[1:]:
        parts.append(tag("line", x1=x(place), x2=x(place), y1=top, y2=bottom, class_="border"))
    parts += _window_axis(tuned.windows, x, bottom)
    title = f"{what} of {len(domains)} domains over {len(values)} windows; highest {told(high)}"
    desc = "; ".join(f"{name}: {_ends(values, name, told)}" for name in domains)
    return picture(width, bottom + 38, title, parts, desc=desc)


def _ends(
    values: Sequence[Mapping[str, float]], name: str, told: Callable[[float | None], str]
) -> str:
    known = [one[name] for one in values if name in one]
    return f"first {told(known[0])}, highest {told(max(known))}, last {told(known[-1])}"
