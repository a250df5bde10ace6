"""What ranking and planned tuning cost: a mask step beside a LoRA step, the top 30 % beside all.

    python bench/rank.py [--model FOLDER] [--rank 16] [--repeat 9] [--json FILE]

By default on the demo's instruct model, with LoRA of rank 16 on all linear modules and one batch of
4 rows of 256 tokens. A LoRA step is forward, backward, clipping and fused AdamW, as `lamina tune`
does them; a mask step is the forward and backward pass of `lamina rank`, with the gradient of one
gate for each module. Steps of both are taken in turns, and CPU seconds are medians. Memory is the
bytes that are kept for the backward pass (every storage once, weights not counted), and the most
that tensors made in the step held at once; Adam's state and the process itself come on top.

Then the batches of the default ranking, counted; and a step of tuning the top 30 % of the modules,
by the ranking in recipes/data, beside one of tuning all: scattered modules save memory, hardly any
time. Operations under a frozen prefix, checkpointed and cached, are counted by bench/prefix.py.
Needs neither network nor GPU. Ends with 1 when a target is missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prefix import Alive

from lamina.core.plan import LayerPlan
from lamina.core.rules import choose, random
from lamina.core.scores import LayerScores
from lamina.data.encode import Examples
from lamina.data.recipe import DomainSpec
from lamina.engine.collate import collate, packed_row
from lamina.engine.load import find_model, quiet
from lamina.engine.losses import LossHead, LossSums
from lamina.engine.recipe import TrainSection
from lamina.engine.tunable import load_tunable
from lamina.ila.gates import gating
from lamina.ila.measure import Rows
from lamina.ila.price import Counted, in_words, priced
from lamina.ila.recipe import RankRecipe
from lamina.ila.ways import measured
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import head_weights, linears_of
from merge import Target

HERE = Path(__file__).parent
DEMO = HERE.parent / "src" / "lamina" / "demo" / "models" / "instruct"
RANKING = HERE.parent / "recipes" / "data" / "code_ranking.json"
ROWS, LENGTH, SHARE = 4, 256, 0.3
SLOWEST, LARGEST, MOST_BATCHES = 0.9, 1.0, 48


@dataclass(frozen=True, slots=True)
class Cost:
    """One kind of step."""

    title: str
    cpu_seconds: float
    kept_bytes: int
    """Kept for the backward pass."""
    peak_bytes: int
    """The most that tensors made in the step held at once."""


def batch_of(vocabulary: int, *, rows: int, length: int, seed: int = 0) -> Any:
    """One example a row; the second half of each is trained."""
    draws = np.random.default_rng(seed)
    data = Examples(
        ids=draws.integers(2, vocabulary, rows * length).astype(np.int32),
        trained=np.tile(np.arange(length) >= length // 2, rows),
        starts=np.arange(rows + 1, dtype=np.int64) * length,
        num_bytes=np.full(rows, length, dtype=np.int64),
        places=tuple(f"row {number}" for number in range(rows)),
    )
    return collate(
        [packed_row(data, [row], row=row) for row in range(rows)], pad_id=0, flatten=False
    )


def lora_step(model: Any, head: LossHead, batch: Any) -> Callable[[], None]:
    """A step of tuning, as the Trainer takes it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> None:
        found = head(model, batch)
        (found.loss / found.tokens.sum()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def kept(step: Callable[[], Any], weights: set[int]) -> int:
    """Bytes that a step keeps for its backward pass, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(seen.values())


def timed(steps: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, list[float]]:
    """CPU seconds of steps taken in turns, the first of each not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeat + 1):
        for name in steps if turn % 2 else reversed(list(steps)):
            began = time.process_time()
            steps[name]()
            if turn:
                seconds[name].append(time.process_time() - began)
    return seconds


def cost_of(title: str, model: Any, step: Callable[[], Any], seconds: list[float]) -> Cost:
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = kept(step, weights)
    with Alive() as alive:
        step()
    return Cost(title, statistics.median(seconds), saved, alive.peak)


def tuned(folder: Path, rank: int, plan: LayerPlan | None = None) -> tuple[Any, LossHead]:
    """The model with LoRA on all linear modules, or on those of a plan; B is not zero."""
    with quiet():
        model = load_tunable(find_model(str(folder)), TrainSection(rank=rank, alpha=2 * rank), plan)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model, LossHead(model)


def mask_and_lora(folder: Path, rank: int, repeat: int) -> dict[str, Cost]:
    """Both steps on one model: the gates' forward passes are put on and off between them."""
    model, head = tuned(folder, rank)
    batch = batch_of(head.num_embeddings, rows=ROWS, length=LENGTH)
    lora = lora_step(model, head, batch)
    rows = Rows(model, head, [batch])
    seconds: dict[str, list[float]] = {"lora": [], "mask": []}
    for turn in range(repeat + 1):
        began = time.process_time()
        lora()
        took = {"lora": time.process_time() - began}
        with gating(model) as gates:
            began = time.process_time()
            rows.gradient(gates)
            took["mask"] = time.process_time() - began
        for name, value in took.items() if turn else ():
            seconds[name].append(value)
    costs = {"lora": cost_of("LoRA step, all modules", model, lora, seconds["lora"])}
    with gating(model) as gates:

        def mask() -> None:
            rows.gradient(gates)

        costs["mask"] = cost_of("mask step", model, mask, seconds["mask"])
    return costs


