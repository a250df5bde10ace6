"""Scores of layers that another run measured: `scores.json` of a ranking, or of a merge.

Two forms: one table of scores (`lamina rank`), or one for each expert of a merge. Every message
names the file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, LayerError, did_you_mean
from lamina.core.manifest import read_json
from lamina.core.scores import SCHEMA, LayerScores


def read_scores(path: Path, expert: str | None = None, *, name: str = "") -> LayerScores:
    """The scores in a file; of a merge's file those of one expert.

    Which one: `expert`; else the one of this `name`, else the only one.

    Raises:
        DataError: no such file, no scores, or no expert of that name.
        LayerError: a layer without a finite score.
    """
    if not path.is_file():
        hint = " a folder; name its scores.json" if path.is_dir() else " no file"
        raise DataError(f"{path} is{hint}: scores come from `lamina rank` or a merge")
    read = read_json(path)
    schema = read.get("schema") if isinstance(read, dict) else None
    if schema != SCHEMA:
        raise DataError(f"{path}: scores have the schema `{SCHEMA}`, this has {schema!r}")
    held = _of_expert(path, read["experts"], expert, name) if "experts" in read else read
    values = held.get("values")
    if not isinstance(values, dict) or not values:
        raise DataError(f"{path} has no `values`, a number for each layer")
    bad = [unit for unit, value in values.items() if not _is_finite(value)]
    if bad:
        told = ", ".join(f"{unit}: {values[unit]}" for unit in bad[:8])
        raise LayerError(
            f"{path}: {len(bad)} of {len(values)} layers have no finite score ({told}); "
            "measure them again"
        )
    known = {key: value for key, value in held.items() if value is not None}
    columns = known.get("columns")
    if isinstance(columns, dict):
        known["columns"] = {name: _numbers(column) for name, column in columns.items()}
    if isinstance(known.get("spread"), dict):
        known["spread"] = _numbers(known["spread"])
    try:
        return LayerScores.from_json(json.dumps({**known, "schema": SCHEMA}))
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from exc


def _of_expert(path: Path, experts: object, expert: str | None, name: str) -> Mapping[str, Any]:
    known = experts if isinstance(experts, dict) else {}
    if expert is None:
        expert = name if name in known else next(iter(known)) if len(known) == 1 else None
    found = known.get(expert or "")
    if isinstance(found, dict):
        return found
    asked = f"has none of `{expert}`" if expert else "has scores of several models"
    raise DataError(f"{path} {asked}: name one with `expert:`; {did_you_mean(expert or '', known)}")


def _is_finite(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)  # type: ignore[arg-type]


def _numbers(column: Any) -> Any:
    """A column without the layers of which nothing is known."""
    if not isinstance(column, dict):
        return column
    return {unit: value for unit, value in column.items() if value is not None}
