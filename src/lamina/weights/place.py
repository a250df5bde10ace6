"""Where an output may stand, and whether it fits: asked before anything is read or written."""

import shutil
from pathlib import Path

from lamina.core.errors import OutputError

SPARE_BYTES = 64 << 20
"""Room left on the disk besides the weights: reports, the file system's own tables."""


def part_folder(out: Path) -> Path:
    """Where an output is made before it gets its name."""
    return out.with_name(f".{out.name}.lamina-part")


def check_output(out: Path, inputs: list[Path], *, overwrite: bool) -> None:
    """Whether an output may stand there.

    Raises:
        OutputError: inside or around an input, not a folder, or not empty.
    """
    real = out.resolve()
    for path in inputs:
        home = path.resolve()
        if real == home or real.is_relative_to(home) or home.is_relative_to(real):
            raise OutputError(
                f"the output {out} and the input {path} are one folder or lie in one another. "
                "Inputs are never written into; choose another output."
            )
    if not out.name or out.name in (".", ".."):
        raise OutputError(f"{out} is no name for an output folder.")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; give the name of a new folder.")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise OutputError(
            f"{out} is not empty. Choose another folder, or give --overwrite to replace it whole."
        )
    if out.is_dir() and overwrite and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise OutputError(
            f"{out} is not empty and was not written by lamina (no manifest.json), so --overwrite "
            "does not replace it. Remove it yourself, or choose another folder."
        )


def free_bytes(out: Path) -> int:
    """What the disk of an output has left for us."""
    folder = next(parent for parent in (out, *out.resolve().parents) if parent.is_dir())
    return shutil.disk_usage(folder).free


def check_disk(out: Path, needed: int) -> None:
    """Whether the output fits.

    Raises:
        OutputError: it does not; what an interrupted run left there counts as room.
    """
    part = part_folder(out)
    kept = 0
    if part.is_dir():
        kept = sum(f.stat().st_blocks * 512 for f in part.rglob("*") if f.is_file())
    free = free_bytes(out) + kept
    if free < needed + SPARE_BYTES:
        raise OutputError(
            f"{out} needs {needed:,} bytes and its disk has {free:,} left. Free "
            f"{needed + SPARE_BYTES - free:,} bytes or choose another disk."
        )
