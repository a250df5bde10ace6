"""The tables of an evaluation, as values that the page and the terminal both draw."""

from collections.abc import Sequence

from lamina.report.eval import numbers
from lamina.report.eval.nouns import Evaluation, Gap, Metric, Task, Texts
from lamina.report.formats import count, natural, number, percent, signed
from lamina.report.tables import Cell, Row, Table

LOSS = Metric("loss", higher_is_better=False, scale="loss")
_DEEP = (0.02, 0.05)
"""From these differences on (2 and 5 points; 0.02 and 0.05 of the value) a tone is deeper."""


def results(read: Evaluation, models: Sequence[str] | None = None) -> Table | None:
    """Every metric of every task, then the losses on texts: a column a model (or some of them)."""
    models = read.models if models is None else models
    rows = [
        _task_row(read, task, metric, models, first=metric is task.metrics[0])
        for task in read.tasks
        for metric in task.metrics
        if metric is task.metrics[0] or known(read, task, metric)
    ]
    rows += _text_rows(read, read.texts, models) if read.texts else []
    if not rows:
        return None
    note = "± one standard error"
    if read.reference:
        note += f"; below: the difference from {read.reference}, coloured where it is shown"
    if any("↓" in cell.text for row in rows for cell in row.cells[:1]):
        note += "; ↓ lower is better"
    head = ("measure", "items", *models)
    return Table("Tasks, and losses on texts", head, tuple(rows), note + ".")


def known(read: Evaluation, task: Task, metric: Metric) -> bool:
    """Whether a model has it: pass@10 of a single sample is not there."""
    return any(read.number(model, task.name, metric.name) for model in read.models)


def _task_row(
    read: Evaluation, task: Task, metric: Metric, models: Sequence[str], *, first: bool
) -> Row:
    chance = f"chance {percent(task.chance)}" if first and task.chance is not None else ""
    cells = [Cell(numbers.unit_of(metric), chance, numeric=False), Cell(count(task.items))]
    for model in models:
        gap = read.gap(model, task.name, metric.name)
        one = read.number(model, task.name, metric.name)
        under = numbers.gap_words(metric, gap.difference) if gap else ""
        cells.append(Cell(numbers.value_words(metric, one), under, _tone(gap, metric)))
    return Row(task.name, tuple(cells), "" if first else "sub")


def _text_rows(read: Evaluation, texts: Texts, models: Sequence[str]) -> list[Row]:
    rows = []
    for domain in texts.domains:
        cells = [Cell("loss, nats ↓", numeric=False), Cell("–")]
        for model in models:
            one = texts.losses.get(model, {}).get(domain)
            change = texts.changes.get(model, {}).get(domain)
            tone = ""
            if change and change.shown:
                deep = 1 + (abs(change.value) > 0.05) + (abs(change.value) > 0.2)
                tone = f"{'better' if change.value < 0 else 'worse'}-{deep}"
            cells.append(
                Cell(numbers.value_words(LOSS, one), signed(change.value) if change else "", tone)
            )
        rows.append(Row(domain, tuple(cells)))
    return rows


def _tone(gap: Gap | None, metric: Metric) -> str:
    if gap is None or not gap.tone:
        return ""
    size = abs(gap.difference or 0.0)
    return f"{gap.tone}-{1 + sum(size > one for one in _DEEP) if metric.percent else 2}"


def comparisons(read: Evaluation) -> list[Table]:
    """A table for each model that is compared."""
    tables = []
    for model in dict.fromkeys(gap.model for gap in read.gaps):
        gaps = [gap for gap in read.gaps if gap.model == model]
        tables.append(
            Table(
                f"{model} minus {gaps[0].reference}, on the same items",
                (
                    "measure",
                    "difference",
                    "95 % interval",
                    "better",
                    "worse",
                    "same",
                    "p",
                    "verdict",
                ),
                tuple(_gap_row(read, gap) for gap in gaps),
            )
        )
    return tables


def _gap_row(read: Evaluation, gap: Gap) -> Row:
    metric = metric_of(read, gap)
    tone = f"{gap.tone}-2" if gap.tone else ""
    why = numbers.why_none(gap)
    return Row(
        gap.task,
        (
            Cell(numbers.unit_of(metric), numeric=False),
            Cell(numbers.gap_words(metric, gap.difference)),
            Cell(numbers.interval_words(metric, gap)),
            Cell(count(gap.better)),
            Cell(count(gap.worse)),
            Cell(count(gap.same)),
            Cell(numbers.chance_words(gap.p_corrected)),
            Cell(gap.verdict, why, tone, numeric=False),
        ),
    )


def metric_of(read: Evaluation, gap: Gap) -> Metric:
    """The metric that was compared; a bare number where the task does not tell it."""
    found = (
        metric
        for task in read.tasks
        if task.name == gap.task
        for metric in task.metrics
        if metric.name == gap.metric
    )
    return next(found, Metric(gap.metric, higher_is_better=True, scale=""))


def groups(read: Evaluation, task: Task) -> Table | None:
    """The first metric by subject, a column a model."""
    by_model = {
        model: read.results[model][task.name].groups
        for model in read.models
        if task.name in read.results.get(model, {})
    }
    names = sorted({name for of in by_model.values() for name in of}, key=natural)
    if len(names) < 2:
        return None
    metric = task.metrics[0]
    rows = [
        Row(
            name.replace("_", " "),
            tuple(
                Cell(numbers.value_words(metric, of.get(name, {}).get(metric.name)))
                for of in by_model.values()
            ),
        )
        for name in names
    ]
    return Table(f"{task.name} by subject: {numbers.unit_of(metric)}", tuple(by_model), tuple(rows))


def asked(read: Evaluation) -> Table | None:
    """What was asked, task by task."""
    if not read.tasks:
        return None
    head = tuple(read.tasks[0].asked)
    rows = [
        Row(task.name, tuple(Cell(text, numeric=False) for text in task.asked.values()))
        for task in read.tasks
    ]
    return Table("The tasks", head, tuple(rows))


def settings(read: Evaluation) -> Table | None:
    """Settings, models' paths, and where the samples are."""
    told = {f"model {name}": path for name, path in read.paths.items() if path}
    told |= {key.replace("_", " "): value for key, value in read.settings.items()}
    told |= {"sandbox": read.sandbox} if read.sandbox else {}
    told |= {"questions and answers": read.samples} if read.samples else {}
    told |= {"lamina": read.version} if read.version else {}
    rows = [Row(key, (Cell(value, numeric=False),)) for key, value in told.items()]
    return Table("Settings", ("value",), tuple(rows)) if rows else None


def harness(read: Evaluation) -> Table | None:
    """What lm-evaluation-harness measured, as it prints it."""
    models = tuple(model for model in read.models if model in read.harness)
    kinds = dict.fromkeys(
        (task, metric)
        for model in models
        for task, metrics in read.harness[model].items()
        for metric in metrics
    )
    rows = []
    for task, metric in kinds:
        found = [read.harness[model].get(task, {}).get(metric) for model in models]
        told = [f"± {number(one.se, 4)}" if one and one.se else "" for one in found]
        cells = [Cell(number(one.value if one else None, 4), under)
                 for one, under in zip(found, told, strict=True)]  # fmt: skip
        rows.append(Row(task, (Cell(metric, numeric=False), *cells)))
    if not rows:
        return None
    caption = "Measured by lm-evaluation-harness, ± its standard error"
    return Table(caption, ("measure", *models), tuple(rows))
