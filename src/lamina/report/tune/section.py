"""A tuning or a detection as the page wants it: pictures drawn, tables made, words found."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from lamina.report import facts, formats
from lamina.report.figure import Figure
from lamina.report.formats import number, percent
from lamina.report.nouns import Run
from lamina.report.rank.plan_section import PlanPart, plan_part
from lamina.report.tables import Table
from lamina.report.tune import dots, pictures, sums, tables, tables_detection, words
from lamina.report.tune.nouns import Detection, DomainRows, Text, Tuned
from lamina.report.tune.results import ledger_facts, result_facts
from lamina.report.verdicts import Part

AGAIN = "lamina tune recipe.yaml --out ../again"
_EVERY = 24
"""Tables over more windows than this are folded away."""


@dataclass(frozen=True, slots=True)
class Detected:
    """A detection, drawn."""

    shares: Figure
    confusion: Table | None
    settings: Table | None
    texts: tuple[tuple[Text, str], ...]
    """Each with the judge's answer in words."""
    reading: list[Part]


@dataclass(frozen=True, slots=True)
class Section:
    """A tuning (or a detection, which has its part alone), as the template wants it."""

    tuned: Tuned
    run: Run
    anchor: str
    title: str
    reading: list[Part]
    command: str
    link: str
    facts: list[facts.Fact]
    inputs: Table | None
    outputs: Table | None
    band: Figure | None
    changes: Figure | None
    ledger: Table | None
    ledger_facts: list[facts.Fact]
    losses: tuple[Figure, ...]
    heldout: Table | None
    moves: tuple[Figure, ...]
    asked: Figure | None
    repeats: Figure | None
    windows: Table | None
    folded: bool
    data: Table | None
    sources: Table | None
    rows: tuple[DomainRows, ...]
    """The domains that have samples to show."""
    reference: Table | None
    reference_words: str
    detected: Detected | None
    plan: PlanPart | None


def make(tuned: Tuned, *, title: str, anchor: str, link: str = "", cost: bool = False) -> Section:
    """Everything that the page says of one run."""
    windows, data = tuned.windows, tuned.data
    return Section(
        tuned=tuned,
        run=tuned.run,
        anchor=anchor,
        title=title,
        reading=words.reading(tuned),
        command=_again(tuned),
        link=link,
        facts=result_facts(tuned, cost=cost),
        inputs=facts.inputs(tuned.run),
        outputs=facts.outputs(tuned.run),
        band=_band(tuned),
        changes=changes(tuned),
        ledger=tables.ledger(tuned, tuned.ledger) if tuned.ledger else None,
        ledger_facts=ledger_facts(tuned),
        losses=tuple(
            Figure(name, "", pictures.losses(tuned, name))
            for name in tuned.domains
            if sums.loss_points(tuned, name)
        ),
        heldout=tables.heldout(tuned) if any(window.loss for window in windows) else None,
        moves=tuple(_moves(tuned)),
        asked=_asked(tuned),
        repeats=_repeats(tuned),
        windows=tables.windows(tuned) if windows else None,
        folded=len(windows) > _EVERY,
        data=tables.data(tuned, data) if data else None,
        sources=tables.sources(data) if data else None,
        rows=tuple(one for one in data.domains.values() if one.samples) if data else (),
        reference=tables.reference(tuned, tuned.reference) if tuned.reference else None,
        reference_words=_reference_words(tuned),
        detected=_detected(tuned, tuned.detection) if tuned.detection else None,
        plan=plan_part(tuned.plan, told=True) if tuned.plan else None,
    )


def _band(tuned: Tuned) -> Figure | None:
    if not any(window.weights for window in tuned.windows):
        return None
    note = "share of each domain in each window"
    if len(sums.borders(tuned.windows)) > 1:
        note += "; dashed: a new stage begins"
    return Figure("Weights", note, pictures.band(tuned), tables.moved(tuned))


def changes(tuned: Tuned) -> Figure | None:
    """The change of every domain over the whole run, with its interval."""
    read = tuned.ledger
    if read is None or not read.total:
        return None
    rows = [
        dots.Dot(
            name,
            one.value,
            f"{name} {words.interval(one)}",
            tables.swatch_of(tuned, name),
            one.low,
            one.high,
            faint=not one.clear,
        )
        for name, one in read.total.items()
    ]
    general = sums.general_change(read)
    if general is not None:
        told = f"general text {words.interval(general)}"
        rows.append(dots.Dot("general text", general.value, told, None, general.low, general.high,
                             faint=not general.clear))  # fmt: skip
    axis = dots.Axis(
        "Change of the held-out loss from the start to the end",
        f"change of the held-out loss, {tuned.unit} (left: better)",
        formats.signed,
    )
    note = "from the start to the end; bars: 95 % intervals; hollow: no difference shown"
    return Figure("What changed", note, dots.draw(rows, axis))


def _moves(tuned: Tuned) -> list[Figure]:
    """Potential and forgetting, where a policy computed them."""
    found: list[Figure] = []
    for key, title, note in (
        ("potential", "Potential", "how far the loss is above its reference, as a share of it"),
        ("forgetting", "Forgetting", "how much the loss rose in the window, as a share of it"),
    ):
        by_window = [window.potential if key == "potential" else window.forgetting
                     for window in tuned.windows]  # fmt: skip
        values = [{d: one[d] for d in tuned.domains if d in one} for one in by_window]
        if not any(values):
            continue
        if not any(value > 0 for one in values for value in one.values()):
            found.append(Figure(title, f"{note}: none in any window", Markup("")))
            continue
        table = tables.over_windows(tuned, key, f"{title} at the end of each window")
        drawing = pictures.ridges(tuned, values, title, percents=True)
        found.append(Figure(title, note, drawing, table))
    return found


