"""What a step costs when only some blocks are tuned: operations, CPU seconds, memory.

    python bench/prefix.py [--json FILE] [--repeat 5]

A Llama-like model of 16 blocks, made on the spot, with LoRA on all linear modules of the chosen
blocks; one batch, forward and backward, as `lamina tune` does them (the loss of all ways is the
same code). Operations are those of matrix products, by the formulas of torch's FlopCounterMode,
told in forward passes of the whole model; CPU seconds are the median of the repeated steps; memory
is the most bytes that tensors made in the step held at once. "PEFT's way" is
`activation_checkpointing_enable` (transformers) on a PEFT model, whose hook on the input embedding
makes the backward pass go through every block. Needs neither network nor GPU. Ends with 1 when a
target is missed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import LlamaConfig, LlamaForCausalLM

from lamina.data.encode import Examples
from lamina.engine.collate import collate, packed_row
from lamina.engine.heads import core_model
from lamina.engine.load import quiet
from lamina.engine.losses import LossHead
from lamina.engine.prefix import end_at_prefix
from lamina.engine.prefix_cache import PrefixAt, PrefixCache, reading
from merge import Target

NUM_BLOCKS, HIDDEN, VOCABULARY, LENGTH, ROWS = 16, 256, 1024, 256, 4
RANK = 4
"""3 % of the blocks' operations, as rank 64 is of a model of 7B."""
ALL = tuple(range(NUM_BLOCKS))
TOP = ALL[-4:]
SCATTERED = (0, 5, 10, 15)
LINEARS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
LEAST_OPERATIONS, LEAST_CACHED, LARGEST_GAP = 1.7, 3.5, 10.0


@dataclass(frozen=True, slots=True)
class Way:
    """How a step is taken."""

    title: str
    blocks: tuple[int, ...]
    checkpointing: bool
    hook: bool = False
    """PEFT's and transformers' hook on the input embedding stays."""
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step of one way costs."""

    loss: float
    passes: float
    """Operations of forward and backward, in forward passes of the model without adapters."""
    cpu_seconds: float
    peak_bytes: int
    built_passes: float = 0.0
    """Of building the cache, once, for this batch's examples."""


WAYS = {
    "peft": Way("top 4, checkpointing, PEFT's way", TOP, True, hook=True),
    "ours": Way("top 4, checkpointing", TOP, True),
    "cached": Way("top 4, checkpointing, prefix cached", TOP, True, cached=True),
    "all": Way("all 16", ALL, False),
    "top": Way("top 4", TOP, False),
    "scattered": Way("4 scattered (0, 5, 10, 15)", SCATTERED, False),
    "plain_cached": Way("top 4, prefix cached", TOP, False, cached=True),
}


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it holds and not yet freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if id(storage) not in before | self._known:
                self._known.add(id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    leaves = (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))
    return [leaf.untyped_storage() for leaf in leaves]


def examples() -> Examples:
    """One example of full length a row; the second half of each is trained."""
    draws = np.random.default_rng(0)
    return Examples(
        ids=draws.integers(2, VOCABULARY, ROWS * LENGTH).astype(np.int32),
        trained=np.tile(np.arange(LENGTH) >= LENGTH // 2, ROWS),
        starts=np.arange(ROWS + 1, dtype=np.int64) * LENGTH,
        num_bytes=np.full(ROWS, LENGTH, dtype=np.int64),
        places=tuple(f"row {number}" for number in range(ROWS)),
    )


def network() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=688,
        num_hidden_layers=NUM_BLOCKS, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=LENGTH, use_cache=False,
        attn_implementation="eager",  # whose products the counter sees
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def tuned(way: Way) -> Any:
    """The model with adapters in the way's blocks, drawn so that they do something."""
    config = LoraConfig(
        r=RANK,
        target_modules=list(LINEARS),
        layers_to_transform=list(way.blocks),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with quiet():
        model = get_peft_model(network(), config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    if way.checkpointing:
        core_model(model).activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
        if not way.hook:
            end_at_prefix(model)
    return model.train()


class Operations(TorchDispatchMode):
    """Adds up the operations of matrix products by torch's own formulas.

    As FlopCounterMode does, whose hooks on modules do not go with a gradient taken inside a forward
    pass, as the loss takes it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def operations(work: Callable[[], Any]) -> int:
    with Operations() as counter:
        work()
    return counter.total


def measured(way: Way, forward: int, repeat: int, folder: Path) -> Cost:
    """Takes steps one way, each time on the same batch."""
    data = examples()
    batch = collate(
        [packed_row(data, [row], row=row) for row in range(ROWS)], pad_id=0, flatten=False
    )
    model = tuned(way)
    head = LossHead(model)
    cache, built = None, 0

    def build() -> None:
        nonlocal cache
        cache = PrefixCache.settled(model, PrefixAt(folder, "bench", (data,)))

    if way.cached:
        built = operations(build)

    def step() -> float:
        model.zero_grad()
        loss = head(model, batch).loss
        loss.backward()
        return float(loss.detach())

    with reading(cache, model):
        counted = operations(step)
        seconds = []
        for _ in range(repeat):
            began = time.process_time()
            loss = step()
            seconds.append(time.process_time() - began)
        model.zero_grad()
        with Alive() as alive:
            step()
    return Cost(loss, counted / forward, statistics.median(seconds), alive.peak, built / forward)


def forward_operations() -> int:
    model, data = network().eval(), examples()
    batch = collate([packed_row(data, [row]) for row in range(ROWS)], pad_id=0, flatten=False)
    with torch.no_grad():
        return operations(lambda: LossHead(model)(model, batch)) - operations(
            lambda: LossHead(model)
        )


def targets(costs: Mapping[str, Cost]) -> list[Target]:
    """What issue 4 asks for."""
    peft = costs["peft"]
    gap = max(
        abs(costs[name].loss - peft.loss) / abs(peft.loss)
        for name in ("ours", "cached", "top", "plain_cached")
    )
    return [
        Target("operations, PEFT's way / ours", peft.passes / costs["ours"].passes,
               LEAST_OPERATIONS, True),
        Target("operations, PEFT's way / ours with the prefix cached",
               peft.passes / costs["cached"].passes, LEAST_CACHED, True),
        Target("loss of these ways, largest difference in millionths", 1e6 * gap, LARGEST_GAP),
    ]  # fmt: skip


def table(costs: Mapping[str, Cost]) -> str:
    lines = ["| LoRA on | operations (forward passes) | CPU seconds | peak MB | loss |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, cost in costs.items():
        lines.append(
            f"| {WAYS[name].title} | {cost.passes:.2f} | {cost.cpu_seconds:.3f} | "
            f"{cost.peak_bytes / 2**20:.1f} | {cost.loss:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    forward = forward_operations()
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as folder:
        costs = {
            name: measured(way, forward, given.repeat, Path(folder) / name)
            for name, way in WAYS.items()
        }
    lines = targets(costs)
    print(table(costs))
    print(f"building the cache: {costs['cached'].built_passes:.2f} forward passes, once")
    print("\n".join(line.line() for line in lines))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if given.json:
        wanted = [vars(line) | {"met": line.met} for line in lines]
        told = {"ways": {name: asdict(cost) for name, cost in costs.items()}, "targets": wanted}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    sys.exit(int(not all(line.met for line in lines)))


if __name__ == "__main__":
    main()
