"""Hands the tests the programs that make run folders; importlib mode cannot import them by name."""

import importlib.util
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

VOID = {"meta", "br", "link", "img", "rect", "line", "circle", "polyline", "path", "polygon"}


class Outline(HTMLParser):
    """Tags, headings and the text of a page; an end without its start is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open, tag
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_outline(path: Path) -> Outline:
    page = Outline()
    page.feed(path.read_text("utf-8"))
    page.close()
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    return page


@pytest.fixture(scope="session")
def outline() -> Callable[[Path], Outline]:
    """A page's tags, ids and words; all of its tags must be closed."""
    return read_outline


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """`make_fixture.py` as a module."""
    return _module("make_fixture")


@pytest.fixture(scope="session")
def make_tuned() -> ModuleType:
    """`make_tuned.py` as a module."""
    return _module("make_tuned")


@pytest.fixture(scope="session")
def make_rank() -> ModuleType:
    """`make_rank.py` as a module."""
    return _module("make_rank")


@pytest.fixture(scope="session")
def make_eval() -> ModuleType:
    """`make_eval.py` as a module."""
    return _module("make_eval")


def _module(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def runs(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run folder of each kind, by name; read, never written to."""
    return {path.name: path for path in make.make_all(tmp_path_factory.mktemp("runs"))}


@pytest.fixture(scope="session")
def tuned(make_tuned: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each kind of tuning and detection, by name; read, never written to."""
    made = make_tuned.make_all_tuned(tmp_path_factory.mktemp("tuned"))
    return {path.name: path for path in made}


@pytest.fixture(scope="session")
def ranked(
    make_rank: ModuleType, make_tuned: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """One folder of each kind of ranking, by name; read, never written to."""
    data = make_tuned.make_data(("law", "code"))
    made = make_rank.make_all_ranked(tmp_path_factory.mktemp("ranked"), data)
    return {path.name: path for path in made}
