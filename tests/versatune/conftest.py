"""A planted model, whose shares of domains are known, within reach of every test."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from planted_model import plant

    return plant(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def untrained() -> Callable[..., Any]:
    from planted_model import make_model

    return make_model


@pytest.fixture
def word_tokenizer() -> Callable[..., Any]:
    from planted_model import make_tokenizer

    return make_tokenizer
