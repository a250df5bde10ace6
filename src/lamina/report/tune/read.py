"""The folder of a tuning or a detection read into frozen values; what is damaged is told.

Costs a pass over `domains.jsonl` and over at most `MOST_TEXTS` sampled texts.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lamina.core.errors import DataError
from lamina.report.formats import plain
from lamina.report.nouns import Run
from lamina.report.rank.read_plan import holds_plan, read_plan
from lamina.report.read import UNFINISHED
from lamina.report.soft import Soft, soft_json, soft_lines
from lamina.report.tune.nouns import (
    Data,
    DomainRows,
    Estimate,
    Gate,
    General,
    Ledger,
    Reference,
    Sample,
    Stage,
    Tuned,
    Window,
)
from lamina.report.tune.read_detection import read_detection

KINDS = ("tune", "detect")
_LONGEST_SAMPLE = 2500
_MOST_SAMPLES = 3
_PER_DOMAIN = (
    "weights", "rows", "tokens", "share", "loss", "loss_se", "potential", "forgetting",
    "repeats", "train_loss",
)  # fmt: skip


def kind_of(folder: Path, manifest: Mapping[str, object] | None = None) -> str | None:
    """`tune` or `detect`, by the manifest, or by the files where there is none to be read."""
    said = str(manifest.get("kind") or "") if manifest is not None else said_kind(folder)
    if said:
        return said if said in KINDS else None
    if (folder / "scores.json").is_file():
        return None
    if (folder / "plan.json").is_file() and not holds_plan(folder):
        return None
    if any((folder / f).is_file() for f in ("domains.jsonl", "ledger.json", "data.json")):
        return "tune"
    if any((folder / f).is_file() for f in ("shares.json", "texts.jsonl.gz")):
        return "detect"
    return "tune" if (folder / "reference.json").is_file() else None


def said_kind(folder: Path) -> str:
    """The kind of run that a folder's manifest names; empty where there is none to be read."""
    value = soft_json(folder / "manifest.json", []).value
    kind = value.get("kind") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else ""


def read_tuned(folder: Path, manifest: Mapping[str, object] | None = None) -> Tuned:
    """A run folder of either kind as values; `manifest` stands in for the file in the making.

    Raises:
        DataError: there is nothing of such a run in the folder.
    """
    kind = kind_of(folder, manifest)
    if kind is None:
        raise DataError(
            f"{folder}: neither a manifest.json of a tuning or a detection is here nor any of "
            "their files. Name a folder that `lamina tune` or `lamina detect` wrote."
        )
    problems: list[str] = []
    facts = read_facts(folder, manifest, problems)
    windows = read_windows(soft_lines(folder / "domains.jsonl", problems))
    if kind == "tune" and not windows and facts.value is None:
        windows = _windows_so_far(folder / "checkpoints", problems)
    ledger = _ledger(soft_json(folder / "ledger.json", problems))
    data = read_data(soft_json(folder / "data.json", problems))
    place = "detect/" if kind == "tune" else ""
    detection = read_detection(folder / place, problems, prefix=place)
    reference = _reference(soft_json(folder / "reference.json", problems))
    plan = read_plan(folder, problems) if kind == "tune" else None
    if kind == "tune":
        missing = [("domains.jsonl", windows), ("ledger.json", ledger), ("data.json", data)]
        problems += [
            f"{name} is missing or empty: what it would tell is not on this page."
            for name, value in missing
            if not value and not any(problem.startswith(name) for problem in problems)
        ]
    elif detection is None and not problems:
        problems.append("shares.json is missing: the shares are not on this page.")
    return Tuned(
        run=run_of(folder, facts, kind),
        domains=_domains(ledger, data, windows, detection.domains if detection else ()),
        windows=windows,
        ledger=ledger,
        data=data,
        reference=reference,
        detection=detection,
        plan=plan,
        problems=tuple(dict.fromkeys(problems)),
    )


def read_facts(folder: Path, manifest: Mapping[str, object] | None, problems: list[str]) -> Soft:
    """What the manifest says: that given, or the file."""
    if manifest is None:
        return soft_json(folder / "manifest.json", problems)
    return Soft(dict(manifest), "manifest.json", problems)


