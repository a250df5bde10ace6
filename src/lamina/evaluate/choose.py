"""Answers to choose from, scored: the log-likelihood of each continuation after its context.

As lm-evaluation-harness 0.4.13 scores them: `encode` has its rules, `ways` the fast ways to the
same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lamina.core.errors import CheckpointError
from lamina.evaluate.encode import Question, encode_questions
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.nouns import ChoiceItem, Raw
from lamina.evaluate.portions import Portion
from lamina.evaluate.stems import Tokens, common_prefix, stem_of

_LEAST = 8
"""Tokens that questions must have in common for a pass of their own."""
_WORTH = 8
"""A portion has at least so many times its common beginning: that is read again in the next."""

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True)
class Group:
    """Questions that begin alike, in the passes in which they are read."""

    begin: int
    """Tokens that all their windows begin with; 0 where that is not worth a pass of its own."""
    passes: tuple[tuple[Question, ...], ...]

    @property
    def questions(self) -> list[Question]:
        return [question for some in self.passes for question in some]


def plan_choices(
    model: LanguageModel, items: Sequence[ChoiceItem], *, batch_tokens: int
) -> list[Portion[Group]]:
    """The items in portions, long ones first: a pass of `batch_tokens`, or one question if longer.

    Questions of one subject that begin alike, as few-shot examples make them, have that beginning
    read once in a portion, which is then several passes long.

    Raises:
        DataError: continuations that cannot be scored: see `encode_questions`.
        CheckpointError: a tokenizer without a token to start from.
    """
    questions = encode_questions(model, items)
    portions = []
    for begin, some in _alike(items, questions):
        costs = [len(stem_of(question.windows, begin)[0].tokens) for question in some]
        order = sorted(range(len(some)), key=lambda place: -costs[place])
        passes = filled([some[n] for n in order], [costs[n] for n in order], batch_tokens)
        cost = dict(zip((question.id for question in some), costs, strict=True))
        weights = [sum(cost[question.id] for question in together) for together in passes]
        for together in filled(passes, weights, max(batch_tokens, _WORTH * begin)):
            portions.append(_portion(Group(begin, together), cost))
    return portions


def filled(things: Sequence[Thing], costs: Sequence[int], most: int) -> list[tuple[Thing, ...]]:
    """The things in order, as many together as cost `most`, or one that costs more."""
    groups: list[list[Thing]] = []
    spent = 0
    for thing, cost in zip(things, costs, strict=True):
        if groups and spent + cost <= most:
            groups[-1].append(thing)
            spent += cost
        else:
            groups.append([thing])
            spent = cost
    return [tuple(group) for group in groups]


def answer_choices(
    model: LanguageModel, portion: Portion[Group], *, batch_tokens: int = 4096
) -> dict[str, Raw]:
    """What the model makes of each pair of the items.

    Args:
        batch_tokens: positions of a batch where the model cannot read questions in one row.

    Raises:
        CheckpointError: log-likelihoods that are not numbers.
    """
    from lamina.evaluate.ways import score_questions

    group = portion.content
    passes = [[question.windows for question in some] for some in group.passes]
    found = iter(score_questions(model, passes, begin=group.begin, batch_tokens=batch_tokens))
    answers: dict[str, Raw] = {}
    for question in group.questions:
        mine = [next(found) for _ in question.windows]
        answers[question.id] = {
            "logprobs": [score.logprob for score in mine],
            "greedy": [score.greedy for score in mine],
            "cut": question.cut,
        }
    wrong = [id_ for id_, raw in answers.items() if not all(map(math.isfinite, raw["logprobs"]))]
    if wrong:
        raise CheckpointError(not_numbers(model, wrong))
    return answers


def not_numbers(model: LanguageModel, ids: Sequence[str]) -> str:
    """What is said of items whose log-likelihoods are not finite."""
    shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return (
        f"{model.name}: the log-likelihood is not a number on {len(ids)} items ({shown}). Its "
        "weights hold NaN or infinities, or overflow in this dtype: try dtype float32."
    )


def _alike(
    items: Sequence[ChoiceItem], questions: Sequence[Question]
) -> list[tuple[int, list[Question]]]:
    """Questions by what they begin with, and how many tokens that is; the others come last."""
    by_key: dict[tuple[str | None, Tokens], list[Question]] = {}
    for item, question in zip(items, questions, strict=True):
        key = (item.group, question.windows[0].tokens[:_LEAST])
        by_key.setdefault(key, []).append(question)
    found: list[tuple[int, list[Question]]] = []
    others: list[Question] = []
    for some in by_key.values():
        windows = [window for question in some for window in question.windows]
        begin = min(window.first_scored for window in windows)
        begin = min(begin, common_prefix([window.tokens for window in windows]))
        if len(some) > 1 and begin >= _LEAST:
            found.append((begin, some))
        else:
            others += some
    return [*found, (0, others)] if others else found


def _portion(group: Group, cost: Mapping[str, int]) -> Portion[Group]:
    questions = group.questions
    return Portion(
        ids=tuple(question.id for question in questions),
        tokens=group.begin + sum(cost[question.id] for question in questions),
        cut={question.id: question.cut for question in questions if question.cut},
        content=group,
    )
