"""A result file of `lamina eval` read softly: what is odd is noted down and left out."""

from pathlib import Path

from lamina.core.errors import DataError
from lamina.core.manifest import read_json
from lamina.report.eval.nouns import Change, Evaluation, Gap, Metric, Number, Scored, Task, Texts
from lamina.report.formats import listing, plain
from lamina.report.soft import Soft, soft_json

SCHEMA = "lamina.evaluation/1"
NAME = "evaluation.json"
"""What a result is called inside a run's folder."""
_ASKED = {
    "kind": "kind",
    "version": "version",
    "few_shot": "examples before each",
    "limit": "limit",
    "chat": "chat template",
    "source": "source",
}


def is_evaluation(path: Path) -> bool:
    """Whether a file says that it is a result of `lamina eval --tasks`, of any version."""
    try:
        read = read_json(path)
    except DataError:
        return False
    schema = read.get("schema") if isinstance(read, dict) else None
    return isinstance(schema, str) and schema.startswith("lamina.evaluation/")


def read_evaluation(path: Path) -> Evaluation:
    """The result in a file; what cannot be read stands among its problems."""
    problems: list[str] = []
    whole = soft_json(path, problems)
    schema = whole.get("schema").text()
    if schema and schema != SCHEMA:
        whole.tell(f"it is of the version {schema}, this page is made for {SCHEMA}")
    results = {
        model: {task: _scored(one) for task, one in of.items()}
        for model, of in whole.get("results").items()
    }
    texts = _texts(whole.get("texts"), whole.get("forgetting"))
    harness = [model for model, _ in whole.get("harness").items()]
    order = [*whole.get("order").texts(), *results, *harness, *(texts.losses if texts else [])]
    tasks = [_task(name, one) for name, one in whole.get("tasks").items()]
    return Evaluation(
        name=plain(path.stem),
        models=tuple(dict.fromkeys(order)),
        paths={name: one.get("path").text() for name, one in whole.get("models").items()},
        tasks=tuple(task for task in tasks if task.metrics),
        results=results,
        skipped={task: reason.text() for task, reason in whole.get("skipped").items()},
        gaps=tuple(_gap(one) for one in whole.get("comparisons").listed()),
        texts=texts,
        harness={
            model: {task: _numbers(one) for task, one in of.items()}
            for model, of in whole.get("harness").items()
        },
        settings=_settings(whole.get("settings")),
        sandbox=whole.get("sandbox").text(),
        samples=whole.get("samples").text(),
        version=whole.get("lamina").text(),
        warnings=whole.get("warnings").texts(),
        problems=tuple(problems),
    )


def _task(name: str, place: Soft) -> Task:
    metrics = [
        Metric(
            name=one.get("name").text(),
            higher_is_better=one.get("higher_is_better").value is not False,
            scale=one.get("scale").text(),
        )
        for one in place.get("metrics").listed()
    ]
    return Task(
        name=name,
        kind=place.get("kind").text(),
        items=place.get("items").number(),
        metrics=tuple(one for one in metrics if one.name),
        chance=place.get("chance").number(),
        asked={word: _words(place.get(key)) for key, word in _ASKED.items()},
    )


def _words(place: Soft) -> str:
    if isinstance(place.value, bool):
        return "yes" if place.value else "no"
    return "–" if place.value is None else place.text()


def _settings(place: Soft) -> dict[str, str]:
    """Settings as words; those of each model one by one."""
    told: dict[str, str] = {}
    for key, one in place.items():
        if isinstance(one.value, dict):
            told |= {f"{key} of {name}": _words(inner) for name, inner in one.items()}
        else:
            told[key] = listing(one.texts()) if isinstance(one.value, list) else _words(one)
    return told


def _scored(place: Soft) -> Scored:
    return Scored(
        items=place.get("items").number(),
        cut=place.get("cut").number() or 0.0,
        metrics=_numbers(place.get("metrics")),
        groups={group: _numbers(of) for group, of in place.get("groups").items()},
    )


def _numbers(place: Soft) -> dict[str, Number]:
    read = {name: (one.get("value").number(), one.get("se").number())
            for name, one in place.items()}  # fmt: skip
    return {name: Number(value, se) for name, (value, se) in read.items() if value is not None}


def _gap(place: Soft) -> Gap:
    verdict = place.get("verdict").text()
    return Gap(
        task=place.get("task").text(),
        metric=place.get("metric").text(),
        model=place.get("model").text(),
        reference=place.get("reference").text(),
        difference=place.get("difference").number(),
        low=place.get("low").number(),
        high=place.get("high").number(),
        better=place.get("better").number() or 0.0,
        worse=place.get("worse").number() or 0.0,
        same=place.get("same").number() or 0.0,
        p=place.get("p").number(),
        p_corrected=place.get("p_corrected").number(),
        shown=place.get("shown").value is True,
        verdict=verdict or "no difference shown",
    )


def _texts(place: Soft, forgetting: Soft) -> Texts | None:
    losses: dict[str, dict[str, Number]] = {}
    for model, domains in place.get("models").items():
        read = {name: (one.get("loss").number(), one.get("loss_se").number())
                for name, one in domains.items()}  # fmt: skip
        losses[model] = {name: Number(loss, se) for name, (loss, se) in read.items()
                         if loss is not None}  # fmt: skip
    changes: dict[str, dict[str, Change]] = {}
    reference = ""
    for one in forgetting.listed():
        value = one.get("difference").number()
        reference = reference or one.get("reference").text()
        if value is not None:
            change = Change(value, one.get("se").number(), one.get("shown").value is True)
            changes.setdefault(one.get("model").text(), {})[one.get("domain").text()] = change
    if not any(losses.values()):
        return None
    seen = [domain for of in losses.values() for domain in of]
    domains = tuple(dict.fromkeys([*place.get("domains").texts(), *seen]))
    return Texts(domains, losses, changes, reference)
