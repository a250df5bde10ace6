"""Contexts and continuations as tokens, letter by letter as lm-evaluation-harness makes them.

From `TemplateLM._encode_pair`, `loglikelihood` and `HFLM.tok_encode` of lm-eval 0.4.13: white space
at the end of a context goes to the continuation; both are encoded together and split after as many
tokens as the context alone has; special tokens are what the tokenizer itself adds, unless the
string begins with the start token already. A context that is too long loses its beginning.

Strings are encoded in batches, each different one once: a context that four choices share is
encoded once and not four times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lamina.core.errors import CheckpointError, DataError
from lamina.evaluate.models import LanguageModel, quiet
from lamina.evaluate.nouns import ChoiceItem, Pair
from lamina.evaluate.windows import Window

_BATCH = 512
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Question:
    """A choice item as tokens: a window for each of its pairs."""

    id: str
    windows: tuple[Window, ...]
    cut: int
    """Tokens of context lost, the most over the pairs."""


def encode_questions(model: LanguageModel, items: Sequence[ChoiceItem]) -> list[Question]:
    """The items as tokens, in their order.

    Raises:
        DataError: continuations without a token or longer than the model reads (the harness stops
            there, too), or tokens that the model does not have; all items of a kind in one message.
        CheckpointError: a tokenizer without a token to start from.
    """
    pairs = [pair for item in items for pair in item.pairs]
    encoded = iter(encode_pairs(model, pairs))
    questions = []
    empty, long = [], []
    for item in items:
        windows, cut = [], 0
        for number, _ in enumerate(item.pairs):
            context, continuation = next(encoded)
            if not continuation:
                empty.append(item.id)
            if len(continuation) > model.max_length:
                long.append(item.id)
            whole = (*context, *continuation)
            kept = whole[-(model.max_length + 1) :]
            cut = max(cut, len(whole) - len(kept))
            windows.append(Window(number, kept, len(continuation)))
        questions.append(Question(item.id, tuple(windows), cut))
    if empty:
        raise DataError(
            f"{some_items(empty)}: a continuation that adds no token to its context, so there is "
            "nothing to score. Write an answer there, or leave these items out."
        )
    if long:
        raise DataError(
            f"{some_items(long)}: a continuation that is longer than {model.name} reads "
            f"({model.max_length} tokens). Shorten it, leave these items out, or use a model with "
            "a longer context."
        )
    check_known(model, ((question.id, question.windows) for question in questions))
    return questions


def encode_pairs(
    model: LanguageModel, pairs: Sequence[Pair]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Context and continuation of each pair as tokens; the context has at least one."""
    moved = [_spaces_moved(pair) for pair in pairs]
    whole = _encode_all(model, (_together(pair) for pair in moved if pair.context))
    alone = _encode_all(model, (pair.context for pair in moved if pair.context))
    bare = _encode_all(
        model, (pair.continuation for pair in moved if not pair.context), special=False
    )
    encoded = []
    for pair in moved:
        if pair.context:
            context = alone[pair.context]
            text = whole[_together(pair)]
            encoded.append((context, text[len(context) :]))
            continue
        continuation = bare[pair.continuation]
        if continuation[:1] == (start_of(model),):
            encoded.append((continuation[:1], continuation[1:]))
        else:
            encoded.append(((start_of(model),), continuation))
    return encoded


def start_of(model: LanguageModel) -> int:
    """The token before a text: BOS, else EOS.

    Raises:
        CheckpointError: the tokenizer has neither.
    """
    if model.start is None:
        raise CheckpointError(
            f"The tokenizer of {model.name} has neither a BOS nor an EOS token, so the first "
            "token of a text has nothing to follow. Name one in tokenizer_config.json."
        )
    return model.start


def check_known(
    model: LanguageModel, rows: Iterable[tuple[str, Sequence[Window]]], what: str = "item"
) -> None:
    """Refuse tokens that the model's embedding does not have."""
    wrong, worst = [], -1
    for id_, windows in rows:
        largest = max((max(window.tokens) for window in windows), default=-1)
        if largest >= model.num_embeddings:
            wrong.append(id_)
            worst = max(worst, largest)
    if wrong:
        raise DataError(
            f"{some_items(wrong, what)}: the tokenizer gives token {worst} "
            f"({model.tokenizer.convert_ids_to_tokens(worst)!r}), but {model.name} knows "
            f"{model.num_embeddings} tokens. The tokenizer belongs to another model."
        )


def _spaces_moved(pair: Pair) -> Pair:
    """White space at the end of the context goes to the continuation."""
    context = pair.context.rstrip()
    return Pair(context, f"{pair.context[len(context) :]}{pair.continuation}")


def _together(pair: Pair) -> str:
    return f"{pair.context}{pair.continuation}"


def _encode_all(
    model: LanguageModel, texts: Iterable[str], *, special: bool = True
) -> dict[str, tuple[int, ...]]:
    """Tokens of each different text; `special`: with the tokens the tokenizer itself adds."""
    unique = list(dict.fromkeys(texts))
    begin = str(model.tokenizer.decode(start_of(model))) if special else None
    encoded: dict[str, tuple[int, ...]] = {}
    for added in (True, False) if special else (False,):
        some = [t for t in unique if begin is None or t.startswith(begin) != added]
        with quiet():
            for at in range(0, len(some), _BATCH):
                batch = some[at : at + _BATCH]
                rows = model.tokenizer(
                    batch, add_special_tokens=added, return_attention_mask=False
                )["input_ids"]
                encoded |= zip(batch, map(tuple, rows), strict=True)
    return encoded


def some_items(ids: Sequence[str], what: str = "item") -> str:
    """`item 3`, or `2 items (3, 5)`."""
    unique = list(dict.fromkeys(ids))
    if len(unique) == 1:
        return f"{what} {unique[0]}"
    more = ", ..." if len(unique) > _SHOWN else ""
    return f"{len(unique)} {what}s ({', '.join(unique[:_SHOWN])}{more})"
