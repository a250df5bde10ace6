"""Whether a model's rows can run side by side at their own lengths, which is tried out.

What is known of an architecture is not asked: two short rows of different lengths are written on by
`write_slots`, and compared with plain passes over each alone. What so short a try cannot show is
read from the config: windows of attention that are shorter than the texts, and rotary embeddings
that change with the length.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from lamina.evaluate.models import LanguageModel
from lamina.evaluate.write_slots import Slots, read

_LENGTHS = (6, 4)
_STEPS = 2
_APART = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""As in engine.fast: the root mean square of the difference by the spread of the logits."""
_NOT_TAKEN = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, AssertionError)
_WINDOWS = ("sliding_window", "attention_chunk_size")
_HARMLESS = frozenset(
    "bos_token_id cache_implementation do_sample eos_token_id epsilon_cutoff eta_cutoff "
    "max_length max_new_tokens min_p output_attentions output_hidden_states output_scores "
    "pad_token_id repetition_penalty return_dict_in_generate temperature top_h top_k top_p "
    "transformers_version typical_p use_cache _from_model_config".split()
)
"""Settings for generation that do not change the likeliest token, or that `write_pick` knows."""


def fits(model: LanguageModel, span: int) -> bool:
    """Whether texts of up to `span` positions can be written in batches."""
    network: Any = model.network
    if "position_ids" not in inspect.signature(network.forward).parameters:
        return False
    if not set(network.generation_config.to_diff_dict()) <= _HARMLESS:
        return False
    config = network.config.get_text_config().to_dict()
    windows = [config[name] for name in _WINDOWS if config.get(name) is not None]
    if any(span > window for window in windows) or _changing_rotary(config):
        return False
    return _agrees(model)


def _changing_rotary(config: dict[str, Any]) -> bool:
    kinds = str(config.get("rope_parameters") or config.get("rope_scaling"))
    return "dynamic" in kinds or "longrope" in kinds


def _agrees(model: LanguageModel) -> bool:
    network: Any = model.network
    texts = [[(7 * i + 3 * n) % model.num_embeddings for i in range(n + _STEPS)] for n in _LENGTHS]
    alone = []
    for text in texts:
        ids = torch.tensor([text], device=model.device)
        alone.append(network(input_ids=ids, use_cache=False).logits[0, -_STEPS - 1 :])
    wanted = torch.stack(alone).double()
    try:
        first = read(model, [t[:n] for t, n in zip(texts, _LENGTHS, strict=True)], None)
        slots = Slots(model, len(texts))
        for row, length in enumerate(first.lengths):
            slots.enter(first.states, row, length)
        found = [first.logits_BV]
        for t in range(_STEPS):
            ids = [text[n + t] for text, n in zip(texts, _LENGTHS, strict=True)]
            found.append(slots.step(torch.tensor(ids, device=model.device)))
    except _NOT_TAKEN:
        return False
    apart = torch.stack(found, dim=1).double() - wanted
    spread = (wanted - wanted.mean(-1, keepdim=True)).square().mean().sqrt()
    far = apart.square().mean().sqrt() / spread.clamp_min(1e-12)
    return bool(far <= _APART[found[0].dtype])
