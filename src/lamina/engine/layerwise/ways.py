"""From a recipe's `layerwise:` section to the tuner that it means."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.engine.layerwise.interface import Layerwise
from lamina.engine.layerwise.lisa import Lisa
from lamina.engine.layerwise.prilora import Prilora
from lamina.engine.layerwise.spider import Spider
from lamina.engine.layerwise_recipe import LayerwiseSection


def tuner_of(
    section: LayerwiseSection, *, seed: int, weights: Mapping[int, float] | None = None
) -> Layerwise:
    """A fresh tuner for one run.

    Args:
        seed: of the run; LISA's draws follow from it and the step.
        weights: LISA: by block, from `scores`; None draws all alike.
    """
    match section.way:
        case "lisa":
            return Lisa(period=section.period, layers=section.layers, seed=seed, weights=weights)
        case "spider":
            return Spider()
        case "prilora":
            return Prilora(every=section.every, keep=section.keep, decay=section.decay)
