"""A plan on the page of a tuning or a ranking: the map of its modules, its price, its rule."""

from dataclasses import dataclass

from lamina.report import facts
from lamina.report.figure import Figure
from lamina.report.rank import pictures
from lamina.report.rank.plan_nouns import Plan
from lamina.report.rank.plan_words import (
    plan_values,
    plan_words,
    price_facts,
    price_words,
)
from lamina.report.verdicts import Part


@dataclass(frozen=True, slots=True)
class PlanPart:
    """What the template shows of a plan."""

    reading: list[Part]
    map: Figure | None
    facts: list[facts.Fact]


def plan_part(plan: Plan, *, told: bool = False) -> PlanPart:
    """The plan in words (unless they stand elsewhere), drawn, and priced."""
    words = [
        Part("Which modules", plan_words(plan, done=False)),
        Part("What it saves", price_words(plan)),
    ]
    return PlanPart(
        reading=[] if told else words,
        map=plan_map(plan),
        facts=[facts.Fact(*one) for one in price_facts(plan)],
    )


def plan_map(plan: Plan) -> Figure | None:
    """Blocks by types; dark: tuned, outlined: tuned whole."""
    values, chosen = plan_values(plan), set(plan.chosen)
    told = {unit: f"{unit}: {'tuned' if unit in chosen else 'frozen'}" for unit in values}
    told |= {unit: f"{told.get(unit, unit)}, rank {rank:g}" for unit, rank in plan.ranks.items()
             if unit in chosen}  # fmt: skip
    told |= {unit: f"{unit}: tuned whole" for unit in plan.full}
    keyed = len({value for value in values.values() if value}) > 1
    shown = pictures.Map("Modules of the plan", values, frozenset(plan.full), words=told,
                         whole=all(value == int(value) for value in values.values()),
                         keyed=keyed)  # fmt: skip
    drawing = pictures.draw_map(shown)
    if not drawing:
        return None
    note = "dark: tuned, pale: frozen"
    note += "; darker: a higher rank" if keyed else ""
    note += "; outlined: tuned whole" if plan.full else ""
    return Figure("The plan", note, drawing)
