"""Run folders as values, and the errors of folders that are not runs."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from lamina.core.errors import DataError
from lamina.report.read import read_metrics, read_run


def test_experts_stand_as_the_recipe_lists_them(runs: dict[str, Path]) -> None:
    run = read_run(runs["math-code-lata"])
    assert [expert.name for expert in run.experts] == ["math", "code"]
    assert run.experts[0].layers == tuple(str(block) for block in range(12))
    assert run.experts[0].weight == 0.5
    assert run.experts[0].rule == "linear_drop"


def test_shares_sum_to_one_before_and_after_the_coefficients(runs: dict[str, Path]) -> None:
    for expert in read_run(runs["math-code-lata"]).experts:
        assert math.fsum(expert.shares().values()) == pytest.approx(1.0)
        assert math.fsum(expert.carried().values()) == pytest.approx(1.0)


def test_what_a_layer_carries_is_its_share_times_its_weight_squared(tmp_path: Path) -> None:
    scores = {"method": "lata_cosine", "values": {"0": 0.9, "1": 0.8}}
    scores["columns"] = {"B": {"0": 1.0, "1": 3.0}}
    (tmp_path / "scores.json").write_text(json.dumps({"experts": {"math": scores}}))
    plan = {"experts": {"math": {"coefficients": {"0": 1.0, "1": 0.5}}}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (expert,) = read_run(tmp_path).experts
    assert expert.shares() == {"0": 0.25, "1": 0.75}
    assert expert.carried() == {"0": 1.0 / 1.75, "1": 0.75 / 1.75}
    assert expert.ranks() == {"0": 1.0, "1": 2.0}


def test_a_manifest_in_memory_stands_in_for_the_file(make: ModuleType, tmp_path: Path) -> None:
    folder = make.make_lata(tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = read_run(folder)
    (folder / "manifest.json").unlink()
    assert read_run(folder, manifest) == whole
    assert not read_run(folder).finished


def test_a_folder_without_a_run_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither manifest\.json nor scores\.json"):
        read_run(tmp_path)
    assert read_metrics(tmp_path) is None


def _number_as_text(data: dict) -> None:
    data["experts"]["math"]["values"]["3"] = "high"


def _list_for_object(data: dict) -> None:
    data["experts"]["math"]["columns"] = [1, 2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_number_as_text, r"`experts\.math\.values\.3` should be a number, but it is 'high'"),
        (_list_for_object, r"`experts\.math\.columns` should be an object"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_key(
    make: ModuleType, tmp_path: Path, spoil: Callable[[dict], None], words: str
) -> None:
    folder = make.make_lata(tmp_path / "run")
    data = json.loads((folder / "scores.json").read_text())
    spoil(data)
    (folder / "scores.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=words):
        read_run(folder)


def test_what_is_not_json_is_told(make: ModuleType, tmp_path: Path) -> None:
    folder = make.make_lata(tmp_path / "run")
    (folder / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json"):
        read_run(folder)


def test_a_control_is_told_from_the_merge_whatever_the_sign_written(
    make: ModuleType, tmp_path: Path
) -> None:
    folder = make.make_lata(tmp_path / "run")
    data = json.loads((folder / "metrics.json").read_text())
    for row in data["controls"]["rows"]:
        row["difference"] = -row["difference"]
    (folder / "metrics.json").write_text(json.dumps(data))
    metrics = read_metrics(folder)
    assert metrics is not None
    assert metrics.controls is not None
    rows = {row.name: row.difference for row in metrics.controls.rows}
    assert rows["lata"] == 0.0
    assert rows["reversed"] == pytest.approx(0.0174)


def test_models_follow_the_order_that_the_file_gives(make: ModuleType, tmp_path: Path) -> None:
    data = make.metrics() | {"order": ["instruct", "task arithmetic", "LATA"]}
    (tmp_path / "metrics.json").write_text(json.dumps(data))
    metrics = read_metrics(tmp_path)
    assert metrics is not None
    assert list(metrics.models)[:3] == ["instruct", "task arithmetic", "LATA"]
