"""A merge with --controls, with a made-up reader of texts: what is measured, told and left."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_family as tf

from lamina.evaluate.perplexity import TextLoss
from lamina.jobs import controls, run_merge


def loss(*rows: float, tokens: int = 10) -> TextLoss:
    """Ten tokens a document with these mean losses."""
    sums = tuple(tokens * row for row in rows)
    count = tokens * len(rows)
    return TextLoss(math.fsum(sums), count, count, count, sums, (tokens,) * len(rows))


def read(model: Path, texts: Mapping[str, Sequence[Any]]) -> dict[str, TextLoss]:
    """A loss that is some function of the weights."""
    size = sum(abs(float(v.sum())) for v in tf.read_model(model).values()) / 1000
    return {domain: loss(*(size + i for i in range(len(rows)))) for domain, rows in texts.items()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(controls, "measure", lambda model, texts, base=None: read(model, texts))
    tf.write_family(tmp_path)
    (tmp_path / "held.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    return tmp_path


def run(home: Path, *, forget: bool = False, **more: Any) -> dict[str, Any]:
    text = {
        "merge_method": "lata",
        "base_model": "./base",
        "instruct_model": "./instruct",
        "models": [{"model": "./math"} | ({} if forget else {"parameters": {"weight": 0.5}})],
        "parameters": {"rule": "linear_drop"},
        "heldout": {"general": "./held.jsonl"},
        "controls": {"permutations": 2},
    }
    (home / "recipe.yaml").write_text(json.dumps(text | more))
    run_merge(home / "recipe.yaml", home / "out", controls=True, forget=forget)
    return json.loads((home / "out" / "metrics.json").read_text())


def hidden(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if path.name.startswith(".")]


def test_every_member_and_control_is_measured_and_no_control_is_kept(home: Path) -> None:
    metrics = run(home)
    assert metrics["order"] == ["base", "instruct", "math", "LATA"]
    rows = [row["name"] for row in metrics["controls"]["rows"]]
    assert rows == ["lata", "same_norm", "permuted_1", "permuted_2", "reversed"]
    assert len({row["mean_loss"] for row in metrics["controls"]["rows"]}) > 2
    assert metrics["warnings"] == []
    assert not (home / "out" / "control").exists()
    assert hidden(home) == []


def test_equal_coefficients_leave_nothing_to_test(home: Path) -> None:
    metrics = run(home, parameters={"rule": "threshold", "threshold": 1.0})
    assert metrics["controls"]["text"].startswith("Nothing to put to the test")


def test_forgetting_without_a_text_of_that_name_is_told(home: Path) -> None:
    assert "the forgotten `math`" in run(home, forget=True)["warnings"][0]


def test_forgetting_with_a_text_of_that_name(home: Path) -> None:
    parameters = {"rule": "linear_drop"}
    texts = {"general": "./held.jsonl", "math": "./held.jsonl"}
    metrics = run(home, forget=True, heldout=texts, parameters=parameters)
    assert metrics["warnings"] == []
    assert "counted with a minus" in metrics["controls"]["text"]


def test_a_run_stopped_in_a_control_leaves_one_folder_to_go_on_with(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(model: Path, texts: Mapping[str, Sequence[Any]], base: Path | None = None) -> Any:
        if "control" in model.name:
            raise KeyboardInterrupt
        return read(model, texts)

    with monkeypatch.context() as patch:
        patch.setattr(controls, "measure", stopped)
        patch.setattr(controls.shutil, "rmtree", lambda *a, **k: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            run(home)
    assert hidden(home) == [".out.lamina-part"]
    assert (home / ".out.lamina-part" / "control").is_dir()
    run_merge(home / "recipe.yaml", home / "out")
    assert hidden(home) == []
    assert not (home / "out" / "control").exists()


def test_a_ranking_from_a_file_is_put_to_the_test_too(home: Path) -> None:
    """Norms, which it does not rank, keep their coefficient in every control."""
    tf.write_ranking(home)
    parameters = {"rule": "scores", "scores": "./ranked.json", "shape": "top", "share": 0.3}
    metrics = run(home, base_model="./base", parameters=parameters)
    assert metrics["order"] == ["instruct", "math", "LATA"]
    rows = {row["name"]: row["mean_loss"] for row in metrics["controls"]["rows"]}
    assert len(set(rows.values())) == len(rows) == 5


def test_with_one_coefficient_for_all_that_is_ranked_there_is_nothing_to_test(home: Path) -> None:
    tf.write_ranking(home)
    parameters = {"rule": "scores", "scores": "./ranked.json", "shape": "top", "share": 1.0}
    metrics = run(home, parameters=parameters)
    assert metrics["controls"]["text"].startswith("Nothing to put to the test")
