"""Held-out loss of a member: nats per scored token, and the unigram model it has to beat."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from rows import DOMAINS, read
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerBase

ADAPTERS = ("code", "unwanted")
MEMBERS = ("base", "instruct", "math", "code", "unwanted")


@dataclass(frozen=True, slots=True)
class Loss:
    """Summed nats and scored tokens of every row of one domain."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Nats per scored token."""
        return sum(self.nats) / sum(self.tokens)


def load(models: Path, name: str) -> LlamaForCausalLM:
    """A member in float32; an adapter is merged into the instruct model."""
    start = "instruct" if name in ADAPTERS else name
    llama = AutoModelForCausalLM.from_pretrained(models / start, dtype=torch.float32)
    if name in ADAPTERS:
        llama = PeftModel.from_pretrained(llama, models / name).merge_and_unload()
    return llama.eval()


def split(row: dict, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """Token ids of a row and the place of its first scored token.

    Of a plain text the first token is not scored: nothing stands before it.
    """
    if "text" in row:
        return tokenizer(row["text"])["input_ids"], 1
    prompt = tokenizer(row["prompt"])["input_ids"]
    return prompt + tokenizer(row["completion"])["input_ids"], len(prompt)


def held_out(folder: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, list]:
    """All held-out rows as token ids with the first scored place, by domain."""
    return {
        domain: [split(row, tokenizer) for row in read(folder / f"{domain}.jsonl.gz")]
        for domain in DOMAINS
    }


@torch.inference_mode()
def score(llama: LlamaForCausalLM, rows: list[tuple[list[int], int]]) -> Loss:
    """The loss of one model on the rows of one domain."""
    nats, tokens = [], []
    for ids, first in rows:
        hidden = llama.model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).last_hidden_state
        logits = llama.lm_head(hidden[0, first - 1 :])
        targets = torch.tensor(ids[first:])
        nats.append(float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum")))
        tokens.append(len(targets))
    return Loss(tuple(nats), tuple(tokens))


def unigram(train: list[int], rows: list[tuple[list[int], int]], *, vocabulary: int) -> float:
    """Nats per scored token of token frequencies with one added to each count."""
    counts, total = Counter(train), len(train) + vocabulary
    scored = [token for ids, first in rows for token in ids[first:]]
    return sum(math.log(total / (counts[token] + 1)) for token in scored) / len(scored)


def gain(before: Loss, after: Loss) -> tuple[float, float]:
    """How far the loss fell, in nats per token, and the standard error over the rows (paired)."""
    count, tokens = len(before.nats), sum(before.tokens)
    drops = [one - two for one, two in zip(before.nats, after.nats, strict=True)]
    mean = sum(drops) / tokens
    spread = sum((drop - mean * size) ** 2 for drop, size in zip(drops, before.tokens, strict=True))
    return mean, math.sqrt(spread * count / (count - 1)) / tokens


@torch.inference_mode()
def answer(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """What the model writes after the prompt, greedily, at most 60 tokens."""
    ids = tokenizer(prompt, return_tensors="pt")
    out = llama.generate(**ids, max_new_tokens=60, do_sample=False)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()
