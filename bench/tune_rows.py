"""Encodes rows of the six domains once, for both sides of bench/tune.py.

    python bench/tune_rows.py MODEL OUT.npz --length 512 [--tokens 32000]

OUT holds, for each domain, the examples to train on and those held out: ids, trained, starts. With
`--tokens` about so many tokens of every domain's share are kept, drawn with a fixed seed.
"""

import argparse
from pathlib import Path

import numpy as np

from lamina.data.encode import Examples
from lamina.data.load import load_domains
from lamina.data.recipe import DataSection, DomainSpec
from lamina.engine.load import find_model, load_tokenizer

DOMAINS = ("law", "medicine", "finance", "science", "code", "general")
ROWS = Path(__file__).parents[1] / "src" / "lamina" / "demo" / "domains"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tokens", type=int)
    given = parser.parse_args()
    tokenizer = load_tokenizer(find_model(given.model))
    template = None if tokenizer.chat_template else "plain"
    data = load_domains(
        {name: DomainSpec.model_validate(str(ROWS / f"{name}.jsonl.gz")) for name in DOMAINS},
        tokenizer,
        DataSection(max_length=given.length, packing=False, chat_template=template),
        home=Path.cwd(),
        num_embeddings=None,
        tell=None,
    )
    parts = {f"{name}/train": domain.train.examples for name, domain in data.items()}
    if given.tokens:
        parts = drawn(parts, given.tokens)
    parts |= {f"{name}/heldout": domain.heldout for name, domain in data.items()}
    arrays = {
        f"{name}/{field}": array
        for name, part in parts.items()
        for field, array in {
            "ids": part.ids,
            "trained": part.trained,
            "starts": part.starts,
            "num_bytes": part.num_bytes,
        }.items()
    }
    np.savez(given.out, **arrays)


def drawn(parts: dict[str, Examples], tokens: int) -> dict[str, Examples]:
    """About `tokens` tokens in all, of each domain as large a part of its examples."""
    share = tokens / sum(len(part.ids) for part in parts.values())
    draws = np.random.default_rng(0)
    return {
        name: part.take(draws.permutation(len(part))[: max(1, round(share * len(part)))])
        for name, part in parts.items()
    }


if __name__ == "__main__":
    main()
