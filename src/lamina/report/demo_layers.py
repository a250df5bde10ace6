"""The demo's `layers.json`, one model tuned on all of its modules and on some: a table and words.

Read by the demo's page and by what `lamina demo` prints. What it holds is one seed, and it says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from lamina.core.manifest import read_json
from lamina.report.formats import count, listing, number, signed
from lamina.report.place import Place
from lamina.report.tables import Cell, Row, Table
from lamina.report.verdicts import Part

FILE, FOLDER = "layers.json", "layers"
ALL = "all"
"""The tuning that the others are compared with."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Loss of one tuning less that of another on the same requests, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None or self.low <= 0.0 <= self.high:
            return "not told apart"
        return "lower" if self.high < 0.0 else "higher"


@dataclass(frozen=True, slots=True)
class PartTuned:
    """One of the tunings: what it trains, and what it came to."""

    title: str
    loss: float
    se: float | None
    price: Mapping[str, float]
    link: str
    """Its own page, where that is there."""


@dataclass(frozen=True, slots=True)
class DemoLayers:
    """All of the file."""

    rows: float
    base: tuple[float, float | None]
    """Loss and standard error of the model before any tuning."""
    runs: Mapping[str, PartTuned]
    gaps: Mapping[tuple[str, str], Gap]


def read_demo_layers(folder: Path) -> DemoLayers | None:
    """What a demo's folder says of its tunings; None where there are none.

    Raises:
        DataError: the file cannot be read, or a number is missing in it.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    read = Place(read_json(file), file)
    base = read.get("base")
    runs = {
        name: PartTuned(
            place.get("title").text() or name,
            _number(place.get("loss")),
            place.get("se").number(),
            place.get("price").numbers(),
            _link(folder, name),
        )
        for name, place in read.get("runs").items()
    }
    gaps = {
        (place.get("first").text(), place.get("second").text()): Gap(
            _number(place.get("value")), place.get("low").number(), place.get("high").number()
        )
        for place in read.get("pairs").listed()
    }
    return DemoLayers(
        _number(read.get("text").get("rows")),
        (_number(base.get("loss")), base.get("se").number()),
        runs,
        {pair: gap for pair, gap in gaps.items() if set(pair) <= runs.keys()},
    )


def _number(place: Place) -> float:
    found = place.number()
    if found is None:
        raise place.problem("a number")
    return found


def _link(folder: Path, name: str) -> str:
    page = f"{FOLDER}/{name}/report.html"
    return quote(page) if (folder / page).is_file() else ""


def table(read: DemoLayers) -> Table:
    """A line for the model as it was and for each tuning."""
    loss, se = read.base
    before = (Cell(number(loss), _error(se)), *[Cell("–")] * 5)
    rows = [Row("before tuning", before)]
    for name, one in read.runs.items():
        gap = read.gaps.get((name, ALL))
        price = one.price
        cells = (
            Cell(number(one.loss), _error(one.se)),
            Cell("–") if gap is None else Cell(signed(gap.value, 4), _interval(gap), _tone(gap)),
            Cell(count(price.get("modules"))),
            Cell(count(price.get("parameters"))),
            Cell(count(price.get("lowest_block"))),
            Cell(number(price.get("step"), 2)),
        )
        rows.append(Row(one.title, cells))
    head = ("held-out loss", "against all", "modules", "trained values", "lowest block", "step")
    return Table(
        f"Loss on {count(read.rows)} held-out requests, in nats per token; lower is better",
        head,
        tuple(rows),
        "Below a loss: one standard error. Against all modules: the difference on the same "
        "requests, below it the 95 % interval, coloured where that leaves out 0. Random "
        "modules have as many trained values as the top 30 %. A step is counted in forward passes, "
        "not timed.",
    )


def _error(se: float | None) -> str:
    return "" if se is None else f"± {number(se)}"


def _interval(gap: Gap) -> str:
    if gap.low is None or gap.high is None:
        return ""
    return f"{signed(gap.low, 4)} to {signed(gap.high, 4)}"


def _tone(gap: Gap) -> str:
    return {"lower": "better-1", "higher": "worse-1"}.get(gap.verdict, "")


def parts(read: DemoLayers) -> list[Part]:
    """What the numbers say, what they cost, and what they do not show."""
    told = [Part("What tuning some modules kept", _kept(read))]
    if saves := _saves(read):
        told.append(Part("What it saves", saves))
    unsure = (
        "One seed, one order of the rows and one draw of random modules. The intervals know of "
        "other requests alone: with another seed each difference may turn round. It shows how it "
        "is done; whether it helps is asked with several seeds in docs/studies.md."
    )
    return [*told, Part("What this does not show", unsure)]


def _kept(read: DemoLayers) -> str:
    every = read.runs.get(ALL)
    told = [
        f"On {count(read.rows)} requests that neither ranking nor tuning has read the raw model "
        f"has a loss of {number(read.base[0])}"
        + (f", tuned on all modules {number(every.loss)}." if every else ".")
    ]
    against = [
        f"{read.runs[first].title} {_told(gap)}"
        for (first, second), gap in read.gaps.items()
        if second == ALL
    ]
    if against:
        told.append(f"Against that: {'; '.join(against)}.")
    for (first, second), gap in read.gaps.items():
        if second != ALL:
            one, other = read.runs[first].title, read.runs[second].title
            told.append(f"The {one} against {other}: {_told(gap)}.")
    return " ".join(told)


def _told(gap: Gap) -> str:
    if not _interval(gap):
        return signed(gap.value, 4)
    return f"{signed(gap.value, 4)} ({_interval(gap)}: {gap.verdict})"


def _saves(read: DemoLayers) -> str:
    known = [one for one in read.runs.values() if {"lowest_block", "step"} <= one.price.keys()]
    if ALL not in read.runs or read.runs[ALL] not in known or len(known) < 2:
        return ""
    whole = read.runs[ALL].price
    steps = [
        f"{one.title} {number(one.price['step'], 2)}" for one in known if one is not read.runs[ALL]
    ]
    told = (
        f"A step costs {number(whole['step'], 2)} forward passes with all modules; "
        f"{listing(steps)}."
    )
    deep = [one.title for one in known if not one.price["lowest_block"]]
    if len(deep) == len(known):
        told += (
            " Each set has a module in block 0, so backward goes down to it: what is frozen saves "
            "memory of gradients and of Adam's state, hardly any time."
        )
    return told
