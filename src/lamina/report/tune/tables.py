"""The tables of a tuning, as values that the page and the terminal both draw."""

from collections.abc import Mapping, Sequence

from lamina.report.formats import count, number, percent, signed
from lamina.report.tables import Cell, Row, Table
from lamina.report.tune import sums
from lamina.report.tune.nouns import Data, Estimate, Ledger, Reference, Tuned, Window
from lamina.report.tune.sums import loss_points

_DATA = (
    ("rows_read", "rows read"),
    ("examples", "examples"),
    ("heldout", "held out"),
    ("truncated", "truncated"),
    ("dropped_too_long", "too long"),
    ("empty_completions", "empty"),
    ("exact_duplicates", "duplicates"),
    ("merged_borders", "borders in a token"),
    ("no_end_mark", "no end mark"),
    ("turn_by_turn", "turn by turn"),
    ("left_out", "turns left out"),
    ("spelled_tokens", "spelled tokens"),
    ("trained_tokens", "trained tokens"),
    ("rows", "packed rows"),
)
_MOST = 50
"""Rows of a folded table; more are thinned out."""
_TINY = 0.02
"""A reference loss that no text of people has."""
_TOLD = (
    "truncated",
    "dropped_too_long",
    "empty_completions",
    "exact_duplicates",
    "merged_borders",
    "no_end_mark",
    "turn_by_turn",
    "left_out",
    "spelled_tokens",
)


def swatch_of(tuned: Tuned, name: str) -> int | None:
    """The number of a domain, for its colour."""
    return tuned.domains.index(name) if name in tuned.domains else None


def moved(tuned: Tuned) -> Table:
    """Each domain's weight at the start and at the end: the key of the band."""
    first, last = tuned.windows[0].weights, tuned.windows[-1].weights
    rows = [
        Row(
            name,
            (
                Cell(percent(first.get(name))),
                Cell(percent(last.get(name))),
                Cell(_points(first.get(name), last.get(name))),
            ),
            swatch=swatch_of(tuned, name),
        )
        for name in tuned.domains
    ]
    return Table(
        "Weight of each domain; change in points", ("first", "last", "change"), tuple(rows)
    )


