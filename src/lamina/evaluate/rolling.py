"""Texts of which every token is scored: word and byte perplexity, by document.

As `HFLM.loglikelihood_rolling` of lm-evaluation-harness 0.4.13: windows by `windows`, tokens as
`perplexity` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.core.errors import CheckpointError, DataError
from lamina.evaluate.choose import filled, not_numbers
from lamina.evaluate.encode import check_known, some_items
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.nouns import Raw, TextItem
from lamina.evaluate.perplexity import document_windows
from lamina.evaluate.portions import Portion
from lamina.evaluate.wikitext import count_bytes, count_words
from lamina.evaluate.windows import Window


@dataclass(frozen=True, slots=True)
class Reading:
    """A text item as windows, with what its loss is divided by."""

    id: str
    windows: tuple[Window, ...]
    words: int
    bytes: int
    cut: int


def plan_texts(
    model: LanguageModel, items: Sequence[TextItem], *, batch_tokens: int
) -> list[Portion[tuple[Reading, ...]]]:
    """The texts in portions of about `batch_tokens` or one text, in their order.

    Raises:
        DataError: completions longer than the model reads, or tokens that it does not have.
        CheckpointError: a tokenizer without a token to start from.
    """
    readings: list[Reading] = []
    long: list[str] = []
    for item in items:
        windows, cut = document_windows(model, item.document)
        if windows is None:
            long.append(item.id)
            continue
        measured = item.document.measured
        readings.append(
            Reading(item.id, windows, count_words(measured), count_bytes(measured), cut)
        )
    if long:
        raise DataError(
            f"{some_items(long)}: a completion that is longer than {model.name} reads "
            f"({model.max_length} tokens). Shorten it, leave these items out, or use a model with "
            "a longer context."
        )
    check_known(model, ((reading.id, reading.windows) for reading in readings))
    costs = [sum(window.length for window in reading.windows) for reading in readings]
    return [_portion(some) for some in filled(readings, costs, batch_tokens)]


def answer_texts(
    model: LanguageModel, portion: Portion[tuple[Reading, ...]], *, batch_tokens: int = 4096
) -> dict[str, Raw]:
    """The summed loss of each text.

    Args:
        batch_tokens: positions of a pass; a text may take several.

    Raises:
        CheckpointError: losses that are not numbers.
    """
    from lamina.evaluate.ways import score_questions

    windows = [window for reading in portion.content for window in reading.windows]
    passes = filled([(window,) for window in windows], [w.length for w in windows], batch_tokens)
    found = iter(score_questions(model, passes, begin=0, batch_tokens=batch_tokens))
    answers: dict[str, Raw] = {}
    for reading in portion.content:
        loss = -math.fsum(next(found).logprob for _ in reading.windows)
        answers[reading.id] = {
            "loss": loss,
            "tokens": sum(window.scored for window in reading.windows),
            "words": reading.words,
            "bytes": reading.bytes,
            "cut": reading.cut,
        }
    wrong = [id_ for id_, raw in answers.items() if not math.isfinite(raw["loss"])]
    if wrong:
        raise CheckpointError(not_numbers(model, wrong))
    return answers


def _portion(readings: Sequence[Reading]) -> Portion[tuple[Reading, ...]]:
    return Portion(
        ids=tuple(reading.id for reading in readings),
        tokens=sum(window.length for reading in readings for window in reading.windows),
        cut={reading.id: reading.cut for reading in readings if reading.cut},
        content=tuple(readings),
    )
