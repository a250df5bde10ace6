"""Answers to choose from, scored: the log-likelihood of each continuation after its context.

As lm-evaluation-harness 0.4.13 scores them (`encode` has its rules, `plain` the arithmetic).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.core.errors import CheckpointError
from lamina.evaluate.encode import Question, encode_questions
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.nouns import ChoiceItem, Raw
from lamina.evaluate.portions import Portion


def plan_choices(
    model: LanguageModel, items: Sequence[ChoiceItem], *, batch_tokens: int
) -> list[Portion[tuple[Question, ...]]]:
    """The items in portions of about `batch_tokens`, long ones first.

    Raises:
        DataError: continuations that cannot be scored: see `encode_questions`.
        CheckpointError: a tokenizer without a token to start from.
    """
    questions = encode_questions(model, items)
    questions.sort(key=lambda question: -_tokens(question))
    portions: list[Portion[tuple[Question, ...]]] = []
    some: list[Question] = []
    for question in questions:
        if some and sum(map(_tokens, some)) + _tokens(question) > batch_tokens:
            portions.append(_portion(some))
            some = []
        some.append(question)
    if some:
        portions.append(_portion(some))
    return portions


def answer_choices(
    model: LanguageModel, portion: Portion[tuple[Question, ...]], *, batch_tokens: int = 4096
) -> dict[str, Raw]:
    """What the model makes of each pair of the items.

    Raises:
        CheckpointError: log-likelihoods that are not numbers.
    """
    from lamina.evaluate.plain import plain_scores

    windows = [window for question in portion.content for window in question.windows]
    found = iter(plain_scores(model, windows, batch_tokens=batch_tokens))
    answers: dict[str, Raw] = {}
    for question in portion.content:
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


def _tokens(question: Question) -> int:
    return sum(window.length for window in question.windows)


def _portion(questions: Sequence[Question]) -> Portion[tuple[Question, ...]]:
    return Portion(
        ids=tuple(question.id for question in questions),
        tokens=sum(map(_tokens, questions)),
        cut={question.id: question.cut for question in questions if question.cut},
        content=tuple(questions),
    )
