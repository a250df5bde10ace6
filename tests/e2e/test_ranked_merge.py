"""`rule: scores` on the command line: checked, merged, shown; refused before a byte is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_family as tf

from lamina.weights.checkpoint import open_checkpoint

RECIPE = """\
merge_method: lata
instruct_model: ./instruct
models:
  - {model: ./math, parameters: {weight: 0.5}}
parameters: {rule: scores, scores: ./ranked.json}
"""


@pytest.fixture
def ranked(home: Path) -> Path:
    """A home with a ranking of its blocks."""
    write(home, {"0": 0.5, "1": 2.0, "2": 1.0})
    (home / "ranked.yaml").write_text(RECIPE)
    return home


def write(home: Path, values: dict[str, Any], model: str = "instruct") -> None:
    told = {
        "schema": "lamina.scores/1",
        "method": "block_influence",
        "unit": "1 - cosine",
        "granularity": "block",
        "higher_means": "the block changes what flows through it",
        "values": values,
        "model": f"./{model}",
        "inputs": {"model": open_checkpoint(home / model).fingerprint},
    }
    (home / "ranked.json").write_text(json.dumps(told))


def test_a_ranking_is_checked_drives_the_merge_and_is_shown(lamina: Any, ranked: Path) -> None:
    checked = lamina("check", ranked / "ranked.yaml")
    assert checked.code == 0, checked
    assert "scores of math" in checked.out
    assert "block_influence of 3 blocks" in checked.out
    merged = lamina("merge", ranked / "ranked.yaml", ranked / "out")
    assert merged.code == 0, merged
    plan = json.loads((ranked / "out" / "plan.json").read_text())["experts"]["math"]
    assert plan["coefficients"] == {"0": 1 / 3, "1": 1.0, "2": 2 / 3}
    shown = lamina("show", ranked / "out")
    assert shown.code == 0, shown
    assert "the ranking of a file" in " ".join(shown.out.split())
    assert lamina("verify", ranked / "out").code == 0


@pytest.mark.parametrize(
    ("values", "model", "says"),
    [
        ({"0": 0.5, "1": 2.0}, "instruct", ("ranked.json", "no value for 2", "of 2 units")),
        ({"0": 0.5, "1": 2.0, "2": None}, "instruct", ("no finite score", "2: None")),
        ({"0": 0.5, "1": 2.0, "2": 1.0}, "base", ("other weights (./base)", "check_base: false")),
    ],
)
def test_scores_that_do_not_fit(
    values: dict[str, Any], model: str, says: tuple[str, ...], lamina: Any, ranked: Path
) -> None:
    write(ranked, values, model)
    before = tf.snapshot(ranked)
    for arguments in (
        ("check", ranked / "ranked.yaml"),
        ("merge", ranked / "ranked.yaml", ranked / "out"),
    ):
        told = lamina(*arguments)
        assert told.code == 2, told
        assert told.err.count("error: ") == 1, told.err
        assert all(word in told.err for word in says), told.err
    assert tf.snapshot(ranked) == before


def test_controls_of_sub_layers_are_refused_with_words(lamina: Any, ranked: Path) -> None:
    values = {f"{block}.{part}": 1.0 for block in range(tf.BLOCKS) for part in ("attention", "mlp")}
    write(ranked, values)
    told = json.loads((ranked / "ranked.json").read_text()) | {"granularity": "sublayer"}
    (ranked / "ranked.json").write_text(json.dumps(told))
    assert lamina("check", ranked / "ranked.yaml").code == 0
    told = lamina("merge", ranked / "ranked.yaml", ranked / "out", "--controls")
    assert told.code == 2, told
    assert "the scores of math are of sub-layers" in told.err
    assert not (ranked / "out").exists()
