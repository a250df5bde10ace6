"""What an evaluation says in plain words, and what it does not show."""

from collections.abc import Sequence

from lamina.report.eval import numbers
from lamina.report.eval.nouns import Evaluation, Gap, Task
from lamina.report.eval.tables import metric_of
from lamina.report.formats import count, listing, percent, plain, signed
from lamina.report.verdicts import Part

SUSPICIOUS = "passed_suspicious"
"""The metric that counts such passes apart."""
_MOST = 6
"""Shown differences that are told one by one."""


def title_of(read: Evaluation) -> str:
    """`3 models on 5 tasks`."""
    models = read.models[0] if len(read.models) == 1 else f"{len(read.models)} models"
    where = len(read.tasks) + (len(read.texts.domains) if read.texts else 0)
    if len(read.tasks) == where == 1:
        return f"{models} on {read.tasks[0].name}"
    what = "tasks" if len(read.tasks) == where else "texts" if not read.tasks else "tasks and texts"
    return f"{models} on {where} {what}"


def warnings_of(read: Evaluation) -> list[str]:
    """Warnings of the run, what was skipped, and what of the file could not be read."""
    skipped = [f"{task} was skipped: {_end(reason)}" for task, reason in read.skipped.items()]
    told = list(map(_end, read.warnings))
    told += [one for one in _cut(read) if not any(one.split(":")[0] in known for known in told)]
    return [*told, *skipped, *read.problems]


def reading(read: Evaluation) -> list[Part]:
    """The parts of the reading, in the order of a page."""
    parts = [Part("What was measured", _measured(read))]
    parts += _apart(read)
    guessing = _guessing(read)
    if guessing:
        parts.append(Part("Better than guessing?", guessing))
    parts += _forgetting(read)
    odd = _suspicious(read)
    if odd:
        parts.append(Part("Look at", odd))
    return parts


def _measured(read: Evaluation) -> str:
    tasks = [f"{task.name} ({count(task.items)} items)" for task in read.tasks]
    texts = list(read.texts.domains) if read.texts else []
    if not tasks and not texts:
        return "Nothing that can be shown."
    told = f"{listing(read.models) or 'No model'} on {listing([*tasks, *texts], most=14)}."
    if tasks:
        told += (
            " Standard errors take the items as drawn independently of each other; where questions "
            "of one subject are alike, as in MMLU, the true errors may be a little larger."
        )
    return told


def _apart(read: Evaluation) -> list[Part]:
    if not read.gaps:
        if len(read.models) > 1 and read.tasks:
            told = (
                "The models were not compared. Intervals that overlap say little, as both models "
                "answered the same items: --compare tests the differences."
            )
            return [Part("Which is better?", told)]
        return []
    parts = [
        Part(f"Is {model} better?", _of_model(read, [g for g in read.gaps if g.model == model]))
        for model in dict.fromkeys(gap.model for gap in read.gaps)
    ]
    return [*parts, Part("How sure is that?", _sure(read.gaps))]


def _sure(gaps: Sequence[Gap]) -> str:
    known = [gap for gap in gaps if gap.p_corrected is not None]
    told = ["A difference is shown where its p value is below 0.05."]
    if len(known) > 1:
        told = [
            f"A difference is shown where its p value, corrected for all {len(known)} comparisons "
            "(Holm), is below 0.05."
        ]
    if any(not gap.shown for gap in gaps):
        told.append("Where none is shown there may still be one: the interval says how large.")
    if any(not gap.shown and (gap.low or 0.0) * (gap.high or 0.0) > 0 for gap in gaps):
        told.append(
            "An interval is of one difference alone, not corrected: it may leave out zero where "
            "no difference is shown."
        )
    return " ".join(told)


