"""Scoring by lamina and by lm-evaluation-harness's `hf` backend: the same strings, one run.

    python bench/eval.py MODEL --data DIR [--sets mmlu_0,mmlu_5,hellaswag,wikitext2] [--json FILE]

Wants lm-eval 0.4.13 beside lamina. DIR is the shared data folder. The tasks of `lamina eval` make
the strings; then each side is a process of its own that loads the model in float32 on the CPU, with
the same threads, and is timed from strings to scores, tokenising included and loading not. The
harness is given the strings at each of `--batches` (its `auto` tries 64 rows of the longest first)
and its fastest counts; both sides run `--repeat` times, alternately, and the least CPU seconds
count, as others may share the machine. Peak memory is that of the whole process. Prints how far
scores are apart, too. Ends with 1 when a target is missed. GSM8K is in `eval_writing.py`.

MMLU is measured with five examples, as it is reported, and with none. Without examples the harness,
too, reads a question once for its four letters, so only its logits, the subject's line and the
products are left to gain: counting products, 2 is about the most there is with 135 million weights,
and it was not reached (docs/evaluation.md).
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import eval_writing
from sides import Cost, cost_lines, fastest, in_a_process, judged, peak

from merge import Target

WRITTEN = "gsm8k"


@dataclass(frozen=True, slots=True)
class Set:
    """A set of strings, and what is promised for it."""

    task: str
    few_shot: int | None
    faster: float
    """Least ratio of the harness's seconds to ours."""


SETS = {
    "mmlu_0": Set("mmlu", 0, 2.0),
    "mmlu_5": Set("mmlu", 5, 2.0),
    "hellaswag": Set("hellaswag", 0, 2.0),
    "wikitext2": Set("wikitext2", None, 1.2),
}
CLOSE = {"choices": 1e-4, "text": 1e-6}
"""Log-likelihoods of pairs in nats, of texts relative."""


def strings(name: str, data: Path, *, limit: int, subjects: int) -> dict[str, Any]:
    """The set as JSON: pairs of each item, or texts with what their words are counted on."""
    from lamina.evaluate.nouns import ChoiceItem, TextItem
    from lamina.evaluate.tasks import TASKS, build_items

    wanted = SETS[name]
    chosen = build_items(TASKS[wanted.task], data=data, limit=limit, few_shot=wanted.few_shot)
    groups = list(dict.fromkeys(item.group for item in chosen.items))[:subjects]
    rows: list[Any] = []
    subject_of: list[str | None] = []
    for item in chosen.items:
        if item.group not in groups:
            continue
        subject_of.append(item.group)
        if isinstance(item, ChoiceItem):
            rows.append([[pair.context, pair.continuation] for pair in item.pairs])
        else:
            assert isinstance(item, TextItem), f"{item.id} is written"
            rows.append([item.document.text, item.document.measured, item.group])
    return {"kind": chosen.task.kind, "rows": rows, "subjects": subject_of}


# ---- the two sides, each in its own process -----------------------------------------------------


def ours(model: str, given: dict[str, Any], batch: str) -> Cost:
    from lamina.evaluate.choose import answer_choices, plan_choices
    from lamina.evaluate.models import find_model, load_model
    from lamina.evaluate.nouns import ChoiceItem, Pair, TextItem
    from lamina.evaluate.rolling import answer_texts, plan_texts
    from lamina.evaluate.text import Document

    loaded = load_model(find_model(model))
    size, before = int(batch), peak()
    begin, cpu = time.perf_counter(), time.process_time()
    answers: dict[str, Any] = {}
    if given["kind"] == "choices":
        items = [
            ChoiceItem(str(n), tuple(Pair(*pair) for pair in pairs), (0,), (1,) * len(pairs), group)
            for n, (pairs, group) in enumerate(zip(given["rows"], given["subjects"], strict=True))
        ]
        for portion in plan_choices(loaded, items, batch_tokens=size):
            answers |= answer_choices(loaded, portion)
        raws = [answers[item.id] for item in items]
        found = [
            list(pair) for raw in raws for pair in zip(raw["logprobs"], raw["greedy"], strict=True)
        ]
    else:
        texts = [
            TextItem(str(n), Document(None, text, measured))
            for n, (text, measured, _) in enumerate(given["rows"])
        ]
        for part in plan_texts(loaded, texts, batch_tokens=size):
            answers |= answer_texts(loaded, part)
        found = [[-answers[item.id]["loss"]] for item in texts]
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Cost(seconds, cpu, peak(), before, found)


