"""What `shares.json` and `texts.jsonl.gz` hold."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lamina.versatune import shares as formulas
from lamina.versatune.journal import Journal, Sampled
from lamina.versatune.sampling import Answers, Tell
from lamina.versatune.shares import Confusion, Estimate, Judgement

if TYPE_CHECKING:
    from lamina.versatune.detect_recipe import DetectSection

_MANY_INVALID = 0.05
"""A larger share of texts without a judgement is warned of."""


def result(
    answers: Answers,
    journal: Journal,
    section: DetectSection,
    domains: Sequence[str],
    *,
    tell: Tell,
) -> dict[str, Any]:
    """Shares of the domains from all texts that were judged, with everything known of them."""
    judge, confusion = answers.judge, answers.confusion
    rows = formulas.as_rows(journal.judged, len(domains))
    raw = formulas.average(rows, laplace=section.laplace)
    repeats = [
        formulas.average(rows[begin : begin + section.texts], laplace=section.laplace).shares
        for begin in range(0, len(rows), section.texts)
    ]
    warnings = _warnings(journal.judged, journal.texts, confusion)
    final, corrected = raw, False
    factor = confusion.amplification
    if section.correct and factor <= formulas.MOST_AMPLIFIED:
        final, corrected = formulas.correct(raw, confusion, seed=section.seed), True
    elif section.correct:
        times = f"{factor:.0f} times" if math.isfinite(factor) else "without bound"
        warnings.append(
            "not corrected: the judge tells some domains apart so badly that a correction would "
            f"enlarge errors {times} (allowed: {formulas.MOST_AMPLIFIED:.0f})"
        )
    for warning in warnings:
        tell(f"warning: {warning}")
    spread = formulas.spread_of(repeats)
    matrix = confusion.matrix
    return {
        **numbers(domains, final, raw, section.floor),
        "se_repeats": None if spread is None else dict(formulas.named(domains, spread)),
        "repeats": [dict(formulas.named(domains, one)) for one in repeats],
        "texts": len(rows),
        "tokens": sum(text.tokens for text in journal.texts),
        "finished": sum(text.finished for text in journal.texts),
        "invalid": sum(row is None for row in journal.judged),
        "empty": sum(not text.text.strip() for text in journal.texts),
        "judge": {
            "kind": section.judge,
            "accuracy": confusion.accuracy,
            "accuracy_se": confusion.accuracy_se,
            "rows": confusion.num_rows,
            "invalid": confusion.invalid,
            "confusion": {
                true: dict(formulas.named(domains, matrix[number]))
                for number, true in enumerate(domains)
            },
            "amplification": factor if math.isfinite(factor) else None,
            **judge.facts(),
        },
        "corrected": corrected,
        "stopped": answers.stopped,
        "warnings": warnings,
    }


def numbers(domains: Sequence[str], final: Estimate, raw: Estimate, floor: float) -> dict[str, Any]:
    """The shares of `shares.json`: final with the floor, raw as measured."""
    return {
        "domains": list(domains),
        "shares": dict(formulas.named(domains, formulas.raise_to_floor(final.shares, floor))),
        "se": dict(formulas.named(domains, final.se)),
        "raw": dict(formulas.named(domains, raw.shares)),
        "raw_se": dict(formulas.named(domains, raw.se)),
    }


def _warnings(
    judged: Sequence[Judgement], texts: Sequence[Sampled], confusion: Confusion
) -> list[str]:
    told = []
    invalid = sum(row is None for row in judged)
    if invalid > _MANY_INVALID * len(judged):
        empty = sum(not text.text.strip() for text in texts)
        told.append(
            f"{invalid} of {len(judged)} texts have no judgement ({empty} of them are empty); each "
            "counts the same for every domain, which draws the shares together"
        )
    chance = 1 / len(confusion.rows)
    if confusion.balanced - 2 * confusion.balanced_se <= chance:
        told.append(
            f"the judge is right on {confusion.balanced:.0%} of labelled rows (every domain counts "
            f"the same), hardly more than by chance ({chance:.0%}): the shares say little"
        )
    return told


def packed(journal: Journal, section: DetectSection, domains: Sequence[str]) -> bytes:
    """The texts with their judgements as gzipped lines, the same bytes every time."""

    def lines() -> Iterator[bytes]:
        for number, (text, row) in enumerate(zip(journal.texts, journal.judged, strict=True)):
            line = {
                "text": text.text,
                "tokens": text.tokens,
                "finished": text.finished,
                "repeat": number // section.texts,
                "judged": None if row is None else dict(zip(domains, row, strict=True)),
            }
            yield json.dumps(line, ensure_ascii=False).encode() + b"\n"

    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as file:
        file.writelines(lines())
    return buffer.getvalue()
