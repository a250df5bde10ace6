"""The folder of a ranking read into frozen values; what is damaged is told, and left out."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lamina.report.formats import natural, plain
from lamina.report.rank.nouns import Agreement, Matrix, Ranked, Ranking
from lamina.report.rank.read_plan import read_plan
from lamina.report.soft import Soft, json_line, soft_json
from lamina.report.tune.read import read_data, read_facts, run_of, said_kind

SHARE = 0.3
"""The top set that is marked where no file says another."""
BEGUN = "ranking begun"
"""The event of the first line of its log."""
MOST_UNITS = 20_000
_MOST_BESIDE = 12


def is_rank(folder: Path, manifest: Mapping[str, object] | None = None) -> bool:
    """Whether a folder holds a ranking: its manifest says so, or, without one, its scores."""
    said = str(manifest.get("kind") or "") if manifest is not None else said_kind(folder)
    if said:
        return said == "rank"
    if (folder / "agreement.json").is_file() or _begun(folder / "log.jsonl"):
        return True
    value = soft_json(folder / "scores.json", []).value
    return isinstance(value, dict) and isinstance(value.get("values"), dict)


def _begun(log: Path) -> bool:
    """Whether a log begins as that of a ranking does."""
    if not log.is_file():
        return False
    with log.open("rb") as file:
        line = json_line(file.readline(10_000).decode("utf-8", errors="replace"))
    return isinstance(line, dict) and line.get("event") == BEGUN


def read_ranked(folder: Path, manifest: Mapping[str, object] | None = None) -> Ranked:
    """A ranking's folder as values; `manifest` stands in for the file in the making."""
    problems: list[str] = []
    facts = read_facts(folder, manifest, problems)
    main = read_ranking(soft_json(folder / "scores.json", problems))
    measured = soft_json(folder / "agreement.json", problems)
    agreement = _agreement(measured)
    missing = [("scores.json", main), ("agreement.json", agreement)]
    problems += [
        f"{name} is missing or empty: what it would tell is not on this page."
        for name, value in missing
        if value is None and not any(problem.startswith(name) for problem in problems)
    ]
    share = _share(measured, facts.get("recipe"))
    results = facts.get("results")
    way = results.get("way").text() or (main.method if main else "")
    return Ranked(
        run=run_of(folder, facts, "rank"),
        way=way or (agreement.names[0] if agreement and agreement.names else ""),
        share=share,
        main=main,
        top=_top(main, results.get("top").texts(), share),
        beside=_beside(folder / "scores", problems),
        agreement=agreement,
        plan=read_plan(folder, problems),
        data=read_data(soft_json(folder / "data.json", problems)),
        problems=tuple(dict.fromkeys(problems)),
    )


def _share(agreement: Soft, recipe: Soft) -> float:
    for place in (agreement.get("share"), recipe.get("share")):
        value = place.number()
        if value is not None and 0.0 < value <= 1.0:
            return value
        if value is not None:
            place.wrong("a share above 0 and at most 1")
    return SHARE


def read_ranking(place: Soft) -> Ranking | None:
    """Scores of one ranking; None where there is no value."""
    values = place.get("values").numbers()
    if not values:
        return None
    if len(values) > MOST_UNITS:
        place.tell(f"{len(values)} values are more than a page can show; the first are shown")
        values = dict(list(values.items())[:MOST_UNITS])
    columns = {key: one.numbers() for key, one in place.get("columns").items()}
    spread = {unit: value for unit, value in place.get("spread").numbers().items() if value >= 0.0}
    seeds = sorted((key for key in columns if key.startswith("seed_")), key=natural)
    return Ranking(
        method=place.get("method").text(),
        unit=place.get("unit").text(),
        granularity=place.get("granularity").text() or "module",
        higher_means=place.get("higher_means").text(),
        values=MappingProxyType(values),
        spread=MappingProxyType({unit: spread[unit] for unit in values if unit in spread}),
        seeds=tuple(MappingProxyType(columns[key]) for key in seeds),
        parameters=MappingProxyType(columns.get("parameters", {})),
        weights=MappingProxyType(columns.get("weights", {})),
    )


def count_of(share: float, total: int) -> int:
    """ceil(share * total), at least 1; what floating point adds (.1 * 30 > 3) is not a module."""
    return min(total, max(1, math.ceil(share * total - 1e-9)))


def _top(main: Ranking | None, given: tuple[str, ...], share: float) -> tuple[str, ...]:
    """The set that the run says, where it fits its scores; else the highest values."""
    if main is None:
        return ()
    if given and set(given) <= main.values.keys():
        return tuple(dict.fromkeys(given))
    ordered = sorted(main.values, key=lambda unit: -main.values[unit])
    return tuple(ordered[: count_of(share, len(ordered))])


def _beside(folder: Path, problems: list[str]) -> dict[str, Ranking]:
    """Rankings measured beside, of the same units or of larger ones."""
    found: dict[str, Ranking] = {}
    paths = sorted(folder.glob("*.json"), key=lambda path: natural(path.name))
    for path in paths[:_MOST_BESIDE]:
        read = read_ranking(soft_json(path, problems, name=f"scores/{path.name}"))
        if read is not None:
            found[plain(path.stem)] = read
    if len(paths) > _MOST_BESIDE:
        problems.append(f"{len(paths) - _MOST_BESIDE} more files in scores/ are not drawn.")
    return found


def _agreement(place: Soft) -> Agreement | None:
    if not isinstance(place.value, dict):
        if place.value is not None:
            place.wrong("an object")
        return None
    names = place.get("rankings").texts()[: _MOST_BESIDE + 1]
    removed, whole = place.get("leave_one_out"), place.get("completeness")
    return Agreement(
        names=names,
        spearman=_matrix(place.get("spearman"), len(names)),
        shared=_matrix(place.get("shared"), len(names)),
        corrected=_matrix(place.get("corrected"), len(names)),
        jaccard=_matrix(place.get("jaccard"), len(names)),
        chance=place.get("chance").number(),
        jaccard_chance=place.get("jaccard_chance").number(),
        lowest_between_seeds=place.get("between_seeds").get("lowest").number(),
        removed=MappingProxyType(removed.get("values").numbers()),
        removed_spearman=removed.get("spearman").number(),
        removed_examples=removed.get("examples").number(),
        completeness_error=whole.get("relative_error").number(),
        completeness_sum=whole.get("sum").number(),
        completeness_difference=whole.get("difference").number(),
        cost=MappingProxyType(_scalars(place.get("cost"))),
        passes=MappingProxyType(place.get("cost").get("passes").numbers()),
    )


def _scalars(place: Soft) -> dict[str, float]:
    """Its numbers, without what stands in it as a table of its own."""
    read = {key: one.number() for key, one in place.items() if key != "passes"}
    return {key: value for key, value in read.items() if value is not None}


def _matrix(place: Soft, size: int) -> Matrix:
    """A square of numbers; nothing where its size is not that of the names."""
    rows = tuple(
        tuple(cell.number() for cell in row.listed()) for row in place.listed()[: size + 1]
    )
    if not rows:
        return ()
    if len(rows) != size or any(len(row) != size for row in rows):
        place.wrong(f"a square of {size} by {size} numbers")
        return ()
    return rows
