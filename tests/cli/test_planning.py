"""`lamina plan` and `lamina compare` through the command line: what is printed, and exit codes."""

import json
import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / name) for name in ("jobs", "e2e")]
from plan_kit import model_of, scores_of, write_scores

from lamina.cli import main


@pytest.fixture
def scores(tmp_path):
    write_scores(tmp_path / "run", scores_of(model_of(tmp_path / "model")))
    return tmp_path / "run"


def test_a_plan_is_drawn_priced_and_written(scores, tmp_path, capsys):
    out = tmp_path / "plan.json"
    main(["plan", str(scores), "-s", "share=.25", "--unfreeze", "norm", "--out", str(out)])
    told = capsys.readouterr().out
    assert "6 of 21 modules" in told
    assert "mlp.up_proj       ··■" in told
    assert "a frozen prefix" in told
    assert "whole besides: norm" in told
    assert f"plan: {out}" in told
    assert json.loads(out.read_text())["full"] == ["norm"]


def test_a_scattered_plan_is_said_to_save_no_time(scores, capsys):
    main(["plan", str(scores), "--rule", "first", "-s", "share=.9"])
    assert "Scattered modules save memory" in capsys.readouterr().out


def test_a_comparison_as_a_table_and_as_json(scores, tmp_path, capsys):
    other = scores_of(tmp_path / "model")
    values = {one: -value for one, value in other.values.items()}
    write_scores(tmp_path / "other", other.model_copy(update={"values": values}))
    main(["compare", str(scores), str(tmp_path / "other")])
    told = capsys.readouterr().out
    assert "-1.000" in told
    assert "by chance 0.333" in told  # 7 of 21
    main(["compare", str(scores), str(tmp_path / "other"), "--share", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["shared"] == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan", "RUN", "-s", "share=0"], "above 0 and at most 1 is needed, not 0"),
        (["plan", "RUN", "-s", "shar=.3"], "did you mean `share`"),
        (["plan", "RUN", "--rule", "tpo", "-s", "share=.3"], "did you mean `top`"),
        (["plan", "RUN", "--rule", "budget", "-s", "parameters=9"], "smallest module"),
        (["plan", "RUN", "-s", "share=.3", "--out", "RUN/scores.json"], "no plan of lamina"),
        (["plan", "nowhere", "-s", "share=.3"], "nowhere is no file"),
        (["compare", "RUN"], "1 ranking"),
        (["compare", "RUN", "RUN", "--share", "1.5"], "at most 1, not 1.5"),
    ],
)
def test_one_clear_error_and_exit_code_two(scores, capsys, arguments, told):
    before = {file: file.read_bytes() for file in scores.iterdir()}
    with pytest.raises(SystemExit) as caught:
        main([one.replace("RUN", str(scores)) for one in arguments])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert told in printed.err
    assert printed.out == ""
    assert {file: file.read_bytes() for file in scores.iterdir()} == before
