"""Texts of which every token is scored: word and byte perplexity, by document.

As `HFLM.loglikelihood_rolling` of lm-evaluation-harness 0.4.13: windows by `windows`, tokens as
`perplexity` makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.core.errors import CheckpointError, DataError
from lamina.evaluate.choose import not_numbers
from lamina.evaluate.encode import check_known, some_items
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.nouns import Raw, TextItem
from lamina.evaluate.perplexity import document_windows
from lamina.evaluate.portions import Portion
from lamina.evaluate.windows import Window
from lamina.evaluate.wikitext import count_bytes, count_words


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
    portions: list[Portion[tuple[Reading, ...]]] = []
    some: list[Reading] = []
    for reading in readings:
        if some and sum(map(_tokens, some)) + _tokens(reading) > batch_tokens:
            portions.append(_portion(some))
            some = []
        some.append(reading)
    if some:
        portions.append(_portion(some))
    return portions


def answer_texts(
    model: LanguageModel, portion: Portion[tuple[Reading, ...]], *, batch_tokens: int = 4096
) -> dict[str, Raw]:
    """The summed loss of each text.

    Raises:
        CheckpointError: losses that are not numbers.
    """
    from lamina.evaluate.plain import plain_scores

    windows = [window for reading in portion.content for window in reading.windows]
    found = iter(plain_scores(model, windows, batch_tokens=batch_tokens))
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


def _tokens(reading: Reading) -> int:
    return sum(window.length for window in reading.windows)


def _portion(readings: Sequence[Reading]) -> Portion[tuple[Reading, ...]]:
    return Portion(
        ids=tuple(reading.id for reading in readings),
        tokens=sum(map(_tokens, readings)),
        cut={reading.id: reading.cut for reading in readings if reading.cut},
        content=tuple(readings),
    )
