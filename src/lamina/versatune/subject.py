"""The model that is asked what it knows: where its texts begin and end, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lamina.core.errors import RecipeError
from lamina.versatune.journal import Sampled

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is asked, with where its texts begin and end."""

    model: nn.Module
    tokenizer: Any
    start_id: int
    ends: tuple[int, ...]
    num_ids: int
    positions: int | None


def start_token(tokenizer: Any) -> int:
    """What begins a text: BOS, else EOS.

    Raises:
        RecipeError: neither is there.
    """
    eos = tokenizer.eos_token_id
    start = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise RecipeError(
            "The tokenizer has no BOS and no EOS token, so there is nothing to begin a text with. "
            "Set `bos_token` in its tokenizer_config.json to the token that texts began with in "
            "training."
        )
    return start


def open_subject(model: nn.Module, tokenizer: Any) -> Subject:
    """The model with its start and end tokens.

    Raises:
        RecipeError: there is no start token, or it is beyond the model's embedding.
    """
    start, eos = start_token(tokenizer), tokenizer.eos_token_id
    any_model: Any = model
    rows = int(any_model.get_input_embeddings().weight.shape[0])
    if start >= rows:
        raise RecipeError(
            f"The start token {tokenizer.convert_ids_to_tokens(start)} has the id {start}, but the "
            f"model's embedding has {rows} rows: tokenizer and model do not belong together."
        )
    generation: Any = any_model.generation_config
    also = generation.eos_token_id if generation is not None else None
    # A default of the config's class may name any token; one that ends texts is a special one.
    special = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    also = set(also if isinstance(also, list | tuple) else [also]) & special
    ends = also | ({eos} - {None})
    known = tokenizer.get_vocab().values()
    config = any_model.config.get_text_config().to_dict()
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    return Subject(
        model=model,
        tokenizer=tokenizer,
        start_id=start,
        ends=tuple(sorted(ends)),
        num_ids=min(rows, max(known) + 1),
        positions=None if positions is None else int(positions),
    )


def text_of(ids: Sequence[int], subject: Subject) -> Sampled:
    """Sampled tokens as text, without special tokens."""
    finished = bool(ids) and ids[-1] in subject.ends
    kept = ids[:-1] if finished else ids
    text = subject.tokenizer.decode(
        kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Sampled(text.encode("utf-8", "replace").decode(), len(ids), finished)
