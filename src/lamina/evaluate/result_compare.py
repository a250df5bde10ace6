"""Results of `lamina eval` against each other, item by item and only where all asked the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, did_you_mean
from lamina.evaluate.result_files import ByTask, Result, read_result, read_values
from lamina.evaluate.results import SCHEMA, compare_models

_ASKED = ("version", "chat")
"""What must be equal in a task for its values to be comparable, besides the fingerprint."""
_WHY = ("items", "few_shot", "limit")
"""What may have made other fingerprints; equal ones are of the same items, however asked for."""
_DRAWN = ("samples", "temperature", "top_p")
"""Settings that must be equal where answers are written."""
_TOLD = ("dtype", "max_length", "batch_tokens", "seed", "cut")
"""Settings that may differ, but the result says so."""


def compare_results(
    paths: Sequence[Path], *, reference: str | None = None, seed: int = 1234
) -> dict[str, Any]:
    """Models of results against one of them, item by item, as a result without a file.

    Args:
        reference: a model's name; the first model of the first result, if None.

    Raises:
        DataError: a file is not what it must be; the runs asked for different things (all told in
            one message); they share no task; the reference is not among the models.
    """
    results = read_results(paths)
    if sum(len(result.order) for result in results) < 2:
        raise DataError(
            f"{', '.join(map(str, paths))} has one model, {results[0].order[0]}, and nothing to "
            "compare it with. Name another result, too."
        )
    check_comparable(results)
    names = _names(results)
    shared = _shared(results)
    if reference is not None and reference not in names.values():
        raise DataError(
            f"No model `{reference}` in {', '.join(str(path) for path in paths)}; "
            f"{did_you_mean(reference, names.values())}"
        )
    values: dict[str, ByTask] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for place, result in enumerate(results):
        by_model = read_values(result)
        for model in result.order:
            name = names[place, model]
            values[name] = {task: of for task, of in by_model[model].items() if task in shared}
            numbers[name] = {task: result.whole["results"][model][task] for task in values[name]}
    _check_same_items(values, shared)
    first = results[0]
    return {
        "schema": SCHEMA,
        "models": {
            name: result.whole.get("models", {}).get(model, {})
            for place, result in enumerate(results)
            for model in result.order
            for name in [names[place, model]]
        },
        "order": list(values),
        "tasks": {task: first.tasks[task] for task in shared},
        "results": numbers,
        "skipped": {},
        "comparisons": compare_models(
            {task: first.metrics[task] for task in shared}, values, reference=reference, seed=seed
        ),
        "texts": None,
        "forgetting": [],
        "settings": dict(first.settings),
        "sandbox": None,
        "samples": None,
        "warnings": _differing(results, shared),
    }


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The results of several files.

    Raises:
        DataError: a file is not what it must be, or is named twice.
    """
    places = [path.resolve() for path in paths]
    twice = sorted({str(p) for p, at in zip(paths, places, strict=True) if places.count(at) > 1})
    if twice:
        raise DataError(f"Named twice: {', '.join(twice)}. A result says nothing of itself.")
    return [read_result(path) for path in paths]


def check_comparable(results: Sequence[Result], advice: str = "") -> None:
    """Refuses results that asked for different things, all in one message.

    Args:
        advice: what is said at the end.

    Raises:
        DataError: tasks over other items, other versions of tasks, other settings of writing.
    """
    first = results[0]
    problems = []
    for other in results[1:]:
        shared = [task for task in first.tasks if task in other.tasks]
        if not shared:
            problems.append(
                f"{first.path} has {', '.join(first.tasks) or 'no tasks'}, {other.path} has "
                f"{', '.join(other.tasks) or 'no tasks'}: no task in both"
            )
        for task in shared:
            problems += [f"{task}: {told}" for told in _unlike(first, other, task)]
        if any(first.tasks[task]["kind"] in ("write", "code") for task in shared):
            problems += _settings(first, other, _DRAWN)
    if not problems and not _shared(results):
        problems.append("no task in all of them")
    if problems:
        raise DataError(
            f"{' and '.join(str(one.path) for one in results)} are not results on the same items, "
            "so they cannot be compared.\n  "
            + "\n  ".join(problems)
            + (advice or "\nMeasure them with the same --data, --limit, --few-shot and --chat.")
        )


def _shared(results: Sequence[Result]) -> list[str]:
    """The tasks that all results have."""
    return [task for task in results[0].tasks if all(task in one.tasks for one in results)]


def _unlike(first: Result, other: Result, task: str) -> list[str]:
    one, two = first.tasks[task], other.tasks[task]
    others = one["fingerprint"] != two["fingerprint"]
    told = [
        f"{name.replace('_', ' ')} {_word(one[name])} in {first.path.name}, {_word(two[name])} in "
        f"{other.path.name}"
        for name in (*_ASKED, *(_WHY if others else ()))
        if one[name] != two[name]
    ]
    if [metric.name for metric in first.metrics[task]] != [
        metric.name for metric in other.metrics[task]
    ]:
        told.append("other metrics")
    if not told and others:
        told.append(
            f"{one['items']} items in both, but not the same ones (or other examples before)"
        )
    return told


def _settings(first: Result, other: Result, keys: Sequence[str]) -> list[str]:
    return [
        f"{key.replace('_', ' ')} {_word(first.settings.get(key))} in {first.path.name}, "
        f"{_word(other.settings.get(key))} in {other.path.name}"
        for key in keys
        if first.settings.get(key) != other.settings.get(key)
    ]


def _word(value: object) -> str:
    return (
        {None: "none", True: "on", False: "off"}.get(value, str(value))
        if (value is None or isinstance(value, bool))
        else str(value)
    )


def _differing(results: Sequence[Result], shared: Sequence[str]) -> list[str]:
    """What a comparison says of settings that differ and of tasks that only some results have."""
    told: list[str] = []
    for other in results[1:]:
        told += _settings(results[0], other, _TOLD)
    for result in results:
        alone = [task for task in result.tasks if task not in shared]
        if alone:
            told.append(
                f"not in all results and so not compared: {', '.join(alone)} ({result.path.name})"
            )
    return told


def _names(results: Sequence[Result]) -> dict[tuple[int, str], str]:
    """A name for every model of every result: its own, with the result's where that is twice."""
    every = [(place, model) for place, result in enumerate(results) for model in result.order]
    own = [model for _, model in every]
    stems = [result.path.stem for result in results]
    named = {}
    for place, model in every:
        if own.count(model) == 1:
            named[place, model] = model
            continue
        path = results[place].path
        named[place, model] = f"{model} ({path.stem if stems.count(path.stem) == 1 else path})"
    return named


def _check_same_items(values: Mapping[str, ByTask], shared: Sequence[str]) -> None:
    problems = []
    for task in shared:
        known = [set(by_task[task]) for by_task in values.values() if task in by_task]
        if any(ids != known[0] for ids in known[1:]):
            problems.append(task)
    if problems:
        raise DataError(
            f"The samples have other items than each other in {', '.join(problems)}, although the "
            "results say the same of them. Measure again."
        )