def _asked(tuned: Tuned) -> Figure | None:
    found, table = sums.asked_and_achieved(tuned), tables.asked(tuned)
    if not found or table is None:
        return None
    rows = [
        dots.Dot(
            name,
            one.achieved,
            f"{name} asked {percent(one.asked)}, achieved {percent(one.achieved)}",
            tables.swatch_of(tuned, name),
            hollow=one.asked,
        )
        for name, one in found.items()
    ]
    what = "packed rows" if sums.by_rows(tuned) else "trained tokens"
    axis = dots.Axis(f"Share of {what}, asked and achieved", f"share of the {what}", _percents)
    note = "over the whole run; ring: asked, dot: achieved"
    return Figure("Asked and achieved", note, dots.draw(rows, axis), table)


def _repeats(tuned: Tuned) -> Figure | None:
    if not any(window.repeats for window in tuned.windows):
        return None
    last = tuned.windows[-1].repeats
    rows = [
        dots.Dot(name, last[name], f"{name} {number(last[name], 2)}", tables.swatch_of(tuned, name))
        for name in tuned.domains
        if name in last
    ]
    if not rows:
        return None
    caps = [one.get("max_repeats") for one in words.stages_of(tuned)]
    cap = next(
        (one for one in reversed(caps) if isinstance(one, int | float) and 0 < one < 1e9), None
    )
    axis = dots.Axis("How often the rows of each domain were read", "times its rows were read",
                     number, line=cap, line_words="the cap" if cap is not None else "",
                     at_least=1.0)  # fmt: skip
    note = "how often the rows of each domain were read by the end"
    table = tables.over_windows(tuned, "repeats", "Times read by the end of each window",
                                decimals=2)  # fmt: skip
    return Figure("Repeats", note, dots.draw(rows, axis), table)


def _percents(value: float, decimals: int) -> str:
    return f"{number(100.0 * value, max(0, decimals - 2))}{formats.SPACE}%"


def _reference_words(tuned: Tuned) -> str:
    if tuned.reference is None:
        return ""
    ways = {
        "tuned": "Each is the lowest held-out loss of a tuning on that domain alone.",
        "given": "They were given by the recipe.",
        "fraction": "They are a fraction of the loss at the start, not something measured.",
    }
    text = ways.get(tuned.reference.way, "")
    if tuned.reference.degenerate:
        text += " " + words.degenerate_words(tuned.reference.degenerate)
    told = [words.sentence(one) for one in tuned.reference.warnings]
    return " ".join([text.strip(), *told]).strip()


def _detected(tuned: Tuned, read: Detection) -> Detected:
    rows = [
        dots.Dot(
            name,
            read.shares[name],
            f"{name} {percent(read.shares[name])}"
            + (f" ± {percent(read.se[name])}" if name in read.se else ""),
            tables.swatch_of(tuned, name),
            max(0.0, read.shares[name] - 2 * read.se[name]) if name in read.se else None,
            read.shares[name] + 2 * read.se[name] if name in read.se else None,
            hollow=read.raw.get(name) if read.corrected else None,
            fine=tuple(one[name] for one in read.repeats if name in one),
        )
        for name in read.domains
        if name in read.shares
    ]
    note = "bars: two standard errors" + ("; fine ticks: the repeats" if read.repeats else "")
    note += "; ring: as judged, before the correction" if read.corrected else ""
    below = "share" if read.from_losses else "share of its texts"
    axis = dots.Axis("Shares of the domains, as detected", below, _percents)
    drawing = dots.draw(rows, axis) if rows else Markup("")
    return Detected(
        shares=Figure("Shares", note, drawing, tables_detection.shares(tuned, read)),
        confusion=tables_detection.confusion(read),
        settings=tables_detection.settings(read.settings),
        texts=tuple((text, judged_words(text)) for text in read.sampled),
        reading=words.detection_reading(tuned),
    )


def judged_words(text: Text) -> str:
    """The judge's answer, its likeliest domains first."""
    if text.judged is None:
        return "no valid judgement"
    names = sorted(text.judged, key=lambda name: -text.judged[name] if text.judged else 0.0)
    shown = [name for place, name in enumerate(names) if not place or text.judged[name] >= 0.05]
    return ", ".join(f"{name} {percent(text.judged[name])}" for name in shown[:3])


def _again(tuned: Tuned) -> str:
    """What to type in the folder of the page to do it again."""
    if tuned.run.kind == "tune":
        return AGAIN
    recipe: Mapping[str, object] = tuned.run.recipe
    model = recipe.get("model")
    word = shlex.quote(model) if isinstance(model, str) and model else "MODEL"
    domains = recipe.get("domains")
    file = "recipe.yaml" if tuned.run.recipe_text else "FILE"
    if isinstance(domains, str) and domains:
        file = shlex.quote(domains)
    return f"lamina detect {word} --domains {file} --out ../again"
