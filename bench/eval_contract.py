"""Does `lamina eval` say what lm-evaluation-harness says? Item by item, same model, same files.

    python bench/eval_contract.py MODEL... --data DIR [--tasks mmlu,gsm8k] [--limit 40]
        [--limits gsm8k=8,mmlu=1] [--few-shot K] [--chat] [--markdown]

Wants lm-eval 0.4.13 beside lamina, DIR with the rows (the shared data folder). Each task runs
through `lamina eval` (what it is read from is the result file and its samples) and through the
harness's `simple_evaluate` with its `hf` backend, its own task files and its own loading of the
model; both in float32 on the CPU. An item is identical if it was asked in the same characters, its
log-likelihoods are within 1e-3 nats, the choice taken (or the text written, to the last character)
is the same, and so is each of its metrics. Where the two best choices, or the two likeliest next
tokens, are closer than 1e-4 nats, rounding decides: such items are counted as ties, and named.
Where a task may write more than a model reads at all (HumanEval's 1,024 tokens) the harness stops
with an assertion; it is then told the model's own `max_new_tokens`. LAMBADA's items are single
words, of which float32 knows about 1e-5 nats: its perplexity needs some hundred of them before
rounding evens out. Ends with 1 if an item differs that is no tie, or a perplexity by more than 1e-6
of itself.
"""

import argparse
import gzip
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contract_harness import FILES, Answer, Metrics, measure

from lamina.core.errors import DataError, LaminaError
from lamina.evaluate.models import find_model
from lamina.evaluate.tasks import TASKS

TIE = 1e-4
"""Nats between two best choices (or tokens) under which rounding decides which one is taken."""
CLOSE = 1e-3
"""Nats between two log-likelihoods of the same continuation that rounding explains."""
SAME = 1e-6
"""Relative, of perplexities and of the losses of whole texts."""
SAME_SHARE = 1e-4
"""Of metrics that are no verdict but a share of probability (TruthfulQA's mc2)."""
PERPLEXITIES = ("word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity")


@dataclass(slots=True)
class Compared:
    """One task on one model."""

    model: str
    task: str
    items: int = 0
    ties: list[str] = field(default_factory=list)
    differ: list[str] = field(default_factory=list)
    apart: float = 0.0
    """The most that two log-likelihoods differ, in nats; of whole texts relative."""
    ours: Metrics = field(default_factory=dict)
    theirs: Metrics = field(default_factory=dict)
    skipped: str | None = None

    @property
    def relative(self) -> float | None:
        """The most that a perplexity differs, relative."""
        pairs = [(self.ours[n][0], self.theirs[n][0]) for n in self.ours if n in PERPLEXITIES]
        gaps = [abs(mine / their - 1) if mine and their else math.inf for mine, their in pairs]
        return max(gaps, default=None)

    @property
    def held(self) -> bool:
        return not self.differ and (self.relative is None or self.relative <= SAME)


# ---- lamina's side -------------------------------------------------------------------------------


