"""What each process does in tests/e2e/test_prefix_ddp.py: settles one cache, reads a batch of it.

Arguments: the folder of the cache, a folder for what is told.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamina.core.errors import LaminaError
from lamina.data.encode import Examples
from lamina.engine import parallel, prefix_cache
from lamina.engine.collate import collate, packed_row
from lamina.engine.losses import LossHead
from lamina.engine.prefix_cache import PrefixAt, PrefixCache


def examples() -> Examples:
    """Several batches of them."""
    draws = np.random.default_rng(0)
    lengths = draws.integers(200, 400, 16)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.ones(starts[-1], dtype=bool)
    trained[starts[:-1]] = False
    ids = draws.integers(4, 60, starts[-1]).astype(np.int32)
    return Examples(ids, trained, starts, lengths, tuple(map(str, range(16))))


def network() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=512, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train().requires_grad_(False)
    model.model.layers[2].requires_grad_(True)
    return model


def main(folder: Path, told: Path) -> None:
    parallel.start()
    model, data = network(), examples()
    lines: list[str] = []
    ran: list[int] = []
    counted = prefix_cache.hidden_after
    prefix_cache.hidden_after = lambda *args: ran.append(1) or counted(*args)
    try:
        cache = PrefixCache.settled(model, PrefixAt(folder, "model", (data,)), tell=lines.append)
    except LaminaError as error:
        (told / f"{parallel.rank()}.json").write_text(json.dumps({"error": str(error)}))
        parallel.stop()
        return
    batch = collate([packed_row(data, [n]) for n in (3, 8)], pad_id=0, flatten=False)
    head = LossHead(model)
    with cache.reading(model):
        loss = float(head(model, batch).loss.detach())
    found = {
        "states": hashlib.sha256((folder / "states.bin").read_bytes()).hexdigest(),
        "loss": loss,
        "without": float(head(model, batch).loss.detach()),
        "batches": len(ran),
        "told": lines,
    }
    (told / f"{parallel.rank()}.json").write_text(json.dumps(found))
    parallel.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
