"""A ranking as the page wants it: pictures drawn, tables made, words found."""

import shlex
from dataclasses import dataclass

from markupsafe import Markup

from lamina.report import facts
from lamina.report.figure import Figure
from lamina.report.formats import number, percent
from lamina.report.nouns import Run
from lamina.report.rank import pictures, sums, tables, words
from lamina.report.rank.nouns import Ranked, Ranking
from lamina.report.rank.paint import shades_of
from lamina.report.rank.plan_section import PlanPart, plan_part
from lamina.report.rank.section_facts import rank_facts
from lamina.report.tables import Table
from lamina.report.tune import tables as tune_tables
from lamina.report.tune.nouns import DomainRows, Tuned
from lamina.report.verdicts import Part

_MOST_CELLS = 1500
"""Maps of the other rankings are drawn for as many cells in all."""


@dataclass(frozen=True, slots=True)
class Section:
    """A ranking, as the template wants it."""

    ranked: Ranked
    tuned: Tuned
    """The same run as the tuning's tables of its data want it."""
    run: Run
    anchor: str
    title: str
    reading: list[Part]
    command: str
    link: str
    facts: list[facts.Fact]
    inputs: Table | None
    outputs: Table | None
    maps: tuple[Figure, ...]
    bars: tuple[Figure, ...]
    scatter: Figure | None
    overlaps: Table | None
    spearmans: Table | None
    others: tuple[Figure, ...]
    prefixes: Table | None
    costs: Table | None
    values: Table | None
    stage_one: Figure | None
    plan: PlanPart | None
    data: Table | None
    sources: Table | None
    rows: tuple[DomainRows, ...]


def make(ranked: Ranked, *, title: str, anchor: str, link: str = "", cost: bool = False) -> Section:
    """Everything that the page says of one ranking."""
    domains = tuple(ranked.data.domains) if ranked.data else ()
    tuned = Tuned(ranked.run, domains, (), None, ranked.data, None, None, ())
    read = ranked.agreement
    return Section(
        ranked=ranked,
        tuned=tuned,
        run=ranked.run,
        anchor=anchor,
        title=title,
        reading=words.reading(ranked),
        command=_again(ranked),
        link=link,
        facts=rank_facts(ranked, cost=cost),
        inputs=facts.inputs(ranked.run),
        outputs=facts.outputs(ranked.run),
        maps=maps(ranked),
        bars=_bars(ranked),
        scatter=_scatter(ranked),
        overlaps=tables.overlaps(read, ranked.share) if read else None,
        spearmans=tables.spearmans(read) if read else None,
        others=_others(ranked),
        prefixes=tables.prefixes(ranked),
        costs=tables.costs(ranked),
        values=tables.values(ranked),
        stage_one=_stage_one(ranked),
        plan=plan_part(ranked.plan) if ranked.plan else None,
        data=tune_tables.data(tuned, ranked.data) if ranked.data else None,
        sources=tune_tables.sources(ranked.data) if ranked.data else None,
        rows=tuple(one for one in ranked.data.domains.values() if one.samples)
        if ranked.data
        else (),
    )


def maps(ranked: Ranked) -> tuple[Figure, ...]:
    """The values, and their places: few high values can leave the others pale."""
    main = ranked.main
    if main is None or not sums.blocks_of(main.values):
        return ()
    cut, places = sums.cut_of(ranked), sums.places(main)
    told = unit_words(ranked, main)
    unsure = cut.unsure if cut is not None else frozenset()
    note = f"outlined: the top {percent(ranked.share)}"
    if main.spread:
        note += "; dot: within one spread over seeds of the cut"
    unit = f", {main.unit}" if main.unit else ""
    values = pictures.Map(f"Value{unit}", main.values, frozenset(ranked.top), unsure, told)
    if any(value < 0.0 for value in main.values.values()):
        note += "; the other colour: below 0"
    found = [Figure(values.title, note, pictures.draw_map(values))]
    if len(main.values) <= _MOST_CELLS:
        order = {unit: float(place) for unit, place in places.items()}
        by_place = pictures.Map("Place in the ranking", order, frozenset(ranked.top), unsure, told,
                                reverse=True, whole=True)  # fmt: skip
        found.append(Figure(by_place.title, "1: highest", pictures.draw_map(by_place)))
    return tuple(found)


