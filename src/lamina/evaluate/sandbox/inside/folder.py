"""A program's folder where there is no file system of its own: watched while it runs, then removed.

Between two looks (20 ms) more can be written than is allowed; after it the program is ended.
"""

import os

SECONDS = 0.02
NUM_FILES = 1024


def is_over(folder: str, num_bytes: int) -> bool:
    """Whether there is more in the folder than there may be."""
    total = count = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    told = entry.stat(follow_symlinks=False)
                    total += max(told.st_size, 512 * told.st_blocks)
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if count > NUM_FILES or total > num_bytes:
                        return True
        except OSError:
            continue  # it is being changed as we look, or named too long: it counts as it is
    return False


def remove(folder: str) -> None:
    """Remove a folder however deep it is: what lies in a sub-folder is moved up before."""
    number = 0
    while True:
        with os.scandir(folder) as found:
            entries = list(found)
        if not entries:
            os.rmdir(folder)
            return
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for name in os.listdir(entry.path):
                number += 1
                os.rename(os.path.join(entry.path, name), os.path.join(folder, f".moved-{number}"))
            os.rmdir(entry.path)
