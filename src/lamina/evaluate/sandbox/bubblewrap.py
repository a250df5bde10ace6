"""bubblewrap as the way into namespaces where we may not make them ourselves.

It may be set-user-id, or known to AppArmor. The launcher is started inside; its programs share the
namespaces and are kept from each other by Landlock and seccomp, without which they are not run.
"""

from pathlib import Path
from typing import Any

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def wrapped(program: str, files: dict[str, Any], inside: Path) -> list[str]:
    """The words that stand before the launcher's; it sees the interpreter and its own scripts."""
    words = [program, "--unshare-all", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    shown = [*files["folders"], files["executable"], *files["libraries"], *files["extra"]]
    for path in (*shown, str(inside)):
        words += ["--ro-bind", path, path]
    for path in files["hidden"]:
        hide = Path(path).is_dir()
        words += ["--tmpfs", path] if hide else ["--ro-bind", "/dev/null", path]
    for path in _DEVICES:
        words += ["--dev-bind", path, path]
    for link, target in _links(files):
        words += ["--symlink", target, link]
    return [*words, "--tmpfs", "/work", "--chdir", "/", "--"]


def _links(files: dict[str, Any]) -> list[tuple[str, str]]:
    """Links at the top (/lib64 -> usr/lib64), and those by which libraries are asked for."""
    found = [
        (str(path), str(path.readlink()))
        for path in sorted(Path("/").iterdir())
        if path.is_symlink()
    ]
    wanted = set(files["libraries"])
    for folder in sorted({Path(path).parent for path in wanted}):
        for path in sorted(folder.glob("*.so*")):
            if path.is_symlink() and str(path.resolve()) in wanted:
                found.append((str(path), str(path.readlink())))
    return found
