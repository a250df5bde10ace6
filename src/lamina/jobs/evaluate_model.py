"""One model under `lamina eval`: everything asked of it, then it leaves the memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import RecipeError
from lamina.evaluate.nouns import Item, Raw, TextItem, Values
from lamina.evaluate.tasks.build import fingerprint
from lamina.jobs import evaluate_parts as parts
from lamina.jobs.evaluate_find import Plan
from lamina.jobs.evaluate_journal import Journal, partial_folder
from lamina.jobs.evaluate_request import Request
from lamina.jobs.watch import Watcher

if TYPE_CHECKING:
    from lamina.evaluate.models import LanguageModel
    from lamina.evaluate.perplexity import TextLoss
    from lamina.evaluate.result_files import Samples
    from lamina.evaluate.sandbox import Sandbox

_LEAST_BATCH = 256


@dataclass(slots=True)
class Measured:
    """What has come of all models so far."""

    values: dict[str, dict[str, dict[str, Values]]] = field(default_factory=dict)
    """By model and task, each item's values."""
    cut: dict[str, dict[str, int]] = field(default_factory=dict)
    texts: dict[str, dict[str, Any]] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    harness: dict[str, Any] = field(default_factory=dict)
    samples: Samples | None = None
    """Where questions and answers are written, if they are."""
    warnings: list[str] = field(default_factory=list)


def measure_model(plan: Plan, name: str, measured: Measured, watch: Watcher) -> None:
    """Everything asked of one model; it is gone from memory when this returns."""
    from lamina.evaluate.models import load_model

    asked = plan.asked
    watch.tell(f"{name}: loading")
    assert asked.dtype is not None, "the request is not yet of this machine"
    model = load_model(plan.sources[name], dtype=asked.dtype, max_length=asked.max_length)
    measured.lengths[name] = model.max_length
    planned = [
        parts.plan_task(model, chosen.task, chosen.items, asked) for chosen in plan.chosen_for(name)
    ]
    measured.warnings += parts.check_cut(name, planned, model.max_length, allowed=asked.cut)
    measured.values[name] = {}
    measured.cut[name] = {part.task.name: len(part.cut) for part in planned}
    for part in planned:
        raws = _fitting(plan, name, model, part, watch)
        values = parts.judge_task(part.task, part.items, raws)
        measured.values[name][part.task.name] = values
        if measured.samples is not None:
            for item in part.items:
                line = parts.sample_line(name, part.task.name, item, raws[item.id], values[item.id])
                measured.samples.add(line)
    for domain in plan.documents:
        measured.texts.setdefault(name, {})[domain] = _text_loss(plan, name, model, domain, watch)
    if plan.harness is not None:
        from lamina.jobs.evaluate_harness import run_harness

        watch.tell(f"{name}: measured by lm-evaluation-harness")
        measured.harness[name] = run_harness(model, *plan.harness, asked)


def _fitting(
    plan: Plan, name: str, model: LanguageModel, part: parts.Planned, watch: Watcher
) -> dict[str, Raw]:
    """Answers in batches that fit the memory: `--batch auto` is halved until they do."""
    import torch

    asked = plan.asked
    while True:
        try:
            return _answers(plan, asked, name, model, part, watch)
        except torch.OutOfMemoryError:
            smaller = asked.batch_tokens // 2
            if plan.asked.batch != "auto" or smaller < _LEAST_BATCH:
                raise RecipeError(
                    _too_large(f"{name} on {part.task.name}", asked.batch_tokens)
                ) from None
        torch.cuda.empty_cache()
        watch.tell(f"{name} on {part.task.name}: out of memory, now {smaller} tokens a batch")
        asked = replace(asked, batch=str(smaller))
        part = parts.plan_task(model, part.task, part.items, asked)


def _too_large(what: str, batch_tokens: int) -> str:
    return (
        f"{what}: a batch of {batch_tokens} tokens does not fit the memory. Give --batch a smaller "
        "number, or --dtype bfloat16."
    )


def _text_loss(
    plan: Plan, name: str, model: LanguageModel, domain: str, watch: Watcher
) -> TextLoss:
    """The model's losses on one held-out text, measured or kept from before."""
    import torch

    from lamina.evaluate.perplexity import TextLoss, score

    asked, documents = plan.asked, plan.documents[domain]
    key = {
        "model": plan.identities[name],
        "programs": parts.programs_in_use(),
        "text": fingerprint([TextItem(str(n), d) for n, d in enumerate(documents)]),
        "max_length": model.max_length,
        "batch_tokens": asked.batch_tokens,
        "dtype": asked.dtype,
        "device": asked.device,
    }
    folder = None if asked.out is None else partial_folder(asked.out)
    journal = Journal(folder, key)
    if "0" not in journal.done:
        watch.tell(f"{name}: reading {domain} ({len(documents)} texts)")
        try:
            loss = score(model, documents, batch_tokens=asked.batch_tokens, what=domain)
        except torch.OutOfMemoryError:
            raise RecipeError(_too_large(f"{name} on {domain}", asked.batch_tokens)) from None
        journal.add("0", {"loss": asdict(loss)})
    kept: dict[str, Any] = dict(journal.done["0"]["loss"])
    for name_ in ("row_sums", "row_tokens", "skipped"):
        kept[name_] = tuple(kept[name_])
    return TextLoss(**kept)


def _answers(
    plan: Plan,
    asked: Request,
    name: str,
    model: LanguageModel,
    part: parts.Planned,
    watch: Watcher,
) -> dict[str, Raw]:
    """Raw answers of one task, its programs run."""
    folder = None if plan.asked.out is None else partial_folder(plan.asked.out)
    key = parts.journal_key(part, part.items, model, plan.identities[name], asked)
    watch.stage(f"{name} on {part.task.name}", sum(portion.tokens for portion in part.portions))
    raws = parts.answer_task(part, folder, key, watch)
    if part.task.kind != "code":
        return raws
    return _judged(name, part, raws, folder, key, watch)


def _judged(
    name: str,
    part: parts.Planned,
    raws: dict[str, Raw],
    folder: Path | None,
    key: dict[str, Any],
    watch: Watcher,
) -> dict[str, Raw]:
    """The same answers with the verdicts on their programs; kept, as verdicts take time, too."""
    from lamina.evaluate.programs import judge_programs
    from lamina.evaluate.sandbox import Limits, Sandbox

    journal = Journal(folder, {**key, "part": "verdicts"})
    left: list[Item] = [item for item in part.items if item.id not in journal.done]
    watch.stage(f"{name}: running programs of {part.task.name}", len(left))
    if left:
        box: Sandbox
        with Sandbox(Limits()) as box:
            for begin in range(0, len(left), 16):
                some = left[begin : begin + 16]
                told = judge_programs(some, {item.id: raws[item.id] for item in some}, box)
                for item in some:
                    journal.add(item.id, {item.id: told[item.id]})
                watch.advance(len(some))
    return {item.id: journal.done[item.id][item.id] for item in part.items}