def _points(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "–"
    return signed(100.0 * (after - before), 1)


def asked(tuned: Tuned) -> Table | None:
    """The share of each domain over the whole run, asked for and achieved."""
    found = sums.asked_and_achieved(tuned)
    if not found:
        return None
    rows = [
        Row(
            name,
            (
                Cell(percent(one.asked)),
                Cell(percent(one.achieved)),
                Cell(signed(100.0 * (one.achieved - one.asked), 2)),
                Cell(number(100.0 * one.worst, 2)),
            ),
            swatch=swatch_of(tuned, name),
        )
        for name, one in found.items()
    ]
    what = "packed rows" if sums.by_rows(tuned) else "trained tokens"
    head = ("asked", "achieved", "difference", "most in a window")
    return Table(
        f"Share of the {what} over the whole run; differences in points", head, tuple(rows)
    )


def ledger(tuned: Tuned, read: Ledger) -> Table | None:
    """A row a domain, a column a stage: the loss at its end, and under it what the stage changed.

    The forgetting matrix R[t][j] (stages by domains, laid on its side), with the change over the
    whole run and what was lost since the best window.
    """
    if not read.losses:
        return None
    stages = range(len(read.stages))
    whole = len(read.stages) != 2
    lost = bool(read.forgetting)
    rows: list[Row] = []
    for name in read.domains:
        cells = [_loss_cell(read, name, place) for place in stages]
        cells += [_change_cell(read.total.get(name))] if whole else []
        cells += [Cell(signed(read.forgetting.get(name)))] if lost else []
        rows.append(Row(name, tuple(cells), "member", swatch_of(tuned, name)))
    if read.general is not None:
        cells = [_plain_loss(_at(read.general.losses, place)) for place in stages]
        total = sums.general_change(read)
        if not whole and total is not None:
            cells[-1] = Cell(cells[-1].text, _over_two(total), tone(total))
        cells += [_change_cell(total)] if whole else []
        rows.append(Row("general text", (*cells, *([Cell("–")] if lost else [])), "merge"))
    head = [_stage_words(stage.name, stage.domains) for stage in read.stages]
    head += ["whole run"] if whole else []
    head += ["lost since its best"] if lost else []
    note = (
        "Under each loss its change since the column before, with the paired 95 % interval; "
        "coloured where that leaves zero out. The first column: ± one standard error. "
        "Lost since its best: the last loss less the lowest of all windows; a lowest of several "
        "noisy values lies a little too low."
    )
    caption = f"Held-out loss at the start and at the end of each stage, in {tuned.unit}"
    return Table(f"{caption}; lower is better", tuple(head), tuple(rows), note)


def _stage_words(name: str, domains: tuple[str, ...] | None) -> str:
    return name if domains is None else f"{name} (for {', '.join(domains)})"


def _at(values: Sequence[Estimate | None], place: int) -> Estimate | None:
    return values[place] if place < len(values) else None


def _plain_loss(one: Estimate | None) -> Cell:
    if one is None:
        return Cell("–")
    return Cell(number(one.value), f"± {number(one.se)}" if one.se is not None else "")


def _loss_cell(read: Ledger, name: str, place: int) -> Cell:
    loss = _at(read.losses.get(name, ()), place)
    if loss is None or place == 0:
        return _plain_loss(loss)
    change = _at(read.changes.get(name, ()), place - 1)
    if change is None:
        return Cell(number(loss.value))
    return Cell(number(loss.value), _over_two(change), tone(change))


def _over_two(one: Estimate) -> str:
    """The change, and its interval below it, so that a column stays narrow."""
    return "\n".join(filter(None, (signed(one.value), _only_interval(one))))


def _change_cell(one: Estimate | None) -> Cell:
    if one is None:
        return Cell("–")
    return Cell(signed(one.value), _only_interval(one), tone(one))


def _only_interval(one: Estimate) -> str:
    if one.low is None or one.high is None:
        return ""
    return f"[{signed(one.low)}, {signed(one.high)}]"


def tone(one: Estimate) -> str:
    """Colours for changes that are shown: blue for better, orange for worse."""
    if not one.clear:
        return ""
    depth = 1 + (abs(one.value) > 0.05) + (abs(one.value) > 0.2)
    return f"{'better' if one.value < 0 else 'worse'}-{depth}"


def windows(tuned: Tuned) -> Table:
    """A row a window: why its weights are what they are, and the weights."""
    rows = [
        Row(
            str(window.number),
            (
                Cell(count(window.step)),
                Cell(window.stage or window.policy, numeric=False),
                Cell(window.reason or "–", numeric=False, tone="why"),
                *(Cell(percent(window.weights.get(name))) for name in tuned.domains),
            ),
        )
        for window in tuned.windows
    ]
    head = ("step", "stage", "why these weights", *tuned.domains)
    return Table("Weights in force in each window, and why", head, tuple(rows))


def _thinned(number: int) -> list[int]:
    """Places to show of so many: all, or about `_MOST` evenly, the first and last among them."""
    step = -(-number // _MOST)
    return sorted({*range(0, number, step), number - 1}) if number else []


def _not_all(shown: int, number: int) -> str:
    return "" if shown == number else "; not all of them, the rest is in domains.jsonl"


def heldout(tuned: Tuned) -> Table:
    """The held-out losses with their standard errors."""
    points = {name: {p.step: p for p in loss_points(tuned, name)} for name in tuned.domains}
    every = sorted({step for by_step in points.values() for step in by_step})
    steps = [every[place] for place in _thinned(len(every))]
    rows = [
        Row(
            count(step),
            tuple(
                _plain_loss(Estimate(p.value, p.se) if (p := points[name].get(step)) else None)
                for name in tuned.domains
            ),
        )
        for step in steps
    ]
    caption = f"Held-out loss at each step, in {tuned.unit}, ± one standard error"
    caption += _not_all(len(steps), len(every))
    return Table(caption, tuned.domains, tuple(rows))


def over_windows(tuned: Tuned, key: str, caption: str, *, decimals: int = 3) -> Table:
    """One of the window's numbers for each domain: `potential`, `forgetting`, `repeats`, ..."""
    shown = [tuned.windows[place] for place in _thinned(len(tuned.windows))]
    by = [(str(window.number), _of(window, key)) for window in shown]
    caption += _not_all(len(shown), len(tuned.windows))
    rows = [
        Row(name, tuple(Cell(number(values.get(domain), decimals)) for domain in tuned.domains))
        for name, values in by
    ]
    return Table(caption, tuned.domains, tuple(rows))


def _of(window: Window, key: str) -> Mapping[str, float]:
    return {
        "potential": window.potential,
        "forgetting": window.forgetting,
        "repeats": window.repeats,
        "share": window.share,
    }[key]


def data(tuned: Tuned, read: Data) -> Table:
    """Rows read and kept of each domain; counts that are zero everywhere are left out."""
    counts = {name: one.counts for name, one in read.domains.items()}
    shares = sums.trained_shares(tuned)
    shown = [
        (key, head)
        for key, head in _DATA
        if any(key in one for one in counts.values())
        and (key not in _TOLD or any(one.get(key) or _near(one, key) for one in counts.values()))
    ]
    rows: list[Row] = []
    for name, one in counts.items():
        cells = [_count_cell(one, key) for key, _ in shown]
        cells.append(Cell(percent(shares.get(name))))
        cells.append(Cell(percent(one.get("fill"))))
        rows.append(Row(name, tuple(cells), swatch=swatch_of(tuned, name)))
    head = (*(head for _, head in shown), "of all trained tokens", "rows full to")
    pairs = [(name, pair) for name, one in read.domains.items() for pair in one.repeated]
    note = "; ".join(
        f"{name}: {here} repeats the held-out {there}" for name, (here, there) in pairs
    )
    return Table("What was read and kept of each domain", head, tuple(rows), note)


def _count_cell(counts: Mapping[str, float], key: str) -> Cell:
    value = counts.get(key)
    examples = counts.get("examples") or 0.0
    under = ""
    if key in ("truncated", "empty_completions") and value and examples:
        under = percent(value / examples)
    near = _near(counts, key)
    return Cell(count(value), f"and {count(near)} near" if near else under)


def _near(counts: Mapping[str, float], key: str) -> float:
    """Near duplicates, which stand under the exact ones."""
    return counts.get("near_duplicates", 0.0) if key == "exact_duplicates" else 0.0


def sources(read: Data) -> Table | None:
    rows = [
        Row(
            name,
            (
                Cell(str(source.get("path") or "–"), numeric=False, tone="code"),
                Cell(str(source.get("type") or "–"), numeric=False),
                Cell(count(_number(source.get("rows")))),
                Cell(percent(share) if (share := _number(source.get("share"))) else "–"),
            ),
        )
        for name, one in read.domains.items()
        for source in one.sources
    ]
    if not rows:
        return None
    return Table("Where the rows come from", ("path", "type", "rows", "share"), tuple(rows))


def _number(value: object) -> float | None:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if ok else None  # type: ignore[arg-type]


def reference(tuned: Tuned, read: Reference) -> Table:
    """Reference losses beside the loss at the start and at the end."""
    rows: list[Row] = []
    for name, loss in read.losses.items():
        points = loss_points(tuned, name) if name in tuned.domains else []
        rows.append(
            Row(
                name,
                (
                    Cell(number(loss), f"± {number(read.se[name])}" if name in read.se else ""),
                    Cell(number(points[0].value if points else None)),
                    Cell(number(points[-1].value if points else None)),
                    Cell(count(read.steps.get(name))),
                    Cell(_state(read, name, points[0].value if points else None), numeric=False),
                ),
                swatch=swatch_of(tuned, name),
            )
        )
    head = ("reference", "first loss", "last loss", "best at step", "state")
    return Table(f"Reference losses, in {tuned.unit}", head, tuple(rows))


def _state(read: Reference, name: str, start: float | None) -> str:
    """Whether a potential can be computed from a reference loss."""
    if name in read.degenerate:
        return "degenerate"
    if read.losses[name] <= _TINY:
        return "near 0: learnt by heart?"
    if start is not None and read.losses[name] >= start:
        return "not below the start: no potential"
    return "usable"