def theirs(model: str, given: dict[str, Any], batch: str) -> Cost:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    loaded = HFLM(
        pretrained=model,
        dtype="float32",
        device="cpu",
        batch_size=batch if batch == "auto" else int(batch),
    )
    before = peak()
    begin, cpu = time.perf_counter(), time.process_time()
    if given["kind"] == "choices":
        pairs = [pair for pairs in given["rows"] for pair in pairs]
        asked = [Instance("loglikelihood", {}, tuple(pair), 0) for pair in pairs]
        found = [list(answer) for answer in loaded.loglikelihood(asked, disable_tqdm=True)]
    else:
        asked = [Instance("loglikelihood_rolling", {}, (text,), 0) for text, *_ in given["rows"]]
        found = [[value] for value in loaded.loglikelihood_rolling(asked, disable_tqdm=True)]
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Cost(seconds, cpu, peak(), before, found)


# ---- told ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    strings: int
    ours: Cost
    theirs: dict[str, Cost]
    """By batch size."""
    apart: float
    others_greedy: int
    """Pairs whose greedy is not the harness's."""

    @property
    def ratio(self) -> float:
        return fastest(self.theirs)[1].cpu_seconds / self.ours.cpu_seconds

    def lines(self) -> list[str]:
        return [
            f"{self.name}: {self.strings} strings scored",
            *cost_lines(self.ours, self.theirs),
            f"  largest difference {self.apart:.1e}, greedy differs {self.others_greedy}",
        ]

    def targets(self) -> list[Target]:
        kind = "text" if self.name == "wikitext2" else "choices"
        text = f"{self.name}: harness at batch {fastest(self.theirs)[0]} / lamina"
        return [
            Target(text, self.ratio, SETS[self.name].faster, at_least=True),
            Target(f"{self.name}: largest difference, of what may be", self.apart / CLOSE[kind], 1),
            Target(f"{self.name}: greedy answers that differ", self.others_greedy, 0),
        ]


def measured(name: str, model: str, given: argparse.Namespace, folder: Path) -> Measured:
    rows = folder / f"{name}.json"
    made = strings(name, given.data, limit=given.limit, subjects=given.subjects)
    rows.write_text(json.dumps(made))
    runs: dict[str, list[Cost]] = {}
    for _ in range(given.repeat):
        for side, batch in (
            ("ours", str(given.batch_tokens)),
            *(("theirs", b) for b in given.batches),
        ):
            key = side if side == "ours" else batch
            cost = in_a_process(__file__, side, model, rows, batch=batch, threads=given.threads)
            runs.setdefault(key, []).append(cost)
            if given.loud:
                print(f"# {name} {side} {batch}: {cost.cpu_seconds:.2f} s CPU", flush=True)
    least = {key: min(costs, key=lambda cost: cost.cpu_seconds) for key, costs in runs.items()}
    mine = least.pop("ours")
    apart, others = _differences(made["kind"], mine.found, next(iter(least.values())).found)
    return Measured(name, len(mine.found), mine, least, apart, others)


def _differences(
    kind: str, mine: Sequence[Sequence[Any]], their: Sequence[Sequence[Any]]
) -> tuple[float, int]:
    pairs = list(zip(mine, their, strict=True))
    if kind == "text":
        sums = [math.fsum(value for (value,) in side) for side in (mine, their)]
        return abs(sums[0] / sums[1] - 1), 0
    return max(abs(a[0] - b[0]) for a, b in pairs), sum(a[1] != b[1] for a, b in pairs)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a model's folder")
    parser.add_argument("--data", type=Path, help="the shared data folder")
    parser.add_argument(
        "--sets", default=",".join(SETS), help=f"which, with commas between; also {WRITTEN}"
    )
    parser.add_argument("--limit", type=int, default=20, help="items; of MMLU for each subject")
    parser.add_argument("--subjects", type=int, default=3, help="of MMLU, the first ones")
    parser.add_argument("--batches", default="1,4,16", help="the harness's; also auto")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="ours")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--loud", action="store_true")
    parser.add_argument("--side", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        side, rows, out, batch = given.side
        cost = (ours if side == "ours" else theirs)(
            given.model, json.loads(Path(rows).read_text()), batch
        )
        Path(out).write_text(json.dumps(asdict(cost)))
        return
    given.batches = given.batches.split(",")
    figures: list[Any] = []
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as folder:
        for name in given.sets.split(","):
            if name == WRITTEN:
                words = [given.model, "--data", str(given.data), "--limit", str(given.limit)]
                one = eval_writing.measured(
                    given.model, eval_writing.read_arguments(words), Path(folder)
                )
            else:
                one = measured(name, given.model, given, Path(folder))
            print("\n".join(one.lines()), flush=True)
            figures.append(one)
    lines = [line for one in figures for line in one.targets()]
    print("\n".join(line.line() for line in lines))
    judged(lines, given.json)


if __name__ == "__main__":
    main()
