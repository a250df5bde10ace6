"""Run folders read into frozen values: what a merge measured, chose, wrote and cost.

Only `manifest.json` or `scores.json` must be there; plan, metrics and recipe are shown when they
are. Text is cleaned of control characters here, once; numbers that are not finite stay out of
pictures, not out of tables.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from lamina.core.errors import DataError
from lamina.core.manifest import read_json
from lamina.report.formats import natural, plain


@dataclass(frozen=True, slots=True)
class Expert:
    """One expert: a number per layer, the coefficient chosen from it, and where its update sits."""

    name: str
    method: str
    unit: str
    granularity: str
    higher_means: str
    values: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]]
    where: Mapping[str, float]
    coefficients: Mapping[str, float] | None = None
    others: float | None = None
    rule: str = ""
    weight: float | None = None

    @property
    def by_similarity(self) -> bool:
        """Whether the values are cosines with the instruction vector, not sizes of the update."""
        return "cosine" in self.method or self.unit == "cosine"

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(sorted(self.values, key=natural))

    def ranks(self) -> dict[str, float]:
        """1 is the highest value; ties in layer order."""
        if "rank" in self.columns:
            return dict(self.columns["rank"])
        ordered = sorted(
            (layer for layer in self.layers if math.isfinite(self.values[layer])),
            key=lambda layer: -self.values[layer],
        )
        return {layer: float(place) for place, layer in enumerate(ordered, start=1)}

    def shares(self) -> dict[str, float]:
        """The share of the task vector's squared norm in each layer, of all ranked layers."""
        if "B" in self.columns:
            squares = self.columns["B"]
        elif "norm_share" in self.columns:
            squares = self.columns["norm_share"]
        elif self.unit == "l2":
            squares = {layer: value * value for layer, value in self.values.items()}
        else:
            return {}
        return _shares(squares)

    def carried(self) -> dict[str, float]:
        """As `shares`, after the coefficients: what each layer contributes to the merge."""
        if not self.coefficients:
            return {}
        return _shares(
            {
                layer: share * self.coefficients.get(layer, 0.0) ** 2
                for layer, share in self.shares().items()
            }
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Losses of one model on one domain; `difference` is paired with the reference, where known."""

    loss: float
    se: float | None
    tokens: float | None
    word_perplexity: float | None
    byte_perplexity: float | None
    difference: float | None = None
    difference_se: float | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """One control: its mean loss, and how much that lies above the merge's own."""

    name: str
    mean_loss: float | None
    difference: float
    se: float | None


@dataclass(frozen=True, slots=True)
class Controls:
    text: str
    merge: str
    rows: tuple[Control, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Every member and merge on every domain."""

    domains: tuple[str, ...]
    models: Mapping[str, Mapping[str, Measured]]
    text: str = ""
    reference: str = ""
    """The model that the paired differences are from; empty where there are none."""
    warnings: tuple[str, ...] = ()
    controls: Controls | None = None
    forget: "Forget | None" = None


@dataclass(frozen=True, slots=True)
class Forget:
    """What the forgetting did: a text, losses of its own, and single facts."""

    text: str
    metrics: Metrics | None
    facts: Mapping[str, str | float]


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, whole."""

    name: str
    kind: str
    status: str
    versions: Mapping[str, str]
    recipe: Mapping[str, object]
    inputs: Mapping[str, Mapping[str, object]]
    outputs: Mapping[str, Mapping[str, object]]
    results: Mapping[str, object]
    warnings: tuple[str, ...]
    experts: tuple[Expert, ...] = ()
    metrics: Metrics | None = None
    recipe_text: str = ""
    finished: bool = True

    def setting(self, *keys: str) -> object:
        """A setting of the recipe under any of its names, at the top or under `parameters`."""
        parameters = self.recipe.get("parameters")
        for place in (self.recipe, parameters if isinstance(parameters, Mapping) else {}):
            for key in keys:
                if place.get(key) is not None:
                    return place[key]
        return None


@dataclass(frozen=True, slots=True)
class _Place:
    """A value together with its file and key, so that an error can say where it stands."""

    value: object
    file: Path
    key: str = ""

    def problem(self, need: str) -> DataError:
        seen = (
            f"{self.value!r:.60}" if not isinstance(self.value, dict | list) else "something else"
        )
        return DataError(
            f"{self.file}: `{self.key or 'the file'}` should be {need}, but it is {seen}.\n"
            "The report reads files that lamina wrote; write the run again, or mend that file."
        )

    def items(self) -> list[tuple[str, "_Place"]]:
        if self.value is None:
            return []
        if not isinstance(self.value, dict):
            raise self.problem("an object")
        return [
            (plain(str(key)), _Place(value, self.file, f"{self.key}.{plain(str(key))}".lstrip(".")))
            for key, value in self.value.items()
        ]

    def get(self, key: str) -> "_Place":
        return dict(self.items()).get(key, _Place(None, self.file, f"{self.key}.{key}".lstrip(".")))

    def list(self) -> list["_Place"]:
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.problem("a list")
        return [
            _Place(value, self.file, f"{self.key}[{place}]")
            for place, value in enumerate(self.value)
        ]

    def number(self) -> float | None:
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.problem("a number")
        return float(self.value)

    def text(self) -> str:
        if self.value is None:
            return ""
        if isinstance(self.value, dict | list):
            raise self.problem("a text")
        return plain(str(self.value))

    def numbers(self) -> dict[str, float]:
        read = {key: place.number() for key, place in self.items()}
        return {key: value for key, value in read.items() if value is not None}

    def object(self) -> dict[str, object]:
        return {key: clean(place.value) for key, place in self.items()}


def clean(value: object) -> object:
    """The same JSON value with every text in it cleaned."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(key)): clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return value


def _shares(squares: Mapping[str, float]) -> dict[str, float]:
    finite = {layer: value for layer, value in squares.items() if math.isfinite(value)}
    total = math.fsum(finite.values())
    return {layer: value / total for layer, value in finite.items()} if total > 0.0 else {}


def _load(path: Path) -> _Place:
    return _Place(read_json(path) if path.is_file() else None, path)


def _experts(scores: _Place, plan: _Place) -> tuple[Expert, ...]:
    experts: list[Expert] = []
    plans = dict(plan.get("experts").items())
    for name, place in scores.get("experts").items():
        chosen = plans.get(name, _Place(None, plan.file))
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


def _in_recipe_order(experts: tuple[Expert, ...], models: _Place) -> tuple[Expert, ...]:
    """As the recipe lists them; JSON objects are sorted by key."""
    listed = models.value if isinstance(models.value, list) else []
    names = [one.get("name") for one in listed if isinstance(one, dict)]
    return tuple(
        sorted(experts, key=lambda one: names.index(one.name) if one.name in names else len(names))
    )


def _measured(place: _Place, paired: _Place) -> Measured:
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


def _controls(place: _Place) -> Controls | None:
    if place.value is None:
        return None
    rows = [(row.get("name").text(), row) for row in place.get("rows").list()]
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


def _metrics(place: _Place) -> Metrics | None:
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
    order = [name.text() for name in place.get("order").list()]
    names = sorted(read, key=lambda name: order.index(name) if name in order else len(order))
    models = {name: read[name] for name in names}
    seen = list(dict.fromkeys(domain for cells in models.values() for domain in cells))
    named = [domain.text() for domain in place.get("domains").list()]
    return Metrics(
        domains=tuple(named or seen),
        models=MappingProxyType(models),
        text=place.get("text").text(),
        reference=place.get("paired").get("reference").text(),
        warnings=tuple(warning.text() for warning in place.get("warnings").list()),
        controls=_controls(place.get("controls")),
        forget=_forget(place.get("forget")),
    )


def _forget(place: _Place) -> Forget | None:
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
    facts = _load(file) if manifest is None else _Place(dict(manifest), file)
    scores, plan = _load(folder / "scores.json"), _load(folder / "plan.json")
    if facts.value is None and scores.value is None:
        raise DataError(
            f"{folder}: there is neither manifest.json nor scores.json here. "
            "Name a folder that `lamina merge` or `lamina forget` wrote."
        )
    recipe_file = folder / "recipe.yaml"
    text = recipe_file.read_text("utf-8", errors="replace") if recipe_file.is_file() else ""
    return Run(
        name=plain(folder.resolve().name),
        kind=facts.get("kind").text() or "merge",
        status=facts.get("status").text(),
        versions={key: place.text() for key, place in facts.get("versions").items()},
        recipe=facts.get("recipe").object(),
        inputs={key: place.object() for key, place in facts.get("inputs").items()},
        outputs={key: place.object() for key, place in facts.get("outputs").items()},
        results=facts.get("results").object(),
        warnings=tuple(place.text() for place in facts.get("warnings").list()),
        experts=_in_recipe_order(_experts(scores, plan), facts.get("recipe").get("models")),
        metrics=read_metrics(folder),
        recipe_text=plain(text),
        finished=facts.value is not None,
    )
