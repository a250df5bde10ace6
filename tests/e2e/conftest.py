"""A home with the tiny family in it, and the command line run in this process or in its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path / "cache"))


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str


Lamina = Callable[..., Told]


@pytest.fixture
def lamina(capsys: pytest.CaptureFixture[str]) -> Lamina:
    """Run the command line here; anything but SystemExit goes through."""
    from lamina.cli import main

    def run(*arguments: object) -> Told:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Told(code, captured.out, captured.err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Lamina:
    """Run the command line in a process of its own."""

    def run(*arguments: object, cwd: Path | None = None, **environment: str) -> Told:
        done = subprocess.run(
            [sys.executable, "-m", "lamina", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd or tmp_path,
            env={**os.environ, **environment},
            check=False,
        )
        return Told(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with base, instruct, math, code, and two recipes that work."""
    from tiny_family import ARITHMETIC, LATA, write_family

    folder = tmp_path / "home"
    folder.mkdir()
    write_family(folder)
    (folder / "lata.yaml").write_text(LATA)
    (folder / "arithmetic.yaml").write_text(ARITHMETIC)
    return folder