def run_of(folder: Path, facts: Soft, kind: str) -> Run:
    """The run itself: recipe, files, results and cost."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text("utf-8", errors="replace") if recipe.is_file() else ""
    name = folder.resolve().name.removeprefix(".").removesuffix(UNFINISHED)
    return Run(
        name=plain(name),
        kind=kind,
        status=facts.get("status").text(),
        versions={key: one.text() for key, one in facts.get("versions").items()},
        recipe=facts.get("recipe").cleaned(),
        inputs={key: one.cleaned() for key, one in facts.get("inputs").items()},
        outputs={key: one.cleaned() for key, one in facts.get("outputs").items()},
        results=facts.get("results").cleaned(),
        warnings=facts.get("warnings").texts(),
        recipe_text=plain(text),
        finished=facts.value is not None,
        cost=_cost(soft_lines(folder / "log.jsonl", [])),
    )


def _cost(lines: list[Soft]) -> dict[str, float]:
    """Seconds and memory, wherever in the log they stand; the last word counts."""
    found: dict[str, float] = {}
    for line in lines:
        for key, one in line.items():
            if key.endswith(("seconds", "bytes", "_mb", "per_second")):
                value = one.number()
                found |= {} if value is None else {key: value}
    return found


def _domains(
    ledger: Ledger | None,
    data: Data | None,
    windows: tuple[Window, ...],
    detected: tuple[str, ...],
) -> tuple[str, ...]:
    """All domains, in the recipe's order as far as a file keeps it."""
    found: dict[str, None] = dict.fromkeys(ledger.domains if ledger else ())
    for window in windows:
        found |= dict.fromkeys([*window.weights, *window.loss])
    found |= dict.fromkeys(data.domains if data else ())
    return tuple(found or dict.fromkeys(detected))


def read_windows(lines: list[Soft]) -> tuple[Window, ...]:
    """The windows in order; of a window written twice, by a run that went on, the last counts."""
    found: dict[int, Window] = {}
    for place, line in enumerate(lines):
        given = line.get("window").number()
        number = place if given is None else int(given)
        step = line.get("step").number()
        by = {key: MappingProxyType(line.get(key).numbers()) for key in _PER_DOMAIN}
        found[number] = Window(
            number=number,
            step=float(place + 1) if step is None else step,
            stage=line.get("stage").text(),
            policy=line.get("policy").text(),
            reason=line.get("reason").text(),
            **by,
        )
    return tuple(found[number] for number in sorted(found))


def _windows_so_far(folder: Path, problems: list[str]) -> tuple[Window, ...]:
    """The windows that the newest checkpoint knows, of a run that is not at its end."""
    found = [path for path in folder.glob("checkpoint-*/mixture.json") if _step(path) is not None]
    if not found:
        return ()
    newest = max(found, key=lambda path: _step(path) or 0)
    name = f"{newest.parent.name}/{newest.name}"
    place = soft_json(newest, problems, name=name)
    history = place.get("steering").get("history").value or place.get("history").value
    windows = read_windows(place.at(history, "history").listed())
    if windows:
        problems.append(f"domains.jsonl is not there yet: the windows are those of {name}.")
    return windows


def _step(path: Path) -> int | None:
    text = path.parent.name.removeprefix("checkpoint-")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def estimate(place: Soft, key: str) -> Estimate | None:
    """A value with what is known of its error; None where the value is missing."""
    value = place.get(key).number()
    if value is None:
        return None
    low, high = place.get("low").number(), place.get("high").number()
    if low is not None and high is not None and low > high:
        low, high = high, low
    return Estimate(value, place.get("se").number(), low, high)


def _ledger(place: Soft) -> Ledger | None:
    if not isinstance(place.value, dict):
        if place.value is not None:
            place.wrong("an object")
        return None
    losses = _series(place.get("losses"), "loss")
    changes = _series(place.get("changes"), "value")
    total = {
        name: found
        for name, one in place.get("total").items()
        if (found := estimate(one, "value")) is not None
    }
    named = place.get("domains").texts()
    why = place.get("why")
    return Ledger(
        domains=named or tuple(dict.fromkeys([*losses, *changes, *total])),
        unit=place.get("unit").text(),
        stages=tuple(_stage(one, at) for at, one in enumerate(place.get("stages").listed())),
        losses=losses,
        changes=changes,
        total=total,
        forgetting=place.get("forgetting").numbers(),
        bwt=place.get("bwt").number(),
        nbwt=place.get("nbwt").number(),
        why=why.text() if isinstance(why.value, str) else "",
        general=_general(place.get("general")),
        gate=_gate(place.get("gate")),
    )


