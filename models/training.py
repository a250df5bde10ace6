"""The training loop shared by all stages: AdamW, warm-up, cosine, the best held-out state wins.

Weights and optimizer state stay in float32; the forward pass runs in bfloat16 (autocast), which was
1.4 times as fast as float32 on the CPU the shipped models were made on. A stage is as long as
`steps` says, or, with `minutes`, as long as the clock says; the latter cannot be repeated exactly.
"""

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rows import Row
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

IGNORED = -100
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how fast one stage learns."""

    steps: int
    learning_rate: float
    minutes: float | None = None
    warmup: float = 0.03
    weight_decay: float = 0.1
    checks: int = 6
    """How many times the held-out loss is looked at, evenly over the stage."""


@dataclass(slots=True)
class Report:
    """What one stage did."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0


def packed(ids: Tensor, *, size: int, length: int, seed: int) -> Iterator[Batch]:
    """Endless batches of consecutive windows of one long token stream, in a new order per pass."""
    order = random.Random(seed)
    starts = list(range(0, len(ids) - length, length))
    while True:
        order.shuffle(starts)
        for at in range(0, len(starts) - size + 1, size):
            window = torch.stack([ids[s : s + length] for s in starts[at : at + size]])
            yield window, window


def tokens_of(row: Row, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids and labels of one row; of a chat only the completion has labels."""
    if not row.question:
        ids = tokenizer(row.answer + tokenizer.eos_token)["input_ids"]
        return ids, ids
    prompt, completion = (tokenizer(part)["input_ids"] for part in row.chat())
    return prompt + completion, [IGNORED] * len(prompt) + completion


def padded(
    rows: list[tuple[list[int], list[int]]], *, tokens: int, pad: int, seed: int
) -> Iterator[Batch]:
    """Endless batches of rows of like length, each batch about `tokens` tokens with padding.

    Padding is on the right and has no labels, so the causal mask alone keeps it out.
    """
    order = random.Random(seed)
    while True:
        mixed = sorted(rows, key=lambda row: len(row[0]) + 16 * order.random())
        batches, batch = [], []
        for row in mixed:
            if batch and len(row[0]) * (len(batch) + 1) > tokens:
                batches.append(batch)
                batch = []
            batch.append(row)
        order.shuffle(batches)
        for batch in batches:
            longest = max(len(ids) for ids, _ in batch)
            ids = [ids + [pad] * (longest - len(ids)) for ids, _ in batch]
            labels = [labels + [IGNORED] * (longest - len(labels)) for _, labels in batch]
            yield torch.tensor(ids), torch.tensor(labels)


def loss_of(llama: LlamaForCausalLM, ids: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Summed cross entropy and number of scored tokens; logits only where there is a label."""
    hidden = llama.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    targets = labels[:, 1:]
    kept = targets != IGNORED
    logits = llama.lm_head(hidden[kept])
    total = nn.functional.cross_entropy(logits.float(), targets[kept], reduction="sum")
    return total, int(kept.sum())


@torch.inference_mode()
def held_out_loss(llama: LlamaForCausalLM, batches: list[Batch]) -> float:
    """Mean nats per scored token."""
    pairs = [loss_of(llama, ids, labels) for ids, labels in batches]
    return float(sum(total for total, _ in pairs)) / sum(count for _, count in pairs)


def idle_threads(before: tuple[float, float, float]) -> tuple[int, tuple[float, float, float]]:
    """Two threads if the rest of the machine left a core idle since `before`, else one (Linux)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    busy = sum(float(fields[index]) for index in (0, 1, 2, 5, 6, 7)) / 100
    now = time.monotonic(), busy, time.process_time()
    others = ((now[1] - before[1]) - (now[2] - before[2])) / max(now[0] - before[0], 1e-9)
    return (2 if others < 0.35 else 1), now


def fit(
    model: nn.Module,
    llama: LlamaForCausalLM,
    batches: Iterator[Batch],
    held_out: list[Batch],
    *,
    settings: Settings,
    keep: Callable[[], None],
    log: Path,
    share_cores: bool = False,
) -> Report:
    """Train the parameters of `model` that ask for a gradient, and leave the best state in it.

    Args:
        llama: the Llama inside `model` (the same object unless it wears an adapter).
        keep: called whenever the held-out loss is the best so far, to put the model on disk.
        log: one JSON line per check.
        share_cores: watch the machine and use its second core only while nobody else does.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in trained if w.dim() > 1]},
            {"params": [w for w in trained if w.dim() < 2], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=settings.weight_decay,
    )
    report, best, start, next_check = Report(), None, time.monotonic(), 0.0
    seen, running = (start, 0.0, 0.0), []
    if share_cores:
        _, seen = idle_threads(seen)
    while True:
        elapsed = time.monotonic() - start
        done = report.steps / settings.steps
        if settings.minutes:
            done = elapsed / 60 / settings.minutes
        if done >= next_check or done >= 1:
            loss = held_out_loss(llama, held_out)
            report.seconds = time.monotonic() - start
            if loss < report.best_loss:
                report.best_loss, report.best_step = loss, report.steps
                best = copy.deepcopy([weight.detach() for weight in trained])
                keep()
            line = asdict(report) | {
                "loss": round(loss, 4),
                "train": round(sum(running) / max(len(running), 1), 4),
                "threads": torch.get_num_threads(),
            }
            with log.open("a") as out:
                out.write(json.dumps(line) + "\n")
            print(line, flush=True)
            running = []
            next_check += 1 / settings.checks
        if done >= 1:
            break
        ramp = min(1.0, (done + 1e-4) / settings.warmup)
        rate = settings.learning_rate * ramp * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total, count = loss_of(llama, ids, labels)
        (total / count).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running.append(float(total.detach()) / count)
        report.steps += 1
        report.tokens += ids.numel()
        if share_cores and report.steps % 15 == 0:
            threads, seen = idle_threads(seen)
            torch.set_num_threads(threads)
    with torch.no_grad():
        for weight, value in zip(trained, best, strict=True):
            weight.copy_(value)
    return report
