"""Results of made-up answers, and what a terminal prints."""

import io
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console, RenderableType


@pytest.fixture(scope="session")
def whole_result(make_eval: ModuleType) -> dict[str, Any]:
    """A result of three models on five tasks; never written to."""
    return make_eval.result_of()


@pytest.fixture(scope="session")
def printed() -> Callable[..., str]:
    """What is shown, as text."""

    def show(shown: RenderableType, width: int = 100) -> str:
        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(shown)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    return show