def _of_model(read: Evaluation, gaps: Sequence[Gap]) -> str:
    reference = gaps[0].reference
    pieces = []
    for word in ("better", "worse"):
        found = [_shown_words(read, gap) for gap in gaps if gap.tone == word]
        if found:
            pieces.append(f"{word} than {reference} on {listing(found, most=_MOST)}")
    unknown = [gap.task for gap in gaps if gap.difference is None]
    rest = [gap.task for gap in gaps if not gap.shown and gap.task not in unknown]
    told = [f"It is {', and '.join(pieces)}."] if pieces else []
    if rest:
        told.append(f"No difference from {reference} is shown on {listing(rest, most=14)}.")
    if unknown:
        told.append(f"It cannot be compared on {listing(unknown)}.")
    return " ".join(told)


def _shown_words(read: Evaluation, gap: Gap) -> str:
    metric = metric_of(read, gap)
    told = f"{gap.task} ({numbers.gap_words(metric, gap.difference)}{numbers.points(metric)}"
    if gap.low is not None:
        told += f", 95 % interval {numbers.interval_words(metric, gap)}"
    return f"{told}; {count(gap.better)} items better, {count(gap.worse)} worse)"


def _guessing(read: Evaluation) -> str:
    """Which tasks no model does better than by guessing, for those whose chance is known."""
    known = [task for task in read.tasks if task.chance]
    none = [task for task in known if not any(_above(read, task, model) for model in read.models)]
    if not known:
        return ""
    if not none:
        tasks = f"all {len(known)} tasks" if len(known) > 1 else known[0].name
        return f"On {tasks} at least one model is above chance by more than its 95 % interval."
    told = [f"{task.name} (chance {percent(task.chance)})" for task in none]
    return f"On {listing(told, most=14)} no model can be told from guessing."


def _above(read: Evaluation, task: Task, model: str) -> bool:
    one = read.number(model, task.name, task.metrics[0].name)
    if one is None or one.se is None:
        return False
    if one.ends is None:  # all items alike: where all are right, the exact (Clopper-Pearson) end
        return one.value == 1.0 and 0.025 ** (1.0 / (task.items or 1.0)) > (task.chance or 0.0)
    return one.ends[0] > (task.chance or 0.0)


def _forgetting(read: Evaluation) -> list[Part]:
    if read.texts is None or not read.texts.changes:
        return []
    told = []
    for model, changes in read.texts.changes.items():
        lost = [f"{domain} ({signed(one.value)})" for domain, one in changes.items()
                if one.shown and one.value > 0]  # fmt: skip
        won = [f"{domain} ({signed(one.value)})" for domain, one in changes.items()
               if one.shown and one.value < 0]  # fmt: skip
        rest = [domain for domain, one in changes.items() if not one.shown]
        pieces = [f"lost on {listing(lost)}"] if lost else []
        pieces += [f"gained on {listing(won)}"] if won else []
        pieces += [f"shows no difference on {listing(rest)}"] if rest else []
        told.append(f"{model} {listing(pieces)}.")
    of = f" from {read.texts.reference}" if read.texts.reference else ""
    unit = f"Change of the loss{of}, nats per token; shown beyond two standard errors, by text."
    return [Part("What was forgotten", " ".join([*told, unit]))]


def _suspicious(read: Evaluation) -> str:
    """Programs that passed and hold what could fool a test."""
    told = []
    for task in read.tasks:
        for model in read.models:
            one = read.number(model, task.name, SUSPICIOUS)
            if one is not None and one.value > 0:
                told.append(f"{percent(one.value)} of the programs of {model} for {task.name}")
    if not told:
        return ""
    return (
        f"{listing(told)} passed and use what honest solutions do not, such as what could fool a "
        "test. They count as passes here; read them before you trust them."
    )


def _cut(read: Evaluation) -> list[str]:
    """Items that were longer than a model reads."""
    return [
        f"{model} on {task}: {count(scored.cut)} of {count(scored.items)} items lost their "
        "beginning, as the model reads less."
        for model, of in read.results.items()
        for task, scored in of.items()
        if scored.cut
    ]


def _end(text: str) -> str:
    text = plain(text).strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