def unit_words(ranked: Ranked, main: Ranking) -> dict[str, str]:
    """A tooltip for each unit: value, spread, seeds, place, and on which side of the cut."""
    shades, places, inside = shades_of(main.values.values()), sums.places(main), set(ranked.top)
    cut = sums.cut_of(ranked)
    found: dict[str, str] = {}
    for unit, value in main.values.items():
        at = sums.place_of(unit)
        name = unit if at.block is None else f"block {at.block}, {at.type}"
        text = f"{name}: {shades.text(value)}"
        if unit in main.spread:
            text += f" ± {shades.text(main.spread[unit])}"
        seeds = [shades.text(one[unit]) for one in main.seeds[:6] if unit in one]
        text += f" (seeds: {', '.join(seeds)})" if len(seeds) > 1 else ""
        text += f"; place {places[unit]} of {len(places)}"
        text += f", in the top {percent(ranked.share)}" if unit in inside else ""
        text += ", within one spread of the cut" if cut and unit in cut.unsure else ""
        found[unit] = text
    return found


def _bars(ranked: Ranked) -> tuple[Figure, ...]:
    if ranked.main is None:
        return ()
    found: list[Figure] = []
    types, blocks = sums.by_type(ranked), sums.by_block(ranked)
    if len(types) > 1:
        title = "By type of module" if ranked.main.granularity == "module" else "By type"
        drawing = pictures.type_bars(types, "Mean value of each type of module")
        found.append(Figure(title, "mean value; right: how many of it are chosen", drawing))
    if len(blocks) > 1:
        drawing = pictures.block_bars(blocks, "Mean value of each block")
        found.append(Figure("By block", "mean value; below: how many of it are chosen", drawing))
    return tuple(found)


def _scatter(ranked: Ranked) -> Figure | None:
    removed, known = words.removed_of(ranked)
    main = ranked.main
    if main is None or len(removed) < 2 or ranked.way == "leave_one_out":
        return None
    told = f"Spearman {number(known, 2)}" if known is not None else ""
    shown = pictures.Scatter(
        title=f"{ranked.way} against leaving out each" + (f": {told}" if told else ""),
        across=removed,
        up=main.values,
        across_words="rise of the loss when it is left out",
        up_words=ranked.way,
        spread=main.spread,
        outlined=frozenset(ranked.top),
    )
    note = "; ".join(
        [*([told] if told else []), f"full: the top {percent(ranked.share)}",
         *(["bars: one spread over seeds"] if main.spread else [])]
    )  # fmt: skip
    return Figure("Against leaving out each", note, pictures.scatter(shown))


def _stage_one(ranked: Ranked) -> Figure | None:
    """The loss of the probe rows on the way to the adapter."""
    losses = words.stage_one_losses(ranked)
    if len(losses) < 2:
        return None
    steps = ranked.agreement.cost if ranked.agreement else {}
    drawing = pictures.steps(losses, steps.get("stage_one_steps"), steps.get("stable_at"))
    note = "loss of fixed probe rows, nats a token; dashed: stable from here"
    return Figure("Stage 1", note, drawing)


def _others(ranked: Ranked) -> tuple[Figure, ...]:
    """Small maps of the rankings measured beside, this ranking's top set outlined."""
    main = ranked.main
    if main is None:
        return ()
    room, found = _MOST_CELLS, []
    for name, one in ranked.beside.items():
        room -= len(one.values)
        drawing, note = Markup(""), ""
        if room >= 0:
            shades = shades_of(one.values.values())
            told = {unit: f"{unit}: {shades.text(value)}" for unit, value in one.values.items()}
            outlined = frozenset(ranked.top) & one.values.keys()
            drawing = pictures.draw_map(pictures.Map(name, one.values, outlined, words=told))
            note = one.unit or ""
            if outlined:
                note += f"{'; ' if note else ''}outlined: the top set of {ranked.way}"
        if drawing:
            found.append(Figure(name, note, drawing))
    return tuple(found)


def _again(ranked: Ranked) -> str:
    """What to type in the folder of the page to do it again."""
    if ranked.run.recipe_text:
        return "lamina rank recipe.yaml --out ../again"
    model = ranked.run.recipe.get("model")
    word = shlex.quote(model) if isinstance(model, str) and model else "MODEL"
    way = f" --way {shlex.quote(ranked.way)}" if ranked.way else ""
    return f"lamina rank {word} --data FILE{way} --out ../again"
