"""Where an output may stand, and whether it fits: asked before anything is read or written."""

import os
import shutil
from pathlib import Path

from lamina.core.errors import OutputError
from lamina.weights.checkpoint import exists

MAX_NAME_BYTES = 200
"""What file systems allow (255) less our own endings."""
SPARE_BYTES = 64 << 20
"""Room left on the disk besides the weights: reports, the file system's own tables."""


def part_folder(out: Path) -> Path:
    """Where an output is made before it gets its name."""
    return out.with_name(f".{out.name}.lamina-part")


def lock_file(out: Path) -> Path:
    """What a run holds locked while it writes an output; beside it, to outlive the renaming."""
    return out.with_name(f".{out.name}.lamina-lock")


def check_output(out: Path, inputs: list[Path], *, overwrite: bool) -> None:
    """Whether an output may stand there.

    Raises:
        OutputError: inside or around an input, not a folder, or not empty.
    """
    for part in out.parts:
        if len(os.fsencode(part)) > MAX_NAME_BYTES:
            raise OutputError(
                f"{part[:40]}... is too long a name for an output folder: at most {MAX_NAME_BYTES} "
                "bytes."
            )
    above = next((parent for parent in out.absolute().parents if exists(parent)), None)
    if above is not None and not above.is_dir():
        raise OutputError(f"{above} is a file, so no output can stand in it.")
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
    if out.is_symlink():
        raise OutputError(
            f"{out} is a link, which an output would replace. Give the folder itself: {real}."
        )
    if exists(out) and not out.is_dir():
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
