"""Layers that are modules, laid out as modules by blocks."""

import math
import re
from collections.abc import Mapping

from lamina.report.formats import natural
from lamina.report.nouns import Expert

MOST_MODULES = 40
"""More kinds of modules than this (experts of a router) are joined by their mean."""
ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def has_modules(expert: Expert) -> bool:
    """Whether every layer reads `block.module`."""
    return bool(expert.values) and all(
        re.fullmatch(r"[0-9]{1,9}\..+", layer) is not None for layer in expert.values
    )


def one_for_all(expert: Expert) -> bool:
    """Whether the plan gives every layer the same coefficient: no picture of it is needed."""
    return expert.coefficients is not None and len(set(expert.coefficients.values())) == 1


def cells(values: Mapping[str, float]) -> dict[tuple[int, str], float]:
    """Values by block and module; very many modules become the mean of those alike."""
    split = {
        layer: (int(layer.split(".", 1)[0]), layer.split(".", 1)[1])
        for layer in sorted(values, key=natural)
        if finite(values[layer])
    }
    many = len({module for _, module in split.values()}) > MOST_MODULES
    joined: dict[tuple[int, str], list[float]] = {}
    for layer, (block, module) in split.items():
        key = re.sub(r"(?<![^.])[0-9]+(?![^.])", "*", module) if many else module
        joined.setdefault((block, key), []).append(values[layer])
    return {key: math.fsum(found) / len(found) for key, found in joined.items()}


def modules_of(found: Mapping[tuple[int, str], float]) -> list[str]:
    """The modules of some cells, in the usual order of a block's projections."""
    return sorted({module for _, module in found}, key=_place)


def _place(module: str) -> tuple[int, list[tuple[int, str]]]:
    """JSON objects are sorted by key, so the model's own order is not known here."""
    last = module.rsplit(".", 1)[-1]
    return (ORDER.index(last) if last in ORDER else len(ORDER)), natural(module)


def module_words(module: str) -> str:
    """The last part of a name where that says enough."""
    last = module.rsplit(".", 1)[-1]
    shown = last if "_" in last and "*" not in module else module
    return shown if len(shown) <= 22 else "…" + shown[-21:]


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
