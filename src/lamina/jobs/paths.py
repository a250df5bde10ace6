"""Texts of a recipe that mean files: beside the recipe first, then in the working folder."""

import os
from pathlib import Path


def on_disk(text: str, home: Path) -> Path | None:
    """The file or folder that a text of a recipe in `home` means; None where there is none."""
    plain = Path(text).expanduser()
    return next((path for path in (home / plain, plain) if path.exists()), None)


def parts(model: str, home: Path) -> list[str]:
    """The folders or names in a model's text, which may be `base+adapter`."""
    return [model] if on_disk(model, home) is not None else model.split("+")


def moved(text: str, home: Path, out: Path) -> str:
    """The same file as it is named from the folder `out`; texts of no file stay as they are."""
    found = None if Path(text).expanduser().is_absolute() else on_disk(text, home)
    if found is None:
        return text
    return Path(os.path.relpath(found.resolve(), out.resolve())).as_posix()
