"""Folders of rankings as values; what is damaged is told, never fatal."""

import json
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.report.page import write_report
from lamina.report.rank.read import is_rank, read_ranked
from lamina.report.rank.read_plan import holds_plan, read_plan
from lamina.report.show import render_show
from lamina.report.tune.read import kind_of, read_tuned

FILES = ("manifest.json", "scores.json", "agreement.json", "plan.json", "scores/delta_norm.json")
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 1e308, -1e308, 10**400, float("nan"), float("inf"), "", "x",
    "<b>", "\ud800", [], {}, [1, [2]], {"a": {"b": 1}}, [[1, 2], [3]], "9" * 400,
)  # fmt: skip


def test_a_folder_is_known_by_its_manifest_or_by_its_files(
    make: ModuleType, make_rank: ModuleType, make_tuned: ModuleType, tmp_path: Path
) -> None:
    ranked = make_rank.make_rank(tmp_path / "r")
    tuned = make_rank.add_plan(make_tuned.make_tune(tmp_path / "t"))
    merged = make.make_lata(tmp_path / "m")
    assert [is_rank(one) for one in (ranked, tuned, merged, tmp_path)] == [
        True,
        False,
        False,
        False,
    ]
    assert kind_of(ranked) is None
    for folder in (ranked, tuned, merged):
        (folder / "manifest.json").unlink()
    assert [is_rank(one) for one in (ranked, tuned, merged)] == [True, False, False]
    assert [kind_of(one) for one in (tuned, merged)] == ["tune", None]
    assert is_rank(merged, {"kind": "rank"})
    assert not is_rank(ranked, {"kind": "merge"})


def test_a_ranking_that_was_stopped_is_known_by_its_log(
    make_tuned: ModuleType, tmp_path: Path
) -> None:
    make_tuned.write(tmp_path / "data.json", make_tuned.make_data(("law",)))
    (tmp_path / "log.jsonl").write_text('{"event": "ranking begun"}\n')
    assert is_rank(tmp_path)
    text = write_report(tmp_path).read_text("utf-8")
    assert "Not finished" in text
    assert "There are no scores here" in text
    assert "Where the rows come from" in text


def test_everything_of_a_ranking_is_read(ranked: dict[str, Path]) -> None:
    read = read_ranked(ranked["whole"])
    assert read.problems == ()
    assert (read.way, read.share, len(read.top)) == ("integrate", 0.3, 17)
    assert read.main is not None
    assert len(read.main.values) == len(read.main.spread) == 56
    assert len(read.main.seeds) == 2
    assert read.agreement is not None
    assert read.agreement.names[:2] == ("integrate", "leave_one_out")
    assert len(read.agreement.removed) == 56
    assert read.agreement.passes["delta_norm"] == 48
    assert list(read.beside) == ["delta_norm", "leave_one_out", "lora_drop", "snr", "sparse"]
    assert read.plan is not None
    assert len(read.plan.chosen) == 17


def test_the_top_is_found_where_no_manifest_says_it(make_rank: ModuleType, tmp_path: Path) -> None:
    folder = make_rank.make_rank(tmp_path)
    said = set(read_ranked(folder).top)
    (folder / "manifest.json").unlink()
    assert set(read_ranked(folder).top) == said
    (folder / "agreement.json").write_text(json.dumps({"share": 0.1}))
    assert len(read_ranked(folder).top) == 6
    (folder / "agreement.json").write_text(json.dumps({"share": 1.5}))
    read = read_ranked(folder)
    assert len(read.top) == 17
    assert any("`share` should be a share above 0" in one for one in read.problems)


def test_a_matrix_that_is_no_square_is_left_out(make_rank: ModuleType, tmp_path: Path) -> None:
    folder = make_rank.make_rank(tmp_path)
    found = json.loads((folder / "agreement.json").read_text())
    found["spearman"] = [[1.0, 0.5]]
    make_rank.write(folder / "agreement.json", found)
    read = read_ranked(folder)
    assert read.agreement is not None
    assert read.agreement.spearman == ()
    assert read.agreement.shared != ()
    assert any("a square of 3 by 3 numbers" in one for one in read.problems)


def test_a_merge_plan_is_no_tuning_plan(
    make: ModuleType, make_rank: ModuleType, make_tuned: ModuleType, tmp_path: Path
) -> None:
    merged = make.make_lata(tmp_path / "m")
    assert (merged / "plan.json").is_file()
    assert not holds_plan(merged)
    problems: list[str] = []
    assert read_plan(merged, problems) is None
    assert len(problems) == 1
    tuned = make_rank.add_plan(make_tuned.make_tune(tmp_path / "t"))
    assert read_tuned(tuned).plan is not None
    assert read_tuned(make_tuned.make_tune(tmp_path / "u")).plan is None


def _damage(value: Any, rng: random.Random) -> Any:
    """The same JSON with a few places of it replaced by something odd."""
    if rng.random() < 0.03:
        return rng.choice(ODD)
    if isinstance(value, dict):
        kept = list(value.items())
        if kept and rng.random() < 0.1:
            kept.pop(rng.randrange(len(kept)))
        return {key: _damage(inner, rng) for key, inner in kept}
    return [_damage(inner, rng) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", range(15))
def test_damaged_files_never_stop_the_page(
    make_rank: ModuleType, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    grain = ("module", "block", "sublayer")[seed % 3]
    folder = make_rank.make_rank(tmp_path, plan=True, blocks=3, grain=grain)
    for name in FILES:
        path = folder / name
        found = _damage(json.loads(path.read_text()), rng)
        if name == "manifest.json":
            found = (found if isinstance(found, dict) else {}) | {"kind": "rank"}
        path.write_text(json.dumps(found))
    write_report(folder)
    render_show(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", "\x00\xff", "[" * 5000])
def test_a_file_of_nonsense_is_told(
    make_rank: ModuleType, tmp_path: Path, name: str, text: str
) -> None:
    folder = make_rank.make_rank(tmp_path, plan=True, blocks=2)
    (folder / name).write_text(text)
    write_report(folder)
    render_show(folder)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.just(0.0) | st.integers(-3, 3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.dictionaries(
        st.text(max_size=6) | st.integers(0, 5).map(str)
        | st.tuples(st.integers(0, 40), st.text(min_size=1, max_size=5)).map(
            lambda pair: f"{pair[0]}.{pair[1]}"
        ),
        NUMBERS, min_size=1, max_size=12,
    ),
    share=st.floats(0.001, 1.0),
    spread=st.booleans(),
)  # fmt: skip
def test_any_values_make_a_page(
    tmp_path: Path, values: dict[str, float], share: float, spread: bool
) -> None:
    found = {"values": values, "method": "snr", "spread": values if spread else None,
             "columns": {"seed_0": values, "seed_1": values}}  # fmt: skip
    (tmp_path / "scores.json").write_text(json.dumps(found))
    (tmp_path / "agreement.json").write_text(
        json.dumps({"share": share, "leave_one_out": {"values": values}})
    )
    write_report(tmp_path)
    render_show(tmp_path)
