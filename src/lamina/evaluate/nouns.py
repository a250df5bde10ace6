"""What is asked of a model and what it answered: plain frozen data, no torch.

An item is asked in one of three ways: its answers are scored (`ChoiceItem`), it is answered in
writing (`WriteItem`), or it is a text whose tokens are scored (`TextItem`). What came back is kept
as plain JSON, a *raw* answer, from which a task's `judge` makes values; so a result can be judged
again without the model. Every value is a sum and a count: a metric is a function of one sum by the
other over all items, which makes standard errors and paired differences the same few lines for
accuracy, exact match, pass@k and perplexity.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lamina.evaluate.text import Document

Row = Mapping[str, Any]
"""One row of a data set, as its file or the hub has it."""
Raw = Mapping[str, Any]
"""What a model answered to one item, as JSON keeps it.

* of a ChoiceItem: `logprobs` (nats, a sum for each pair), `greedy` (whether each is what the model
  would have said), `cut` (tokens of context lost, the most over the pairs);
* of a WriteItem: `texts` (one for each sample), `ended` (`stop`, `eos` or `length` for each),
  `tokens` (written, for each), `cut`; after its programs were run also `verdicts` (a list of JSON
  verdicts);
* of a TextItem: `loss` (nats, summed), `tokens`, `words`, `bytes`, `cut`.
"""
Values = Mapping[str, tuple[float, float]]
"""For each metric the item's sum and count; an accuracy has count 1."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A continuation to be scored after its context, encoded together as the harness does."""

    context: str
    continuation: str


@dataclass(frozen=True, slots=True)
class ChoiceItem:
    """A question whose possible answers are scored."""

    id: str
    pairs: tuple[Pair, ...]
    gold: tuple[int, ...]
    """Indices of the right answers: one, but in TruthfulQA's second form."""
    lengths: tuple[int, ...]
    """Characters of each answer, what `acc_norm` divides by."""
    group: str | None = None
    """The subject, where the data set has some."""
    asked: tuple[tuple[int, ...], ...] = ()
    """Where one context is asked about in several forms, the pairs of each (TruthfulQA: mc1, whose
    first is right, and mc2, whose right ones are `gold`); each pair is scored once."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is run to judge a written program: `before` + the writing, then `tests`."""

    before: str
    tests: str
    entry: str | None
    """The function asked for, where the data names it."""


@dataclass(frozen=True, slots=True)
class WriteItem:
    """A question that is answered in writing."""

    id: str
    prompt: str
    stops: tuple[str, ...]
    max_tokens: int
    answer: str
    program: Program | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text of which every token is scored."""

    id: str
    document: Document
    group: str | None = None


Item = ChoiceItem | WriteItem | TextItem


@dataclass(frozen=True, slots=True)
class Metric:
    """A number over items: `scale` of the sum of their sums by the sum of their counts."""

    name: str
    higher_is_better: bool
    scale: Literal["ratio", "exp", "bits"] = "ratio"

    def of(self, ratio: float) -> float:
        """The metric at this ratio."""
        match self.scale:
            case "ratio":
                return ratio
            case "exp":
                return math.exp(ratio) if ratio < 709 else math.inf
            case "bits":
                return ratio / math.log(2)

    def slope(self, ratio: float) -> float:
        """Its derivative there, for standard errors."""
        match self.scale:
            case "ratio":
                return 1.0
            case "exp":
                return self.of(ratio)
            case "bits":
                return 1 / math.log(2)


@dataclass(frozen=True, slots=True)
class Split:
    """Where one part of a data set is: names of local files, and its place on the hub."""

    files: tuple[str, ...]
    """Stems, the first that is found counts: `gsm8k_test` is gsm8k_test.jsonl.gz, .jsonl, ..."""
    hub: tuple[str, str | None, str]
    """Data set, configuration (None: the only one), split."""


Judge = Callable[[Item, Raw], Values]


@dataclass(frozen=True, slots=True)
class Task:
    """One measure on one data set, defined as lm-evaluation-harness 0.4.13 defines it.

    `judge` is pure; `tasks.build_items` finds the rows and puts few-shot examples
    before the questions.
    """

    name: str
    version: int
    """Raised when results can no longer be compared with those of the version before."""
    kind: Literal["choices", "write", "code", "text"]
    metrics: tuple[Metric, ...]
    """The first is the one that tables show."""
    judge: Judge
    chance: float | None = None
    """What guessing gives of the first metric, where that is known."""
