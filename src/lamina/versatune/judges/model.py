"""A causal language model as a judge: how likely is each domain's name after a prompt?

P(domain) is in proportion to the likelihood of " NAME" after the prompt, divided by that after
the same prompt with an empty text (contextual calibration, 2102.09690), so that a name which the
judge likes to say anyway gains nothing. One text at a time: its prompt is read once, and the names
follow in one batch on its cache, padded on the right, where padding changes nothing.
Only safetensors weights, never code that comes with a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from lamina.core.errors import CheckpointError, RecipeError
from lamina.engine.load import Source, find_model, load_network, load_tokenizer, quiet
from lamina.versatune.judges.interface import Judge
from lamina.versatune.shares import Judgement

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lamina.versatune.detect_recipe import ModelSection


def load_judge(
    section: ModelSection, domains: Sequence[str], *, home: Path | None = None
) -> ModelJudge:
    """The judge in memory, on the GPU if there is one.

    Raises:
        CheckpointError: there is no such model, or it does not load.
        RecipeError: the prompt is longer than the model reads.
    """
    source = find_judge(section, home)
    with quiet():
        tokenizer = load_tokenizer(source)
        dtype = "auto" if section.dtype == "auto" else getattr(torch, section.dtype)
        network = load_network(source, dtype)
    to_device: Any = network.to
    to_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return ModelJudge(network.eval(), tokenizer, section, domains)


def find_judge(section: ModelSection, home: Path | None) -> Source:
    """The judge's files; a relative path is looked for beside the recipe first.

    Raises:
        CheckpointError: there is no such model, or it is none that can be loaded.
    """
    near = None if home is None else home / Path(section.path).expanduser()
    return find_model(near if near is not None and near.exists() else section.path)


class ModelJudge(Judge):
    """A loaded model, its tokenizer and the prompt."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        section: ModelSection,
        domains: Sequence[str],
    ) -> None:
        self._model, self._tokenizer, self._section = model, tokenizer, section
        self._domains = tuple(domains)
        has_template = bool(tokenizer.chat_template)
        if section.chat and not has_template:
            raise RecipeError(
                f"detect.model.chat is true, but the tokenizer of {section.path} has no chat "
                "template. Leave it out, or take a chat model."
            )
        self._chat = has_template if section.chat is None else section.chat
        separator = "" if self._chat else " "
        self._names = [
            tokenizer.encode(separator + name, add_special_tokens=False) for name in domains
        ]
        unsayable = [name for name, ids in zip(domains, self._names, strict=True) if not ids]
        if unsayable:
            raise CheckpointError(
                f"The tokenizer of {section.path} has no token for {', '.join(unsayable)}, so the "
                "judge cannot name that domain. Take another judge."
            )
        self._check_length()
        self._baseline = self._scores("") if section.calibrate else torch.zeros(len(domains))

    def judge(self, texts: Sequence[str]) -> Iterator[Judgement]:
        for text in texts:
            scores = self._scores(text) - self._baseline
            if torch.isfinite(scores).all():
                yield tuple(scores.double().softmax(-1).tolist())
            else:
                yield None

    def facts(self) -> dict[str, Any]:
        return {
            "model": self._section.path,
            "calibrated": self._section.calibrate,
            "chat": self._chat,
        }

    def _scores(self, text: str) -> torch.Tensor:
        """Log-likelihood of each name after the prompt with a text, nats, float32 [k]."""
        device = self._model.device
        prompt = torch.tensor([self._prompt_ids(text)], device=device)
        longest = max(map(len, self._names))
        names_KT = torch.tensor(
            [ids + [ids[-1]] * (longest - len(ids)) for ids in self._names], device=device
        )
        with torch.inference_mode():
            read = self._model(input_ids=prompt, use_cache=True)
            first_KV = read.logits[:, -1].expand(len(names_KT), -1)
            logits_KTV = first_KV[:, None]
            cache = read.get("past_key_values")
            if longest > 1 and type(cache) is DynamicCache and not any(cache.is_linear):
                cache.batch_repeat_interleave(len(names_KT))
                said = self._model(input_ids=names_KT[:, :-1], past_key_values=cache)
                logits_KTV = torch.cat([logits_KTV, said.logits], dim=1)
            elif longest > 1:
                whole = torch.cat([prompt.expand(len(names_KT), -1), names_KT[:, :-1]], dim=1)
                logits_KTV = self._model(input_ids=whole, use_cache=False).logits[:, -longest:]
            log_KTV = F.log_softmax(logits_KTV.float(), dim=-1)
            chosen_KT = log_KTV.gather(-1, names_KT[..., None])[..., 0]
        inside_KT = torch.arange(longest) < torch.tensor([[len(ids)] for ids in self._names])
        return (chosen_KT.cpu() * inside_KT).sum(-1)

    def _prompt_ids(self, text: str) -> list[int]:
        shown = self._tokenizer.encode(text, add_special_tokens=False)
        if len(shown) > self._section.text_tokens:
            text = str(self._tokenizer.decode(shown[: self._section.text_tokens]))
            text = text.rstrip(
                "\ufffd"
            )  # half a character: its stand-in has more tokens than it had
        # Not str.format: the text may have braces, and so may the prompt.
        before, _, after = self._section.prompt.partition("{text}")
        listed = ", ".join(self._domains)
        filled = before.replace("{domains}", listed) + text + after.replace("{domains}", listed)
        if not self._chat:
            return list(self._tokenizer.encode(filled))
        rendered = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": filled}], add_generation_prompt=True, tokenize=False
        )
        assert isinstance(rendered, str), "one conversation gives one text"
        return list(self._tokenizer.encode(rendered, add_special_tokens=False))

    def _check_length(self) -> None:
        config = self._model.config.get_text_config().to_dict()
        limit = config.get("max_position_embeddings") or config.get("n_positions")
        needed = len(self._prompt_ids("")) + self._section.text_tokens + max(map(len, self._names))
        if limit is not None and needed > int(limit):
            raise RecipeError(
                f"The judge {self._section.path} reads {limit} tokens; the prompt with "
                f"{self._section.text_tokens} tokens of text and a name needs {needed}. Set "
                f"detect.model.text_tokens to {int(limit) - needed + self._section.text_tokens} "
                "or fewer, or shorten the prompt."
            )
