"""One model on one task: plan, refuse what does not fit, answer portion by portion, judge."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lamina
from lamina.core.errors import DataError
from lamina.evaluate.nouns import ChoiceItem, Item, Raw, Task, TextItem, Values, WriteItem
from lamina.evaluate.portions import Portion, cut_items
from lamina.evaluate.tasks.build import fingerprint
from lamina.jobs.evaluate_journal import Journal
from lamina.jobs.evaluate_request import Request
from lamina.jobs.watch import Watcher

if TYPE_CHECKING:
    from lamina.engine.generate import Sampling
    from lamina.evaluate.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Planned:
    """A task's items cut into portions for one model."""

    task: Task
    items: tuple[Item, ...]
    portions: tuple[Portion, ...]
    answer: Callable[[Portion], Mapping[str, Raw]]

    @property
    def cut(self) -> dict[str, int]:
        """Tokens lost by each item that is longer than the model reads."""
        return cut_items(self.portions)


def plan_task(model: LanguageModel, task: Task, items: tuple[Any, ...], asked: Request) -> Planned:
    """The task's portions for this model; nothing is computed yet."""
    first = items[0]
    tokens = asked.batch_tokens
    if isinstance(first, ChoiceItem):
        from lamina.evaluate.choose import answer_choices, plan_choices

        portions = plan_choices(model, items, batch_tokens=tokens)
        return Planned(
            task,
            items,
            tuple(portions),
            lambda part: answer_choices(model, part, batch_tokens=tokens),
        )
    if isinstance(first, TextItem):
        from lamina.evaluate.rolling import answer_texts, plan_texts

        portions = plan_texts(model, items, batch_tokens=tokens)
        return Planned(
            task,
            items,
            tuple(portions),
            lambda part: answer_texts(model, part, batch_tokens=tokens),
        )
    from lamina.evaluate.write import answer_writing, plan_writing

    sampling = _sampling(asked)
    portions = plan_writing(model, items, batch_tokens=tokens, samples=asked.samples)
    return Planned(
        task,
        items,
        tuple(portions),
        lambda part: answer_writing(model, part, sampling=sampling, seed=asked.seed),
    )


def _sampling(asked: Request) -> Sampling | None:
    from lamina.engine.generate import Sampling

    if not asked.sampled:
        return None
    return Sampling(temperature=asked.temperature or 1.0, top_p=asked.top_p or 1.0)


def check_cut(
    name: str, planned: Sequence[Planned], max_length: int, *, allowed: bool
) -> list[str]:
    """What does not fit the model: refused, or told where `--cut` allows it.

    Raises:
        DataError: questions longer than the model reads, for all tasks in one message.
    """
    told = []
    for part in planned:
        lost = part.cut
        if lost:
            told.append(
                f"{part.task.name}: {len(lost)} of {len(part.items)} items, which lose "
                f"{_range(lost.values())} tokens from their beginning"
            )
    if not told:
        return []
    if not allowed:
        lines = "".join(f"\n  {line}" for line in told)
        raise DataError(
            f"{name} reads {max_length} tokens, and some contexts are longer.{lines}\n"
            "Give fewer examples (--few-shot), or measure them cut, as lm-evaluation-harness does, "
            "with --cut."
        )
    return [f"{name} on {line}" for line in told]


def answer_task(
    planned: Planned, folder: Path | None, key: Mapping[str, Any], watch: Watcher
) -> dict[str, Raw]:
    """What the model answers to each item; goes on where a killed run was."""
    journal = Journal(folder, key)
    answered: dict[str, Raw] = {}
    for number, portion in enumerate(planned.portions):
        name = str(number)
        if name not in journal.done:
            raws = planned.answer(portion)
            # Through JSON, so that a fresh answer and one read again are the same.
            journal.add(name, json.loads(json.dumps(raws)))
        answered.update(journal.done[name])
        watch.advance(portion.tokens)
    return answered


def journal_key(
    planned: Planned, items: Sequence[Item], model: LanguageModel, identity: str, asked: Request
) -> dict[str, Any]:
    """Everything the answers depend on; how items were found is in the items."""
    answering = ("batch_tokens", "samples", "temperature", "top_p", "seed", "dtype", "device")
    settings = asked.as_settings()
    return {
        "model": identity,
        "programs": programs_in_use(),
        "task": planned.task.name,
        "version": planned.task.version,
        "tokens": [portion.tokens for portion in planned.portions],
        "items": fingerprint(items),
        "max_length": model.max_length,
        "settings": {name: settings[name] for name in answering},
    }


def programs_in_use() -> dict[str, str]:
    """What computes: answers of two versions are not put into one result."""
    names = ("torch", "transformers", "tokenizers")
    return {"lamina": lamina.__version__, **{name: version(name) for name in names}}


def judge_task(task: Task, items: Sequence[Item], raws: Mapping[str, Raw]) -> dict[str, Values]:
    """Each item's values, in the order of the items."""
    return {item.id: task.judge(item, raws[item.id]) for item in items}


def sample_line(model: str, task: str, item: Item, raw: Raw, values: Values) -> dict[str, Any]:
    """A line of samples.jsonl.gz: the question as it was asked, the answer as it came."""
    line: dict[str, Any] = {"model": model, "task": task, "id": item.id, "group": item.group}
    match item:
        case ChoiceItem():
            line["pairs"] = [[pair.context, pair.continuation] for pair in item.pairs]
            line["gold"] = list(item.gold)
        case WriteItem():
            line["prompt"] = item.prompt
            line["gold"] = item.answer
        case TextItem():
            line["prompt"] = item.document.prompt
            line["text"] = item.document.text
    return {**line, "raw": raw, "values": {name: list(value) for name, value in values.items()}}


def _range(values: Any) -> str:
    known = sorted(values)
    return f"{known[0]}" if known[0] == known[-1] else f"{known[0]} to {known[-1]}"