def measure_ours(
    model: str, task: str, given: argparse.Namespace, limit: int | None, folder: Path
) -> tuple[Metrics, list[dict[str, Any]]]:
    """Metrics from the result file, items from the samples beside it."""
    from lamina.jobs.evaluate import run_evaluation
    from lamina.jobs.evaluate_request import Request

    out = folder / f"{task}.json"
    run_evaluation(
        Request(
            models=(model,),
            tasks=(task,),
            texts={},
            data=given.data,
            limit=limit,
            few_shot=given.few_shot,
            chat=given.chat,
            cut=True,
            allow_code=True,
            out=out,
        )
    )
    result = json.loads(out.read_text())
    if task in result["skipped"]:
        raise DataError(result["skipped"][task])
    (by_task,) = result["results"].values()
    with gzip.open(folder / result["samples"], "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    metrics = by_task[task]["metrics"]
    return {name: (one["value"], one["se"]) for name, one in metrics.items()}, lines


# ---- item against item ---------------------------------------------------------------------------


def compare(
    told: Compared, lines: Sequence[dict[str, Any]], answers: Sequence[Answer], network: Any
) -> None:
    """Fills in ties, differences and the largest distance."""
    told.items = len(lines)
    if len(lines) != len(answers):
        told.differ.append(f"{len(lines)} items here, {len(answers)} in the harness")
        return
    for line, answer in zip(lines, answers, strict=True):
        why, near = _differences(told, line, answer, network)
        if why:
            (told.ties if near else told.differ).append(f"{line['id']}: {', '.join(why)}")


def _differences(
    told: Compared, line: dict[str, Any], answer: Answer, network: Any
) -> tuple[list[str], bool]:
    """What is not the same in an item, and whether rounding may decide all of that."""
    why, near = [], True
    asked = _asked(line)
    if set(asked) != {pair for form in answer.forms for pair in form}:
        return ["asked in other words"], False
    if answer.text is not None:
        mine, gap = line["raw"]["texts"][0], math.inf
        if mine != answer.text:
            gap = _gap(network, asked[0][0], mine, answer.text)
            why.append(f"another text (tokens {gap:.1e} nats apart)")
        near = gap < TIE
    else:
        mine = dict(zip(asked, _scores(line), strict=True))
        for pairs, theirs in zip(answer.forms, answer.logprobs, strict=True):
            ours = [mine[pair] for pair in pairs]
            some, near_here = _scored(told, line, pairs, ours, theirs)
            why += some
            near = near and near_here
    for name, value in answer.values.items():
        mine_value = line["values"][name][0]
        if name in PERPLEXITIES:
            continue  # a log-likelihood, compared above
        if abs(mine_value - value) > (SAME_SHARE if name == "mc2" else 0):
            why.append(f"{name} {mine_value:g} here, {value:g} in the harness")
    return why, near


def _scored(
    told: Compared,
    line: dict[str, Any],
    pairs: Sequence[tuple[str, str]],
    ours: Sequence[float],
    theirs: Sequence[float],
) -> tuple[list[str], bool]:
    """One form of an item whose continuations are scored."""
    why = []
    whole = "text" in line
    apart = max(
        abs(mine - their) / (abs(their) if whole else 1.0)
        for mine, their in zip(ours, theirs, strict=True)
    )
    told.apart = max(told.apart, apart)
    if not apart <= (SAME if whole else CLOSE):
        return [f"log-likelihoods {apart:.1e} apart"], False
    if ours.index(max(ours)) != list(theirs).index(max(theirs)):
        why.append("another choice")
    sizes = [max(len(continuation.lstrip()), 1) for _, continuation in pairs]
    rated = [mine / size for mine, size in zip(ours, sizes, strict=True)]
    return why, _closest(ours) < TIE or _closest(rated) < TIE / min(sizes)


def _closest(values: Sequence[float]) -> float:
    """Between the best two."""
    best = sorted(values, reverse=True)
    return best[0] - best[1] if len(best) > 1 else math.inf


def _asked(line: dict[str, Any]) -> list[tuple[str, str]]:
    if "pairs" in line:
        return [(context, continuation) for context, continuation in line["pairs"]]
    return [(line["text"] if "text" in line else line["prompt"], "")]


def _scores(line: dict[str, Any]) -> list[float]:
    raw = line["raw"]
    return [-raw["loss"]] if "loss" in raw else raw["logprobs"]


def _gap(network: Any, prompt: str, mine: str, their: str) -> float:
    """Nats between the first tokens in which two texts part, as the model sees them there."""
    import torch

    first, second = (network.tok_encode(prompt + text) for text in (mine, their))
    end = network.eot_token_id
    same = next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )
    tokens = [side[same] if same < len(side) else end for side in (first, second)]
    kept = first[:same][-network.max_length :]
    with torch.no_grad():
        logits = network.model(torch.tensor([kept])).logits[0, -1]
    return abs(float(logits[tokens[0]] - logits[tokens[1]]))


# ---- told ----------------------------------------------------------------------------------------

HEADS = ("task", "items", "identical", "ties", "log-likelihoods apart", "lamina",
         "lm-evaluation-harness", "perplexity apart")  # fmt: skip


