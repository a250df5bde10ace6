"""Prompts for a model from rows of any known type: what stands before the first answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError, RecipeError

if TYPE_CHECKING:
    from lamina.data.formats import Record
    from lamina.data.templates import Template


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is asked, as tokens."""

    place: str
    text: str
    ids: tuple[int, ...]


def read_prompts(
    data: str,
    tokenizer: Any,
    *,
    name: str,
    count: int,
    new_tokens: int,
    positions: int | None,
    chat_template: str | None,
    seed: int,
) -> tuple[list[Prompt], list[str]]:
    """Prompts drawn from rows, in the order of the file, and what to warn of.

    A prompt is what stands before the first answer. Equal ones count once.

    Args:
        name: what the user calls the model.
        positions: tokens that it reads at once; an answer has `new_tokens` of them.

    Raises:
        RecipeError: the tokenizer has no chat template, and none is named.
        DataError: rows that cannot be read, or no prompt that the model has room for.
    """
    import numpy as np

    from lamina.data.domains import read_records
    from lamina.data.recipe import domains_from_dict
    from lamina.data.templates import BUILT_IN, choose_template

    template = choose_template(chat_template, tokenizer, home=Path())
    if template is None:
        raise RecipeError(
            f"the tokenizer of {name} has no chat template, so there is no way to ask it. "
            f"Give --chat-template: {', '.join(BUILT_IN)}, or a .jinja file."
        )
    rows_of = domains_from_dict({"data": data}, "--data")["data"]
    records = read_records(rows_of, home=Path(), seed=seed)
    asking: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if before := _before_answer(record):
            asking.setdefault(before, record)
    if not asking:
        raise DataError(
            f"{data}: none of {len(records)} rows asks anything. Rows of conversations, or "
            "of prompt and completion, are needed; running text has no prompt."
        )
    rows = list(asking.values())
    order = np.random.Generator(np.random.PCG64([seed, 0x5F])).permutation(len(rows))
    room = None if positions is None else positions - new_tokens
    chosen: dict[int, Prompt] = {}
    too_long = 0
    for number in order.tolist():
        prompt = _prompt(rows[number], template, tokenizer)
        if room is not None and len(prompt.ids) > room:
            too_long += 1
        else:
            chosen[number] = prompt
        if len(chosen) == count:
            break
    if not chosen:
        raise DataError(
            f"{data}: all {too_long} prompts leave no room for {new_tokens} tokens in the "
            f"{positions} that {name} reads. Give shorter prompts, or fewer --tokens."
        )
    warnings = []
    if too_long:
        warnings.append(f"{too_long} prompts left no room for an answer and were passed over")
    if len(chosen) < count:
        warnings.append(f"{data} has {len(chosen)} prompts that differ; all were used")
    return [chosen[number] for number in sorted(chosen)], warnings


def _before_answer(record: Record) -> tuple[Any, ...]:
    """The turns up to the first answer; none where nobody asks."""
    turns = record.turns or ()
    first = next((n for n, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    asked = any(turn.role == "user" and turn.content.strip() for turn in turns[:first])
    return tuple(turns[:first]) if asked else ()


def _prompt(record: Record, template: Template, tokenizer: Any) -> Prompt:
    from lamina.data.formats import Unfit

    try:
        text, _ = template.render(_before_answer(record), prompt=True)
    except Unfit as unfit:
        raise DataError(
            f"{record.place}: the chat template ({template.name}) refuses it: {unfit}. Give "
            "another --chat-template, or rows that it takes."
        ) from None
    return Prompt(record.place, text, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
