"""Which files an interpreter needs: itself, its standard library, the shared libraries of both.

The libraries are found by loading every extension module in a child that is thrown away and reading
its own map; so nothing of a distribution is guessed.
"""

import ctypes
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any, Self

HIDDEN_FOLDERS = ("site-packages", "dist-packages")
HIDDEN_MODULES = (
    "_ctypes", "_testcapi", "_testinternalcapi", "_testlimitedcapi", "_testclinic", "_testbuffer",
    "_testmultiphase", "_testsinglephase", "_testimportmultiple", "_testexternalinspection",
    "_remote_debugging", "_xxsubinterpreters", "_xxinterpchannels", "_interpreters",
    "_interpqueues", "_interpchannels", "_xxtestfuzz", "xxlimited", "xxsubtype",
)  # fmt: skip
"""Modules that reach below Python: memory, bytecode, interpreters without the runner's guards."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
EXTRA = ("/etc/ld.so.cache", "/usr/share/zoneinfo", "/usr/lib/locale/C.utf8")


@dataclass(frozen=True, slots=True)
class Files:
    """What a program may see, as absolute paths without symbolic links."""

    executable: str
    loader: str | None
    """As the executable names it, and, next, the file behind that name."""
    loader_file: str
    libraries: tuple[str, ...]
    folders: tuple[str, ...]
    """Folders on the interpreter's path; what is in `hidden` is not shown."""
    hidden: tuple[str, ...]
    extra: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, to be handed to another launcher."""
        return asdict(self)

    @classmethod
    def of_json(cls, told: dict[str, Any]) -> Self:
        """The files that `as_json` told."""
        return cls(
            executable=told["executable"],
            loader=told["loader"],
            loader_file=told["loader_file"],
            libraries=tuple(told["libraries"]),
            folders=tuple(told["folders"]),
            hidden=tuple(told["hidden"]),
            extra=tuple(told["extra"]),
        )


def loader_of(executable: str) -> str | None:
    """The dynamic loader that an ELF file names (its PT_INTERP), None where it is static."""
    with open(executable, "rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return None
        offset = int.from_bytes(head[32:40], "little")
        size, count = int.from_bytes(head[54:56], "little"), int.from_bytes(head[56:58], "little")
        for index in range(count):
            file.seek(offset + index * size)
            entry = file.read(size)
            if int.from_bytes(entry[:4], "little") == 3:
                file.seek(int.from_bytes(entry[8:16], "little"))
                name = file.read(int.from_bytes(entry[32:40], "little"))
                return name.rstrip(b"\0").decode()
    return None


def _is_hidden_module(name: str) -> bool:
    return name.endswith(".so") and name.partition(".")[0] in HIDDEN_MODULES


def _mapped_after_loading(modules: list[str]) -> set[str]:
    """The files in memory once these are loaded, asked of a child."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        for name in [*modules, "libgcc_s.so.1"]:
            try:
                ctypes.CDLL(name, mode=1)
            except OSError:
                continue
        with open("/proc/self/maps", "rb") as maps, open(outlet, "wb") as out:
            out.write(maps.read())
        os._exit(0)
    os.close(outlet)
    with open(inlet, "rb") as told:
        lines = told.read().decode(errors="replace").splitlines()
    os.waitpid(child, 0)
    return {line.split(maxsplit=5)[5] for line in lines if line.count("/") and ".so" in line}


def find() -> Files:
    """What this very interpreter needs; run under `-I -S`, so its path is the library's only."""
    executable = os.path.realpath(sys.executable)
    folders = [os.path.realpath(path) for path in sys.path if os.path.isdir(path)]
    tops = [top for top in folders if not any(top.startswith(one + "/") for one in folders)]
    hidden, modules = [], []
    for top in folders:
        for entry in os.scandir(top):
            if entry.name in HIDDEN_FOLDERS or _is_hidden_module(entry.name):
                hidden.append(entry.path)
            elif entry.name.endswith(".so") and not entry.name.startswith("_tkinter"):
                modules.append(entry.path)
    mapped = _mapped_after_loading(modules)
    loader = loader_of(executable)
    if loader is not None:
        mapped.add(os.path.realpath(loader))
    libraries = sorted(
        path for path in mapped if not any(path.startswith(top + "/") for top in tops)
    )
    extra = tuple(path for path in EXTRA if os.path.exists(path))
    real = os.path.realpath(loader) if loader else ""
    return Files(executable, loader, real, tuple(libraries), tuple(tops), tuple(hidden), extra)


def links_to(libraries: tuple[str, ...]) -> list[tuple[str, str]]:
    """(link, target) of every symbolic link beside a library that ends at one of them."""
    wanted, found = set(libraries), []
    for folder in sorted({os.path.dirname(path) for path in libraries}):
        for entry in os.scandir(folder):
            if (
                entry.is_symlink()
                and ".so" in entry.name
                and os.path.realpath(entry.path) in wanted
            ):
                found.append((entry.path, os.readlink(entry.path)))
    return found
