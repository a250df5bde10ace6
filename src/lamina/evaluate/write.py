"""Questions answered in writing: greedy as lm-evaluation-harness writes, or sampled for pass@k.

Greedy answers equal those of `HFLM.generate_until` (lm-eval 0.4.13) text for text, as it writes one
text at a time; in its batches it pads, which moves the last bits of the logits, so that two tokens
of the same likelihood may change places there, and here. Where they could differ beyond that is
told in `stops` and `write_prompts`.

A portion is a pool of items of like length; inside it texts begin as others end (`write_batch`).
Memory is the keys and values of the texts that run at once: about `batch_tokens` positions, or as
many as one item takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lamina.evaluate.encode import check_known
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.nouns import Raw, WriteItem
from lamina.evaluate.portions import Portion
from lamina.evaluate.stops import Stops
from lamina.evaluate.windows import Window
from lamina.evaluate.write_prompts import Prompt, encode_prompts

if TYPE_CHECKING:
    from lamina.engine.generate import Sampling

_POOL = 64
"""Texts of a portion: enough that few run alone at its end."""
_ROWS = 32
"""Texts that run at once, at most: more of them gain no time on a CPU, and cost memory."""
_KEPT = 4
"""Positions kept of running texts for each token of the budget: they are read one by one."""


@dataclass(frozen=True, slots=True)
class Writing:
    """What a portion holds."""

    prompts: tuple[Prompt, ...]
    """Longest first."""
    samples: int
    num_rows: int
    """Texts that run at once."""


def plan_writing(
    model: LanguageModel, items: Sequence[WriteItem], *, batch_tokens: int, samples: int = 1
) -> list[Portion[Writing]]:
    """The items in portions, longest prompts first; the same for the same arguments.

    Args:
        batch_tokens: what a pass of the model may read; a quarter of the positions whose keys and
            values are kept at once.
        samples: texts for each item.

    Raises:
        DataError: prompts with tokens that the model does not have.
    """
    prompts = encode_prompts(model, items)
    check_known(model, ((p.id, (Window(0, p.tokens, 0),)) for p in prompts))
    prompts.sort(key=lambda prompt: (-len(prompt.tokens), prompt.number))
    per_portion = max(1, _POOL // samples)
    return [
        _portion(prompts[begin : begin + per_portion], batch_tokens, samples)
        for begin in range(0, len(prompts), per_portion)
    ]


def _portion(prompts: Sequence[Prompt], batch_tokens: int, samples: int) -> Portion[Writing]:
    span = max(prompt.span for prompt in prompts)
    return Portion(
        ids=tuple(prompt.id for prompt in prompts),
        tokens=sum(len(p.tokens) + samples * p.max_tokens for p in prompts),
        cut={prompt.id: prompt.cut for prompt in prompts if prompt.cut},
        content=Writing(tuple(prompts), samples, max(1, min(_ROWS, _KEPT * batch_tokens // span))),
    )


def answer_writing(
    model: LanguageModel,
    portion: Portion[Writing],
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> dict[str, Raw]:
    """The answers to the items of a portion.

    Args:
        sampling: how tokens are drawn; None: the likeliest is taken.
        seed: with an item's place among all items and the number of the sample, what a sampled
            text depends on.

    Raises:
        CheckpointError: the model's output is not a number; the items are named.
    """
    import torch

    from lamina.evaluate.products import MOST_BYTES, find_products
    from lamina.evaluate.write_alone import write_alone
    from lamina.evaluate.write_batch import write_together
    from lamina.evaluate.write_fit import fits
    from lamina.evaluate.write_pick import Pick, Text

    content = portion.content
    texts = [Text(prompt, n) for prompt in content.prompts for n in range(content.samples)]
    ends = end_tokens(model)
    kinds = {prompt.stops for prompt in content.prompts}
    stops = {kind: Stops(model.tokenizer, kind, ends=ends) for kind in kinds}
    pick = Pick(model, sampling=sampling, seed=seed)
    products = find_products(model.network, most_bytes=MOST_BYTES)
    with torch.inference_mode(), products.used():
        if fits(model, max(prompt.span for prompt in content.prompts)):
            write_together(model, texts, pick, stops, num_rows=content.num_rows)
        else:
            for text in texts:
                write_alone(model, text, pick, stops[text.prompt.stops])
    written: dict[str, list[Text]] = {prompt.id: [] for prompt in content.prompts}
    for text in texts:
        written[text.prompt.id].append(text)
    return {
        prompt.id: {
            "texts": [stops[prompt.stops].text(text.tokens) for text in written[prompt.id]],
            "ended": [text.ended for text in written[prompt.id]],
            "tokens": [len(text.tokens) for text in written[prompt.id]],
            "cut": prompt.cut,
        }
        for prompt in content.prompts
    }


def end_tokens(model: LanguageModel) -> frozenset[int]:
    """Tokens that end a text by the model's settings for generation."""
    ends = model.network.generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())
