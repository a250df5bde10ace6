"""Writing by lamina and by lm-evaluation-harness's `hf` backend: the same prompts, one run.

    python bench/eval_writing.py MODEL --data DIR [--task gsm8k] [--limit 32] [--json FILE]

Wants lm-eval 0.4.13 beside lamina. DIR is the shared data folder. The tasks of `lamina eval` make
the prompts (GSM8K: five examples each, 256 tokens to write); then each side is a process of its own
that loads the model in float32 on the CPU, with the same threads, and is timed from prompts to
texts, tokenising included and loading not. The harness writes at each of `--batches` (its `auto` is
a batch of 64 rows of the longest or what memory holds, which is no gain on a CPU), and its fastest
counts. CPU seconds are compared, as others may share the machine. Peak memory is that of the whole
process. `--task-length` takes `max_new_tokens` out of a copy of the model's settings, which would
win over the task's own length in both (the demo's models have 64). Ends with 1 when a target is
missed.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sides import Cost, cost_lines, fastest, in_a_process, judged, peak

from merge import Target

FASTER = 2.0
SETTINGS = "generation_config.json"


def prompts(given: argparse.Namespace) -> list[list[Any]]:
    """Prompt, stop strings and tokens to write of each item."""
    from lamina.evaluate.nouns import WriteItem
    from lamina.evaluate.tasks import TASKS, build_items

    task = TASKS[given.task]
    chosen = build_items(task, data=given.data, limit=given.limit, few_shot=given.few_shot)
    items = [item for item in chosen.items if isinstance(item, WriteItem)]
    return [[item.prompt, list(item.stops), item.max_tokens] for item in items]


# ---- the two sides, each in its own process -----------------------------------------------------


def ours(model: str, rows: list[list[Any]], batch: str) -> Cost:
    from lamina.evaluate.models import find_model, load_model
    from lamina.evaluate.nouns import WriteItem
    from lamina.evaluate.write import answer_writing, plan_writing

    loaded = load_model(find_model(model))
    items = [WriteItem(str(n), p, tuple(s), length, "") for n, (p, s, length) in enumerate(rows)]
    before = peak()
    begin, cpu = time.perf_counter(), time.process_time()
    answers: dict[str, Any] = {}
    for portion in plan_writing(loaded, items, batch_tokens=int(batch)):
        answers |= answer_writing(loaded, portion)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    raws = [answers[item.id] for item in items]
    ends = Counter(raw["ended"][0] for raw in raws)
    told = f"{sum(raw['tokens'][0] for raw in raws)} tokens written; ended by {dict(ends)}; "
    told += f"{sum(raw['cut'] > 0 for raw in raws)} prompts cut"
    return Cost(seconds, cpu, peak(), before, [raw["texts"][0] for raw in raws], told)


def theirs(model: str, rows: list[list[Any]], batch: str) -> Cost:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    loaded = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=int(batch))
    asked = [
        Instance(
            "generate_until",
            {},
            (prompt, {"until": stops, "max_gen_toks": length, "do_sample": False}),
            n,
        )
        for n, (prompt, stops, length) in enumerate(rows)
    ]
    before = peak()
    begin, cpu = time.perf_counter(), time.process_time()
    texts = loaded.generate_until(asked, disable_tqdm=True)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Cost(seconds, cpu, peak(), before, texts, "")


# ---- told ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    task: str
    ours: Cost
    theirs: dict[str, Cost]
    """By batch size."""

    def differ(self, cost: Cost) -> int:
        """Texts that are not ours."""
        return sum(a != b for a, b in zip(self.ours.found, cost.found, strict=True))

    def lines(self) -> list[str]:
        apart = {batch: self.differ(cost) for batch, cost in self.theirs.items()}
        return [
            f"{self.task}: {len(self.ours.found)} items, {self.ours.told}",
            *cost_lines(self.ours, self.theirs),
            f"  texts that differ, by the harness's batch: {apart}",
        ]

    def targets(self) -> list[Target]:
        batch, best = fastest(self.theirs)
        ratio = best.cpu_seconds / self.ours.cpu_seconds
        fewest = min(self.differ(cost) for cost in self.theirs.values())
        return [
            Target(f"{self.task}: harness at batch {batch} / lamina", ratio, FASTER, at_least=True),
            Target(f"{self.task}: texts that differ from its nearest batch", fewest, 0),
        ]


def measured(model: str, given: argparse.Namespace, folder: Path) -> Measured:
    """Runs both sides; `given` is what `main` reads."""
    if given.task_length:
        model = str(shutil.copytree(model, folder / "model"))
        settings = json.loads((folder / "model" / SETTINGS).read_text())
        settings.pop("max_new_tokens", None)
        (folder / "model" / SETTINGS).write_text(json.dumps(settings))
    rows = folder / "rows.json"
    rows.write_text(json.dumps(prompts(given)))
    mine = in_a_process(
        __file__, "ours", model, rows, batch=str(given.batch_tokens), threads=given.threads
    )
    found = {
        batch: in_a_process(__file__, "theirs", model, rows, batch=batch, threads=given.threads)
        for batch in given.batches.split(",")
    }
    return Measured(given.task, mine, found)


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, from the command line or from another program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a model's folder")
    parser.add_argument("--data", type=Path, help="the shared data folder")
    parser.add_argument("--task", default="gsm8k", help="one that is answered in writing")
    parser.add_argument("--few-shot", type=int, help="examples; else the task's own number")
    parser.add_argument("--limit", type=int, default=32, help="items")
    parser.add_argument("--batches", default="1,4,8,16", help="the harness's")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task-length", action="store_true", help="not the model's own")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    """The command line."""
    given = read_arguments()
    if given.side:
        side, rows, out, batch = given.side
        cost = (ours if side == "ours" else theirs)(
            given.model, json.loads(Path(rows).read_text()), batch
        )
        Path(out).write_text(json.dumps(asdict(cost)))
        return
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as folder:
        one = measured(given.model, given, Path(folder))
    lines = one.targets()
    print("\n".join([*one.lines(), *(line.line() for line in lines)]))
    judged(lines, given.json)


if __name__ == "__main__":
    main()
