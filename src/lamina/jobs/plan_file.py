"""`plan.json` on the disk: read with suspicion, written whole or not at all."""

import json
from pathlib import Path

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import read_json, write_atomic
from lamina.core.plan import SCHEMA, LayerPlan

NAME = "plan.json"


def read_plan(path: Path) -> LayerPlan:
    """A tuning plan from its file, or from the folder that holds one.

    Raises:
        DataError: no such file, no plan, or the plan of a merge.
        LayerError: a coefficient that is not finite.
    """
    file = path / NAME if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file} is no file: plans come from `lamina plan` or `lamina rank`.")
    read = read_json(file)
    schema = read.get("schema") if isinstance(read, dict) else None
    if isinstance(read, dict) and "experts" in read:
        raise DataError(
            f"{file} is a merge's plan, with coefficients for each expert; a tuning needs"
            f" `{SCHEMA}` with 0 or 1. Make it from the merge's scores: lamina plan SCORES"
            " --expert NAME."
        )
    if schema != SCHEMA:
        raise DataError(f"{file}: a plan has the schema `{SCHEMA}`, this has {schema!r}")
    try:
        return LayerPlan.from_json(json.dumps(read))
    except DataError as exc:
        raise DataError(f"{file}: {exc}") from exc


def check_plan_place(out: Path) -> None:
    """That a plan may be written there: nothing stands there, or an earlier plan.

    Raises:
        OutputError: a folder, or a file that is no plan of ours.
    """
    if out.is_dir():
        raise OutputError(
            f"{out} is a folder; --out needs the name of a file, such as {out / NAME}."
        )
    if not out.parent.is_dir():
        raise OutputError(
            f"the folder {out.parent} does not exist; make it, or give another --out."
        )
    if out.exists():
        try:
            LayerPlan.from_json(out.read_text(encoding="utf-8"))
        except (DataError, OSError, UnicodeDecodeError):
            raise OutputError(
                f"{out} is there and is no plan of lamina; it is not overwritten. Give another"
                " --out."
            ) from None


def write_plan(out: Path, plan: LayerPlan) -> None:
    """Puts a plan there, whole or not at all.

    Raises:
        OutputError: see `check_plan_place`; a disk that is full or read-only.
    """
    check_plan_place(out)
    write_atomic(out, plan.to_json().encode())
