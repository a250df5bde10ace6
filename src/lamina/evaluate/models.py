"""A causal language model in memory, ready to score. Finding and loading are in `engine.load`.

torch and transformers are imported when a model is loaded, not with this file. Memory is one
model's weights in the asked dtype; an adapter is merged into its base in memory.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lamina.core.errors import CheckpointError, RecipeError, did_you_mean
from lamina.engine.load import (
    Source,
    find_model,
    first_line,
    load_network,
    load_tokenizer,
    quiet,
)

__all__ = ["LanguageModel", "Progress", "Source", "find_model", "load_model", "quiet"]

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16", "auto")
Progress = Callable[[str], None]


@dataclass(slots=True)
class Findings:
    """What was found out about a model by trying; kept with it, so that it is tried once."""

    ways: Any = None
    """A `ways.Ways`, once scores were asked for."""


# Context lengths by the names configs use, in the order lm-evaluation-harness asks for them.
_LENGTH_KEYS = ("n_positions", "max_position_embeddings", "n_ctx")
_UNKNOWN_LENGTH = 2048
_UNLIMITED_TOKENIZER = 10**12


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A loaded model with what scoring needs to know about it."""

    name: str
    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    start: int | None
    """The token before a text: BOS if there is one, else EOS."""
    bos: int | None
    num_embeddings: int
    keeps_logits: bool
    """Whether the network can give the output of the last positions only."""
    device: torch.device
    findings: Findings = field(default_factory=Findings, compare=False, repr=False)


def load_model(
    source: Source, *, dtype: str = "float32", max_length: int | None = None
) -> LanguageModel:
    """The model in memory, on the GPU if there is one.

    Args:
        dtype: of the weights in memory; `auto` is the checkpoint's own.
        max_length: read at most this many tokens at once; else as many as the model is made for.

    Raises:
        CheckpointError: files that do not load, or weights that are missing from them.
        RecipeError: a dtype or a length that cannot be.
    """
    if dtype not in DTYPES:
        raise RecipeError(f"Unknown dtype `{dtype}`: {did_you_mean(dtype, DTYPES)}")
    # Read when torch is first loaded. By default its threads spin while they wait; where another
    # program wants a core as well, that made scoring 4 to 12 times dearer in CPU time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    with quiet():
        tokenizer = load_tokenizer(source)
        network = load_network(source, "auto" if dtype == "auto" else getattr(torch, dtype))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    to_device: Any = network.to
    to_device(device)
    network.eval()
    embeddings: Any = network.get_input_embeddings()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return LanguageModel(
        name=source.name,
        network=network,
        tokenizer=tokenizer,
        max_length=_max_length(source, network.config, tokenizer, max_length),
        start=eos if bos is None else bos,
        bos=bos,
        num_embeddings=embeddings.weight.shape[0],
        keeps_logits="logits_to_keep" in inspect.signature(network.forward).parameters,
        device=device,
    )


def check_length(source: Source, asked: int | None) -> None:
    """Raises where a model is not made for so many positions; reads its config alone.

    Raises:
        RecipeError: a length that cannot be.
        CheckpointError: a config that does not load.
    """
    if asked is None:
        return
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source.folder} does not load: {first_line(error)}") from error
    _check_length(source, _known_length(config), asked)


def _known_length(config: Any) -> int | None:
    values = (config.get_text_config()).to_dict()
    known = [int(values[key]) for key in _LENGTH_KEYS if values.get(key) is not None]
    return known[0] if known else None


def _check_length(source: Source, known: int | None, asked: int) -> None:
    if asked < 1:
        raise RecipeError(f"max_length is {asked}; it must be at least 1.")
    if known is not None and asked > known:
        raise RecipeError(
            f"max_length is {asked}, but {source.name} is made for {known} positions. "
            f"Ask for {known} or fewer."
        )


def _max_length(
    source: Source, config: Any, tokenizer: PreTrainedTokenizerBase, asked: int | None
) -> int:
    """As many positions as the harness would use, or fewer where asked."""
    known = _known_length(config)
    if asked is not None:
        _check_length(source, known, asked)
        return asked
    if known is not None:
        return known
    longest = tokenizer.model_max_length
    return _UNKNOWN_LENGTH if longest > _UNLIMITED_TOKENIZER else int(longest)
