"""Hands the tests the program that makes run folders; importlib mode cannot import it by name."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """`make_fixture.py` as a module."""
    path = Path(__file__).with_name("make_fixture.py")
    spec = importlib.util.spec_from_file_location("make_fixture", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def runs(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run folder of each kind, by name; read, never written to."""
    return {path.name: path for path in make.make_all(tmp_path_factory.mktemp("runs"))}
