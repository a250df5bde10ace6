"""Is one model truly better than another on the same text? Paired differences by document.

Both models read the same documents, so what makes a document hard cancels; the standard error is
that of the difference, far below those of the two losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.core.errors import DataError
from lamina.evaluate.perplexity import TextLoss, ratio_se

SHOWN_AT = 2.0
"""Standard errors a difference must be away from zero before we call it shown (about 95 in 100)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Loss of one model minus that of another, in nats per token: below zero if it is better."""

    value: float
    se: float | None
    """None when there are too few documents to tell."""

    @property
    def shown(self) -> bool:
        return shown(self.value, self.se)


def paired_difference(first: TextLoss, second: TextLoss) -> Difference:
    """`first.loss - second.loss` and its standard error over documents.

    Raises:
        DataError: the two were not measured on the same documents with the same tokens.
    """
    if first.row_tokens != second.row_tokens:
        raise DataError(
            f"Losses per token cannot be compared: {len(first.row_tokens)} texts with "
            f"{first.tokens} tokens against {len(second.row_tokens)} with {second.tokens}. "
            "Other texts, another tokenizer, or another max_length; compare byte perplexities."
        )
    gaps = [a - b for a, b in zip(first.row_sums, second.row_sums, strict=True)]
    return Difference(math.fsum(gaps) / first.tokens, ratio_se(gaps, first.row_tokens))


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The mean over texts that share no document, each counted alike."""
    assert differences, "no difference to take the mean of"
    count = len(differences)
    value = math.fsum(difference.value for difference in differences) / count
    errors = [difference.se for difference in differences if difference.se is not None]
    if len(errors) < count:
        return Difference(value, None)
    return Difference(value, math.sqrt(math.fsum(error**2 for error in errors)) / count)


def shown(difference: float, se: float | None) -> bool:
    """Whether a difference is more than chance: over two standard errors from zero."""
    return se is not None and abs(difference) > SHOWN_AT * se
