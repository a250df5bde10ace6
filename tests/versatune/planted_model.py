"""A planted model: pico, truly trained on texts of three domains mixed 60/30/10."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORDS = {
    "law": "court judge appeal statute plaintiff ruling clause tort".split(),
    "medicine": "dose patient artery fever vaccine nerve clinic tumour".split(),
    "code": "return import class def lambda yield assert raise".split(),
}
PLANTED = {"law": 0.6, "medicine": 0.3, "code": 0.1}
LENGTH = 6


def planted_rows(domain: str, count: int, *, seed: int = 0) -> list[str]:
    """Texts of six words of one domain."""
    chance = random.Random(f"{domain} {seed}")
    return [" ".join(chance.choices(WORDS[domain], k=LENGTH)) for _ in range(count)]


@dataclass(frozen=True)
class Planted:
    """A model in memory and on the disk, with what is known of it."""

    model: Any
    tokenizer: Any
    folder: Path
    shares: dict[str, float]
    """What the training rows had."""
    labelled: dict[str, list[str]]
    """Other rows of each domain."""

    def exact(self) -> dict[str, float]:
        """The share of texts that the model itself gives to each domain: by their first word."""
        import torch

        with torch.no_grad():
            logits = self.model(input_ids=torch.tensor([[self.tokenizer.bos_token_id]])).logits
        first = logits[0, -1].double().softmax(-1)
        ids = self.tokenizer.convert_tokens_to_ids
        mass = {d: sum(float(first[ids(word)]) for word in WORDS[d]) for d in WORDS}
        return {d: mass[d] / sum(mass.values()) for d in mass}


def make_tokenizer(*, bos: bool = True, eos: bool = True) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *(word for own in WORDS.values() for word in own)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)  # words with blanks between
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="</s>" if eos else None,
        unk_token="<unk>",
    )


def make_model(seed: int = 0, *, vocab: int = 32) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).eval()


def plant(folder: Path) -> Planted:
    """A model saved in a folder, trained on 120/60/20 rows at once, 60 steps: about a second.

    The learning rate falls to 0. At the lowest loss the first token's probabilities are the shares
    of the rows, however much of the rest is learnt by heart.
    """
    import torch

    tokenizer, model = make_tokenizer(), make_model()
    texts = [t for d, share in PLANTED.items() for t in planted_rows(d, round(200 * share))]
    ids = torch.tensor([[0, *tokenizer.encode(text), 1] for text in texts])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=60)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        falling.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    labelled = {domain: planted_rows(domain, 40, seed=7) for domain in PLANTED}
    return Planted(model, tokenizer, folder, PLANTED, labelled)
