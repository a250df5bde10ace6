"""How a model's scores are had: the fast way where it gives the plain way's numbers, else that.

What a model can do is found out by trying, once, and kept with it: its output embedding apart
(`engine.heads`), questions in one row (`shared_prefix`), products by oneDNN (`products`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lamina.engine.fast import NotHere
from lamina.engine.heads import OutputHead, find_head
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.outputs import Score
from lamina.evaluate.plain import plain_scores
from lamina.evaluate.products import Products, find_products
from lamina.evaluate.shared_prefix import (
    SharedWay,
    attending_by_stem,
    find_shared,
    read_prefix,
    shared_scores,
)
from lamina.evaluate.windows import Window

Windows = Sequence[Window]


@dataclass(frozen=True, slots=True)
class Ways:
    """What a model can do."""

    head: OutputHead | None
    shared: SharedWay | None
    products: Products


def ways_of(model: LanguageModel) -> Ways:
    """What the model can do; tried the first time."""
    if model.findings.ways is None:
        head, _ = find_head(model.network)
        products = find_products(model.network)
        with products.used():
            shared = None if head is None else find_shared(model, head)
        model.findings.ways = Ways(head, shared, products)
    return model.findings.ways


def score_questions(
    model: LanguageModel, passes: Sequence[Sequence[Windows]], *, begin: int, batch_tokens: int
) -> list[Score]:
    """The score of each window of each question, in order.

    Args:
        passes: questions that are read together, in one row where the model can.
        begin: tokens that all windows begin with, read once.
        batch_tokens: for the plain way, positions in one batch.
    """
    if not passes:
        return []
    ways = ways_of(model)
    with torch.inference_mode(), ways.products.used():
        if ways.shared is not None and _longest(passes) <= ways.shared.limit:
            try:
                return _shared(model, ways.shared, passes, begin)
            except NotHere:
                pass
        windows = [window for some in passes for question in some for window in question]
        return plain_scores(model, windows, batch_tokens=batch_tokens, head=ways.head)


def _shared(
    model: LanguageModel, way: SharedWay, passes: Sequence[Sequence[Windows]], begin: int
) -> list[Score]:
    found: list[Score] = []
    with attending_by_stem(model):
        kept = read_prefix(model, way, passes[0][0][0].tokens[:begin])
        for questions in passes:
            found += shared_scores(model, way, questions, begin=begin, kept=kept)
    return found


def _longest(passes: Sequence[Sequence[Windows]]) -> int:
    return max(window.length for some in passes for question in some for window in question)