def cells(told: Compared) -> list[str]:
    same = told.items - len(told.ties) - len(told.differ)
    return [
        told.task,
        str(told.items),
        str(same),
        str(len(told.ties)),
        f"{told.apart:.1e}" if told.apart else "-",
        _shown(told.ours, told.theirs),
        _shown(told.theirs, told.theirs),
        "-" if told.relative is None else f"{told.relative:.1e}",
    ]


def _shown(metrics: Metrics, names: Metrics) -> str:
    parts = []
    for name in names:
        value, error = metrics[name]
        number = (
            "-" if value is None else f"{value:.7g}" if name in PERPLEXITIES else f"{value:.4f}"
        )
        parts.append(f"{name} {number}" + ("" if error is None else f" ± {error:.2g}"))
    return ", ".join(parts)


def line(values: Sequence[str], *, markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(values)} |"
    widths = (13, 6, 9, 5, 22)
    first = "".join(f"{value:<{width}}" for value, width in zip(values, widths, strict=False))
    return f"{first}\n    lamina   {values[5]}\n    harness  {values[6]}\n    apart    {values[7]}"


def one_task(model: str, task: str, network: Any, given: argparse.Namespace) -> Compared:
    """A task on a model, both ways."""
    told = Compared(model, task)
    limit = given.limits.get(task, given.limit)
    with tempfile.TemporaryDirectory(prefix="lamina-contract-") as folder:
        try:
            told.ours, lines = measure_ours(model, task, given, limit, Path(folder))
        except LaminaError as error:
            told.skipped = str(error)
            return told
    told.theirs, answers = measure(
        network,
        task,
        given.data,
        metrics=[name for name, (value, _) in told.ours.items() if value is not None
                 and name != "passed_suspicious"],
        limit=limit,
        few_shot=given.few_shot,
        chat=given.chat,
    )  # fmt: skip
    compare(told, lines, answers, network)
    return told


def load(model: str, batch: int) -> Any:
    """The model as the harness loads it; an adapter on its base."""
    from lm_eval.models.huggingface import HFLM

    source = find_model(model)
    adapter: dict[str, Any] = {} if source.adapter is None else {"peft": str(source.adapter)}
    return HFLM(
        pretrained=str(source.folder), dtype="float32", device="cpu", batch_size=batch, **adapter
    )


def main() -> None:
    """The command line."""
    given = _arguments()
    failed = False
    for model in given.models:
        network = load(model, given.harness_batch)
        few = "as the task has them" if given.few_shot is None else given.few_shot
        print(f"\n{Path(model).name}: examples {few}{', chat template' if given.chat else ''}\n")
        if given.markdown:
            print(line(HEADS, markdown=True))
            print("|" + " --- |" * len(HEADS))
        notes = []
        for task in given.tasks:
            told = one_task(model, task, network, given)
            failed = failed or not told.held
            if told.skipped is not None:
                notes.append(f"{task}: skipped: {told.skipped}")
                continue
            print(line(cells(told), markdown=given.markdown), flush=True)
            notes += [f"{task}: tie, {item}" for item in told.ties]
            notes += [f"{task}: DIFFERS, {item}" for item in told.differ]
        print("".join(f"\n{'* ' if given.markdown else ''}{note}" for note in notes), flush=True)
    sys.exit(int(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a folder, or base+adapter")
    parser.add_argument("--data", type=Path, required=True, help="the folder with the rows")
    parser.add_argument("--tasks", default=",".join(FILES), help="which, with commas between")
    parser.add_argument("--limit", type=int, help="items of a task; of MMLU for each subject")
    parser.add_argument("--limits", default="", help="of single tasks: gsm8k=8,mmlu=1")
    parser.add_argument("--few-shot", type=int, help="default: as the task has them")
    parser.add_argument("--chat", action="store_true", help="through the chat template")
    parser.add_argument("--harness-batch", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    given.tasks = given.tasks.split(",")
    unknown = [task for task in given.tasks if task not in TASKS or task not in FILES]
    if unknown:
        parser.error(f"no such tasks: {', '.join(unknown)}")
    limits = (entry.partition("=") for entry in given.limits.split(",") if entry)
    given.limits = {name: int(number) for name, _, number in limits}
    return given


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
