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
    for path in files["hidden"]:  # modules stay, the launcher has need of ctypes
        words += ["--tmpfs", path] if Path(path).is_dir() else []
    for path in _DEVICES:
        words += ["--dev-bind", path, path]
    for link, target in _links(files):
        words += ["--symlink", target, link]
    return [*words, "--tmpfs", "/lamina-sandbox", "--chdir", "/", "--"]


def _links(files: dict[str, Any]) -> list[tuple[str, str]]:
    """Links at the top that lead to something shown (/lib -> usr/lib), those by which libraries are
    asked for, and the loader's name if neither gives it."""
    wanted = {*files["libraries"], files["executable"], *files["folders"]}
    tops = [path for path in sorted(Path("/").iterdir()) if path.is_symlink()]
    tops = [top for top in tops if any(one.startswith(f"{top.resolve()}/") for one in wanted)]
    found = [(str(top), str(top.readlink())) for top in tops]
    for folder in sorted({Path(path).parent for path in files["libraries"]}):
        for path in sorted(folder.glob("*.so*")):
            if path.is_symlink() and str(path.resolve()) in wanted:
                found.append((str(path), str(path.readlink())))
    loader = files["loader"]
    known = loader in {link for link, _ in found} | wanted
    if loader and not known and not any(loader.startswith(f"{top}/") for top in tops):
        found.append((loader, files["loader_file"]))
    return found
