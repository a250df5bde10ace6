"""`lamina export`: a plan in, the file of another tool out. Reads no model and needs no torch."""

import json
from pathlib import Path

from lamina.core.errors import OutputError
from lamina.core.manifest import write_atomic
from lamina.ila.export import export
from lamina.ila.export.peft_config import KEYS
from lamina.ila.export.words import MARK
from lamina.jobs.plan_file import read_plan


def run_export(
    file: Path,
    tool: str,
    *,
    out: Path | None = None,
    method: str = "lora",
    rank: int = 16,
    alpha: int = 32,
    base: str | None = None,
    tuned: str | None = None,
) -> str:
    """Gives the text that the tool reads; with `out` it is also written there.

    Raises:
        DataError: not a plan's file.
        RecipeError, LayerError: what `ila.export.export` refuses.
        OutputError: a folder or somebody else's file stands in the way.
    """
    plan = read_plan(file)
    text = export(plan, tool, method=method, rank=rank, alpha=alpha, base=base, tuned=tuned)
    if out is not None:
        check_export_place(out)
        write_atomic(out, text.encode())
    return text


def check_export_place(out: Path) -> None:
    """That an export may be written there: nothing stands there, or an earlier export.

    Raises:
        OutputError: a folder, a file that `lamina export` did not write, or no folder around it.
    """
    if out.is_dir():
        raise OutputError(f"{out} is a folder; --out needs the name of a file in it.")
    if not out.parent.is_dir():
        raise OutputError(
            f"the folder {out.parent} does not exist; make it, or give another --out."
        )
    if out.exists() and not _is_ours(out):
        raise OutputError(
            f"{out} is there and was not written by `lamina export`; it is not overwritten. Give"
            " another --out."
        )


def _is_ours(file: Path) -> bool:
    data = file.read_bytes()
    if data.startswith(MARK.encode()):
        return True
    try:
        read = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(read, dict) and set(read) == KEYS