def _series(place: Soft, key: str) -> dict[str, tuple[Estimate | None, ...]]:
    return {
        name: tuple(estimate(cell, key) for cell in cells.listed()) for name, cells in place.items()
    }


def _stage(place: Soft, number: int) -> Stage:
    domains = place.get("domains")
    return Stage(
        name=place.get("name").text() or ("start" if number == 0 else f"stage {number}"),
        policy=place.get("policy").text(),
        step=place.get("step").number(),
        domains=None if domains.value is None else domains.texts(),
    )


def _general(place: Soft) -> General | None:
    if place.value is None:
        return None
    losses = tuple(estimate(one, "loss") for one in place.get("losses").listed())
    total = estimate(place.get("total"), "value")
    return General(place.get("path").text(), losses, total) if losses else None


def _gate(place: Soft) -> Gate | None:
    most, crossed = place.get("max_forgetting").number(), place.get("crossed")
    if most is None and not crossed.value:
        return None
    return Gate(
        most=most,
        crossed=bool(crossed.value),
        window=crossed.get("window").number(),
        domain=crossed.get("domain").text(),
        value=crossed.get("value").number(),
    )


def read_data(place: Soft) -> Data | None:
    """What the rows of each domain were."""
    domains = {name: _rows(name, one) for name, one in place.get("domains").items()}
    if not domains:
        return None
    settings = {key: place.get(key).cleaned_value() for key in _SETTINGS}
    return Data({key: value for key, value in settings.items() if value is not None}, domains)


_SETTINGS = ("max_length", "packing", "chat_template")
_ODD = ("merged_borders", "no_end_mark", "turn_by_turn", "left_out", "spelled_tokens")
_COUNTS = (
    *_ODD,
    "rows_read", "examples", "heldout", "truncated", "dropped_too_long", "empty_completions",
    "exact_duplicates", "near_duplicates", "tokens", "trained_tokens", "rows", "fill",
)  # fmt: skip


def _rows(name: str, place: Soft) -> DomainRows:
    counts = {key: place.get(key).number() for key in _COUNTS}
    return DomainRows(
        name=name,
        sources=tuple(one.cleaned() for one in place.get("sources").listed()),
        counts={key: value for key, value in counts.items() if value is not None},
        repeated=tuple(
            pair for one in place.get("repeats").listed()[:1] if len(pair := one.texts()) == 2
        ),
        samples=tuple(_sample(one) for one in place.get("samples").listed()[:_MOST_SAMPLES]),
    )


def _sample(place: Soft) -> Sample:
    """The pieces, up to `_LONGEST_SAMPLE` characters of them all."""
    pieces: list[tuple[str, bool]] = []
    room = _LONGEST_SAMPLE
    cut = False
    for one in place.get("pieces").listed():
        pair = one.listed()
        if len(pair) != 2:
            one.wrong("a pair of a text and true or false")
            continue
        text = pair[0].text()
        cut = cut or len(text) > room
        if text[:room]:
            pieces.append((text[:room], pair[1].value is True))
        room = max(0, room - len(text))
    return Sample(place.get("place").text(), tuple(pieces), cut)


def _reference(place: Soft) -> Reference | None:
    losses = place.get("losses").numbers()
    if not losses:
        return None
    return Reference(
        way=place.get("way").text(),
        losses=losses,
        se=place.get("se").numbers(),
        steps=place.get("steps").numbers(),
        degenerate=_degenerate(place.get("degenerate")),
        warnings=place.get("warnings").texts(),
    )


def _degenerate(place: Soft) -> tuple[str, ...]:
    """The domains whose reference says little; a bare `true` leaves that to the warnings."""
    return () if isinstance(place.value, bool) else place.texts()
