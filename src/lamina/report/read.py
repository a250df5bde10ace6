"""Run folders read into frozen values: what a merge measured, chose, wrote and cost.

Only `manifest.json` or `scores.json` must be there; plan, metrics and recipe are shown when they
are. Text is cleaned of control characters here, once; numbers that are not finite stay out of
pictures, not out of tables.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lamina.core.errors import DataError
from lamina.core.manifest import read_json
from lamina.report.formats import plain
from lamina.report.nouns import Control, Controls, Expert, Forget, Measured, Metrics, Run
from lamina.report.place import Place

UNFINISHED = ".lamina-part"
"""How a folder's name ends while the run is still writing, which is when the page is made."""

NO_PAGE = ("order", "shift")
"""Kinds of runs that a terminal alone shows."""


def _load(path: Path) -> Place:
    return Place(read_json(path) if path.is_file() else None, path)


def _cost(path: Path) -> Mapping[str, object]:
    """The last line of a log, if it says what a run cost."""
    lines = path.read_text("utf-8", errors="replace").split("\n") if path.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), "{}")
    try:
        read = json.loads(last)
    except ValueError:
        return {}
    return Place(read, path).cleaned() if isinstance(read, dict) else {}


def _experts(scores: Place, plan: Place) -> tuple[Expert, ...]:
    experts: list[Expert] = []
    plans = dict(plan.get("experts").items())
    for name, place in scores.get("experts").items():
        chosen = plans.get(name, Place(None, plan.file))
        columns = {key: column.numbers() for key, column in place.get("columns").items()}
        experts.append(
            Expert(
                name=name,
                method=place.get("method").text(),
                unit=place.get("unit").text(),
                granularity=place.get("granularity").text(),
                higher_means=place.get("higher_means").text(),
                values=MappingProxyType(place.get("values").numbers()),
                columns=MappingProxyType(columns),
                where=MappingProxyType(scores.get("where").get(name).numbers()),
                coefficients=chosen.get("coefficients").numbers() or None,
                others=chosen.get("others").number(),
                rule=chosen.get("rule").text(),
                weight=chosen.get("weight").number(),
            )
        )
    return tuple(experts)


def _in_recipe_order(experts: tuple[Expert, ...], models: Place) -> tuple[Expert, ...]:
    """As the recipe lists them; JSON objects are sorted by key."""
    listed = models.value if isinstance(models.value, list | tuple) else ()
    names = [one.get("name") for one in listed if isinstance(one, dict)]
    return tuple(
        sorted(experts, key=lambda one: names.index(one.name) if one.name in names else len(names))
    )


def _measured(place: Place, paired: Place) -> Measured:
    loss = place.get("loss").number()
    if loss is None:
        raise place.get("loss").problem("a number")
    return Measured(
        loss=loss,
        se=place.get("loss_se").number(),
        tokens=place.get("tokens").number(),
        word_perplexity=place.get("word_perplexity").number(),
        byte_perplexity=place.get("byte_perplexity").number(),
        difference=paired.get("difference").number(),
        difference_se=paired.get("se").number(),
    )


def _controls(place: Place) -> Controls | None:
    if place.value is None:
        return None
    rows = [(row.get("name").text(), row) for row in place.get("rows").listed()]
    merge = place.get("lata").text() or "LATA"
    own = [
        row.get("mean_loss").number()
        for name, row in rows
        if name.lower() in ("lata", merge.lower())
    ]
    read: list[Control] = []
    for name, row in rows:
        loss = row.get("mean_loss").number()
        if loss is not None and own and own[0] is not None:
            difference = loss - own[0]
        else:
            difference = row.get("difference").number() or 0.0
        read.append(Control(name, loss, difference, row.get("se").number()))
    return Controls(place.get("text").text(), merge, tuple(read))


def _metrics(place: Place) -> Metrics | None:
    if place.get("models").value is None:
        return None
    paired = place.get("paired").get("differences")
    read = {
        name: MappingProxyType(
            {
                domain: _measured(cell, paired.get(name).get(domain))
                for domain, cell in cells.items()
            }
        )
        for name, cells in place.get("models").items()
    }
    order = [name.text() for name in place.get("order").listed()]
    names = sorted(read, key=lambda name: order.index(name) if name in order else len(order))
    models = {name: read[name] for name in names}
    seen = list(dict.fromkeys(domain for cells in models.values() for domain in cells))
    named = [domain.text() for domain in place.get("domains").listed()]
    return Metrics(
        domains=tuple(named or seen),
        models=MappingProxyType(models),
        text=place.get("text").text(),
        reference=place.get("paired").get("reference").text(),
        warnings=tuple(warning.text() for warning in place.get("warnings").listed()),
        controls=_controls(place.get("controls")),
        forget=_forget(place.get("forget")),
    )


def _forget(place: Place) -> Forget | None:
    if not place.value:
        return None
    facts: dict[str, str | float] = {}
    for key, inner in place.items():
        if key == "text" or isinstance(inner.value, dict | list | bool) or inner.value is None:
            continue
        number = inner.number() if isinstance(inner.value, int | float) else None
        facts[key] = inner.text() if number is None else number
    return Forget(place.get("text").text(), _metrics(place), facts)


def read_metrics(path: Path) -> Metrics | None:
    """The losses of a folder, or of a file of losses; None where nothing was measured."""
    return _metrics(_load(path if path.is_file() else path / "metrics.json"))


def runs_below(folder: Path) -> list[Path]:
    """The folders in a folder that hold a finished run, by name."""
    return sorted(path.parent for path in folder.glob("*/manifest.json"))


def read_run(folder: Path, manifest: Mapping[str, object] | None = None) -> Run:
    """A run folder as values; `manifest` stands in for the file while that is not written yet.

    Raises:
        DataError: there is nothing of a run in the folder, or a file of it cannot be read.
    """
    file = folder / "manifest.json"
    facts = _load(file) if manifest is None else Place(dict(manifest), file)
    scores, plan = _load(folder / "scores.json"), _load(folder / "plan.json")
    if facts.value is None and scores.value is None:
        raise DataError(
            f"{folder}: there is neither manifest.json nor scores.json here. "
            "Name a folder that `lamina merge`, `forget`, `tune`, `detect` or `rank` wrote."
        )
    recipe_file = folder / "recipe.yaml"
    text = recipe_file.read_text("utf-8", errors="replace") if recipe_file.is_file() else ""
    return Run(
        name=plain(folder.resolve().name).removeprefix(".").removesuffix(UNFINISHED),
        kind=facts.get("kind").text() or "merge",
        status=facts.get("status").text(),
        versions={key: place.text() for key, place in facts.get("versions").items()},
        recipe=facts.get("recipe").cleaned(),
        inputs={key: place.cleaned() for key, place in facts.get("inputs").items()},
        outputs={key: place.cleaned() for key, place in facts.get("outputs").items()},
        results=facts.get("results").cleaned(),
        warnings=tuple(place.text() for place in facts.get("warnings").listed()),
        experts=_in_recipe_order(_experts(scores, plan), facts.get("recipe").get("models")),
        metrics=read_metrics(folder),
        recipe_text=plain(text),
        finished=facts.value is not None,
        cost=_cost(folder / "log.jsonl"),
    )
