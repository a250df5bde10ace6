"""What Landlock allows a program: its interpreter's files to read, its own folder to write."""

import os

from . import landlock
from .files import DEVICES, Files


def rules_for(files: Files, folder: str) -> list[landlock.Rule]:
    """Open descriptors and rights. site-packages lies inside the library, so its other entries are
    named one by one; the folders themselves may only be listed."""
    read, run = landlock.READ, landlock.READ | landlock.EXECUTE
    wanted = [(files.executable, run), (folder, landlock.FOLDER)]
    if files.loader is not None:
        wanted.append((files.loader, run))
    wanted += [(path, read) for path in (*files.libraries, *files.extra)]
    wanted += [(path, landlock.READ_FILE | landlock.WRITE_FILE) for path in DEVICES]
    hidden = set(files.hidden)
    for top in files.folders:
        wanted += _inside(top, read, hidden)
    rules = []
    for path, rights in wanted:
        try:
            rules.append((os.open(path, os.O_PATH | os.O_CLOEXEC), rights))
        except OSError:
            continue
    return rules


def _inside(top: str, rights: int, hidden: set[str]) -> list[tuple[str, int]]:
    """Rights for all in `top` but the hidden."""
    found = [(top, landlock.READ_DIR)]
    for entry in os.scandir(top):
        if entry.path in hidden:
            continue
        if entry.is_dir() and any(one.startswith(entry.path + "/") for one in hidden):
            found += _inside(entry.path, rights, hidden)
        else:
            found.append((entry.path, rights))
    return found
