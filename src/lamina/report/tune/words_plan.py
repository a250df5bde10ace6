"""Which modules a tuning trained, in words: its plan, and how it went layer by layer."""

from collections.abc import Mapping

from lamina.report.rank.plan_words import layerwise_words, plan_words, price_words
from lamina.report.tune.nouns import Tuned
from lamina.report.verdicts import Part


def layerwise_of(tuned: Tuned) -> str:
    """How a tuning went layer by layer, `lisa`; empty where it did not."""
    given = tuned.run.recipe.get("layerwise")
    way = given.get("way") if isinstance(given, Mapping) else given
    return way if isinstance(way, str) and way != "none" else ""


def by_lora(tuned: Tuned) -> bool:
    train = tuned.run.recipe.get("train")
    return not (isinstance(train, Mapping) and train.get("method") == "full")


def plan_parts(tuned: Tuned) -> list[Part]:
    """One part, where there is a plan or a layer-wise way."""
    way = layerwise_of(tuned)
    if tuned.plan is not None:
        told = f"{plan_words(tuned.plan, way, lora=by_lora(tuned))} {price_words(tuned.plan)}"
        return [Part("Which modules", told)]
    return [Part("Which modules", layerwise_words(way))] if way else []
