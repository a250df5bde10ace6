"""What a ranking takes over from its recipe and its folder, on the pico model of `tune_kit`."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_kit as ranks

from lamina.jobs import rank_run
from lamina.report import page


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ranks.home_in(tmp_path_factory.mktemp("home")) as folder:
        ranks.ranked("model", folder / "run", *ranks.DATA)
        yield folder


@pytest.fixture
def attention(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attention of each model that is measured."""
    seen: list[str] = []
    own = rank_run.attending_by_example

    def spy(model: Any) -> contextlib.AbstractContextManager[bool]:
        seen.append(model.config._attn_implementation)
        return own(model)

    monkeypatch.setattr(rank_run, "attending_by_example", spy)
    return seen


def test_an_adapter_and_a_bare_model_have_the_attention_of_the_recipe(
    home: Path, attention: list[str]
) -> None:
    asked: dict[str, Any] = {"train__attention": "eager", "data__packing": "false"}
    ranks.ranked(home / "run" / "adapter", home / "eager", *ranks.DATA, **asked)
    ranks.ranked("model", home / "bare", *ranks.DATA, "--way", "block_influence", **asked)
    assert attention == ["eager", "eager"]


def test_gates_are_measured_in_less_memory_where_the_recipe_asks(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Any] = []
    own = rank_run.computed_again

    def spy(model: Any) -> contextlib.AbstractContextManager[None]:
        used.append(model)
        return own(model)

    monkeypatch.setattr(rank_run, "computed_again", spy)
    adapter, asked = home / "run" / "adapter", {"train__gradient_checkpointing": "true"}
    found = ranks.ranked(adapter, home / "again", *ranks.DATA, **asked)
    assert len(used) == 1
    plain = json.loads((home / "run" / "scores.json").read_text())
    assert found["values"] == pytest.approx(plain["values"], rel=1e-4, abs=1e-9)


def test_other_ways_that_were_written_before_a_run_ended_do_not_stay(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    adapter, out = home / "run" / "adapter", home / "ended"
    with monkeypatch.context() as patch:
        patch.setattr(page, "write_report", end)
        told = ranks.rank(adapter, out, *ranks.DATA, "--beside", "lora_drop")
    assert told.code == 130
    assert [path.name for path in (out / "scores").iterdir()] == ["lora_drop.json"]
    ranks.ranked(adapter, out, *ranks.DATA, "--beside", "delta_norm", "--resume")
    assert [path.name for path in (out / "scores").iterdir()] == ["delta_norm.json"]
    assert "scores/lora_drop.json" not in json.loads((out / "manifest.json").read_text())["outputs"]
