"""The folder of a tune or rank run: what stands there, whether a run may begin there, leaving it.

Nothing is deleted that is not such a run by its first line of `log.jsonl` and by the names of all
its files, and nothing before the recipe's model and rows are read and found good.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import NAME as MANIFEST
from lamina.core.manifest import read_json

LOG = "log.jsonl"
BEGUN = "begun"
"""The event of the first line of a tune run's log."""
_COMMON = f"recipe.yaml data.json checkpoints logs report.html {LOG} {MANIFEST}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of run: its name in the manifest and the files that its folder may hold."""

    name: str
    files: frozenset[str]
    event: str
    """Of the first line of its log."""
    dear: tuple[str, ...]
    """Patterns of what took time, in an unfinished run."""


TUNING = Kind(
    "tune",
    frozenset(f"{_COMMON} detect reference reference.json model domains.jsonl ledger.json".split())
    | {"plan.json", "prefix"},
    BEGUN,
    ("checkpoints/*/mixture.json", "reference/*/checkpoints/*/mixture.json", "detect/*"),
)
RANKING = Kind(
    "rank",
    frozenset(f"{_COMMON} scores.json agreement.json scores adapter measured".split()),
    "ranking begun",
    ("checkpoints/*/mixture.json", "measured/*.json"),
)


def standing(
    out: Path, inputs: Sequence[Path], *, resume: bool, overwrite: bool, kind: Kind = TUNING
) -> dict[str, Any] | None:
    """The manifest of a finished run that is only to be looked at; None where a run may begin.

    Args:
        inputs: files and folders that the run reads.

    Raises:
        OutputError: something else stands there, it lies in an input or around one, or a run
            stands there and neither `--resume` nor `--overwrite` is given.
    """
    refuse_inside(out, inputs)
    if not _holds_something(out):
        return None
    foreign = _foreign(out, kind)
    if foreign:
        raise OutputError(
            f"{out} is not empty and holds no {kind.name} run ({foreign}). Give another folder for "
            "--out."
        )
    finished = (out / MANIFEST).is_file()
    if overwrite or (not finished and (resume or not _dear(out, kind))):
        return None
    if not finished:
        raise OutputError(
            f"{out} holds a run that is not finished. Go on with it by --resume, delete it by "
            "--overwrite, or give another --out."
        )
    if resume:
        return read_json(out / MANIFEST)
    raise OutputError(
        f"{out} holds a finished run. Give another --out, or --overwrite to delete it."
    )


def take(out: Path, *, keep: bool, kind: Kind = TUNING) -> None:
    """Makes the folder, empty, or as it is where a run goes on.

    Raises:
        OutputError: it cannot be made, or is no such run any more.
    """
    if not keep and _holds_something(out):
        foreign = _foreign(out, kind)
        if foreign:
            raise OutputError(f"{out} was changed meanwhile ({foreign}) and is not deleted.")
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror}.") from None


def leave(out: Path, *, kind: Kind = TUNING) -> None:
    """Takes back what a run made that was refused before it measured or trained anything."""
    if not _holds_something(out) or _foreign(out, kind):
        return
    left = {path.name for path in out.iterdir() if not (path.is_dir() and not any(path.iterdir()))}
    if left <= {"recipe.yaml", "data.json", "plan.json", LOG}:
        with contextlib.suppress(OSError):
            shutil.rmtree(out)


def refuse_inside(out: Path, inputs: Sequence[Path]) -> None:
    """Refuses a folder that is none, or that lies in an input or around one.

    Raises:
        OutputError: says which.
    """
    if out.is_symlink():
        raise OutputError(f"{out} is a link. Give the folder itself: {out.resolve()}.")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; --out needs the name of a folder.")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise OutputError(f"{above} is a file, so no folder can stand in it. Give another --out.")
    real = out.resolve()
    for path in inputs:
        home = path.resolve()
        if real == home or real.is_relative_to(home) or home.is_relative_to(real):
            raise OutputError(
                f"{out} and the input {path} are one folder or lie in one another. Inputs are "
                "never written into; give another --out."
            )


def _holds_something(out: Path) -> bool:
    return out.is_dir() and any(out.iterdir())


def _foreign(out: Path, kind: Kind) -> str:
    """What tells that a folder is no such run, in a few words; empty where it is one."""
    others = sorted(p.name for p in out.iterdir() if p.name not in kind.files and not _is_part(p))
    if others:
        return ", ".join(others[:3]) + (f" and {len(others) - 3} more" if others[3:] else "")
    if (out / MANIFEST).is_file():
        try:
            manifest = read_json(out / MANIFEST)
        except DataError as error:
            return str(error)
        found = manifest.get("kind") if isinstance(manifest, dict) else None
        return "" if found == kind.name else f"its manifest is of another kind: {found}"
    try:
        with (out / LOG).open(encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return f"no {LOG} of a {kind.name} run"
    begun = isinstance(first, dict) and first.get("event") == kind.event
    return "" if begun else f"no {LOG} of a {kind.name} run"


def _is_part(path: Path) -> bool:
    """Whether it is a half-written file or folder of ours."""
    return path.name.startswith(".") and path.name.endswith(".part")


def _dear(out: Path, kind: Kind) -> bool:
    """Whether an unfinished run holds what took time: a whole checkpoint, or a detection."""
    return any(next(out.glob(pattern), None) is not None for pattern in kind.dear)