def plan_of(folder: Path, rank: int) -> LayerPlan:
    """The top 30 % by the ranking in recipes/data; of another model a random 30 %."""
    checkpoint = open_checkpoint(folder)
    modules = linears_of(checkpoint)
    counted = Counted.of(modules, rank=rank, head=head_weights(checkpoint))
    scores = LayerScores.from_json(RANKING.read_text())
    if set(scores.values) != set(modules.by_id):
        chosen = set(random(dict.fromkeys(modules.by_id, 0.0), counted.trained, share=SHARE))
        values = {unit: float(unit in chosen) for unit in modules.by_id}
        scores = scores.model_copy(update={"values": values, "columns": {}, "spread": None})
    plan = choose("top", scores, sizes=counted.trained, parameters={"share": SHARE})
    return plan.model_copy(update={"price": priced(plan, counted, {})})


def top_and_all(folder: Path, rank: int, plan: LayerPlan, repeat: int) -> dict[str, Cost]:
    """A step of tuning each, in turns."""
    models = {"all": tuned(folder, rank), "top": tuned(folder, rank, plan)}
    titles = {"all": "tuning all modules", "top": f"tuning the top {SHARE:.0%}"}
    steps = {}
    for name, (model, head) in models.items():
        batch = batch_of(head.num_embeddings, rows=ROWS, length=LENGTH)
        steps[name] = lora_step(model, head, batch)
    seconds = timed(steps, repeat)
    return {
        name: cost_of(titles[name], models[name][0], steps[name], seconds[name]) for name in models
    }


@dataclass(slots=True)
class Counting:
    """A loss head that counts the batches that a gradient is taken of, and the others."""

    head: LossHead
    with_gradient: int = 0
    without: int = 0

    def __call__(self, model: Any, batch: Any) -> LossSums:
        found = self.head(model, batch)
        self.with_gradient += int(found.loss.requires_grad)
        self.without += int(not found.loss.requires_grad)
        return found


def default_ranking(folder: Path) -> tuple[RankRecipe, Counting]:
    """The default recipe, and the batches of one of its measurements, on very short rows."""
    recipe = RankRecipe(model=str(folder), domains={"rows": DomainSpec.model_validate("a.jsonl")})
    model, head = tuned(folder, 4)
    batches = [
        batch_of(head.num_embeddings, rows=1, length=8, seed=seed)
        for seed in range(recipe.gates.batches)
    ]
    counting = Counting(head)
    with gating(model) as gates:
        rows = Rows(model, counting, batches)  # type: ignore[arg-type]
        measured(recipe.way, rows, gates, recipe.gates, seed=0)
    return recipe, counting


def targets(costs: Mapping[str, Cost], way: str, batches: int) -> list[Target]:
    """What issue 4 asks for."""
    mask, lora = costs["mask"], costs["lora"]
    return [
        Target("CPU seconds, mask step / LoRA step", mask.cpu_seconds / lora.cpu_seconds, SLOWEST),
        Target("kept for backward, mask step / LoRA step",
               mask.kept_bytes / lora.kept_bytes, LARGEST),
        Target("peak of tensors, mask step / LoRA step", mask.peak_bytes / lora.peak_bytes,
               LARGEST),
        Target(f"forward/backward batches of a ranking ({way})", batches, MOST_BATCHES),
    ]  # fmt: skip


def table(costs: Mapping[str, Cost]) -> str:
    lines = ["| | CPU seconds | kept for backward, MB | peak of tensors, MB |"]
    lines += ["|---|---:|---:|---:|"]
    lines += [
        f"| {cost.title} | {cost.cpu_seconds:.3f} | {cost.kept_bytes / 2**20:.1f} | "
        f"{cost.peak_bytes / 2**20:.1f} |"
        for cost in costs.values()
    ]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    plan = plan_of(given.model, given.rank)
    costs = mask_and_lora(given.model, given.rank, given.repeat)
    costs |= top_and_all(given.model, given.rank, plan, given.repeat)
    recipe, counted = default_ranking(given.model)
    lines = targets(costs, recipe.way, counted.with_gradient)
    print(table(costs))
    top, every = costs["top"], costs["all"]
    print(
        f"top {SHARE:.0%} / all: {top.cpu_seconds / every.cpu_seconds:.2f} of the time, "
        f"{top.kept_bytes / every.kept_bytes:.2f} of what is kept, "
        f"{top.peak_bytes / every.peak_bytes:.2f} of the peak, "
        f"{plan.price['parameters'] / plan.price['of_parameters']:.2f} of the trained values; "
        f"lowest planned block {plan.price['lowest_block']:.0f} of {plan.price['num_blocks']:.0f}"
    )
    print(in_words(plan.price))
    print(
        f"default ranking: {recipe.way}, {counted.with_gradient} forward/backward batches and "
        f"{counted.without} forward for each of {recipe.seeds} seeds"
    )
    print("\n".join(line.line() for line in lines))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if given.json:
        wanted = [vars(line) | {"met": line.met} for line in lines]
        figures = {name: asdict(cost) for name, cost in costs.items()}
        told = {"steps": figures, "plan": plan.price, "targets": wanted}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    sys.exit(int(not all(line.met for line in lines)))


if __name__ == "__main__":
    main()
