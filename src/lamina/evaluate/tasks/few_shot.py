"""Examples before a question, drawn and written as lm-evaluation-harness 0.4.13 does.

Its sampler (`lm_eval/api/samplers.py`) has one random stream for a task, seeded with 1234
(`fewshot_random_seed`), and takes from it for every item in turn: the examples of an item depend on
how many items came before it, not on what they are. A first part of the items (`--limit`) has the
same examples as in the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Literal, TypeVar

from lamina.evaluate.nouns import ChoiceItem, Item, Pair, TextItem, WriteItem
from lamina.evaluate.tasks.definition import Asked

T = TypeVar("T")
Message = dict[str, str]
"""`role` and `content`."""
ChatTemplate = Callable[[list[Message]], str]
"""Messages as the model wants to read them, ending where its answer begins."""
SEED = 1234
BETWEEN = "\n\n"
"""After each example, where there is no template."""


def draw(
    pool: Sequence[T], number: int, own: T, *, how: Literal["random", "spare", "first"], rng: Random
) -> list[T]:
    """Examples for one item, whose own row is `own`; `pool` has enough of them.

    `spare` draws one more and leaves out the item's own row; if by copies of that row too few are
    left, it draws again without them (`ContextSampler.sample`).
    """
    if number == 0:
        return []
    if how == "first":
        return list(pool[:number])
    if how == "random":
        return rng.sample(pool, number)
    others = [row for row in rng.sample(pool, number + 1) if row != own][:number]
    if len(others) < number:
        others = rng.sample([row for row in pool if row != own], number)
    return others


def asked_with(
    asked: Asked, shots: Sequence[Asked], *, delimiter: str, chat: ChatTemplate | None
) -> Item:
    """The item with its examples before it, as running text or through a chat template.

    With a template each example is a turn of the user and one of the assistant (the harness's
    `fewshot_as_multiturn`, on by default with `--apply_chat_template`), what stands before all is
    the system's, and a choice follows the template's end without a delimiter.
    """
    item = asked.item
    if isinstance(item, TextItem):
        return item
    begin = _begin(asked, shots, delimiter=delimiter, chat=chat)
    if isinstance(item, WriteItem):
        return replace(item, prompt=begin(item.prompt))
    assert isinstance(item, ChoiceItem), item
    between = "" if chat is not None else delimiter
    contexts = {pair.context: "" for pair in item.pairs}
    for context in contexts:
        contexts[context] = begin(context)
    pairs = (Pair(contexts[pair.context], between + pair.continuation) for pair in item.pairs)
    return replace(item, pairs=tuple(pairs))


def _begin(
    asked: Asked, shots: Sequence[Asked], *, delimiter: str, chat: ChatTemplate | None
) -> Callable[[str], str]:
    if chat is None:
        before = asked.system + "".join(_shown(shot, delimiter) for shot in shots)
        return lambda question: before + question
    messages = [{"role": "system", "content": asked.system}] if asked.system else []
    for shot in shots:
        messages.append({"role": "user", "content": shot.question})
        if shot.answer:
            messages.append({"role": "assistant", "content": shot.answer})
    return lambda question: chat([*messages, {"role": "user", "content": question}])


def _shown(shot: Asked, delimiter: str) -> str:
    """An example with an empty answer is its question alone, as in the harness."""
    return f"{shot.question}{delimiter}{shot.answer}{BETWEEN}" if shot.answer else shot.question
