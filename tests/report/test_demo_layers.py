"""The demo's tunings of some modules: what the table and the words say of given numbers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lamina.core.errors import DataError
from lamina.report.demo_layers import DemoLayers, parts, read_demo_layers, table
from lamina.report.show_demo import render_demo_layers


def run(title: str, loss: float, *, modules: int, block: int, step: float) -> dict[str, Any]:
    price = {"modules": modules, "parameters": 100 * modules, "lowest_block": block, "step": step}
    return {"title": title, "loss": loss, "se": 0.1, "price": price}


def pair(first: str, second: str, value: float, half: float) -> dict[str, Any]:
    low, high = value - half, value + half
    return {"first": first, "second": second, "value": value, "low": low, "high": high}


def numbers() -> dict[str, Any]:
    return {
        "text": {"rows": 63},
        "base": {"loss": 4.9, "se": 0.1},
        "runs": {
            "all": run("all modules", 4.5, modules=56, block=0, step=2.17),
            "top_30": run("top 30 %", 4.55, modules=17, block=0, step=2.04),
            "random_30": run("random modules", 4.5001, modules=15, block=0, step=2.04),
        },
        "pairs": [
            pair("top_30", "all", 0.05, 0.01),
            pair("random_30", "all", 0.0001, 0.01),
            pair("top_30", "random_30", 0.0499, 0.01),
        ],
    }


def read(folder: Path, given: dict[str, Any]) -> DemoLayers:
    (folder / "layers.json").write_text(json.dumps(given))
    found = read_demo_layers(folder)
    assert found is not None
    return found


def test_no_file_is_no_tunings(tmp_path: Path) -> None:
    assert read_demo_layers(tmp_path) is None


def test_a_line_for_the_model_before_and_for_each_tuning(tmp_path: Path) -> None:
    made = table(read(tmp_path, numbers()))
    assert [row.name for row in made.rows] == [
        "before tuning", "all modules", "top 30 %", "random modules",
    ]  # fmt: skip
    assert all(len(row.cells) == len(made.head) for row in made.rows)
    top, drawn = made.rows[2].cells[1], made.rows[3].cells[1]
    assert (top.text, top.under, top.tone) == ("+0.0500", "+0.0400 to +0.0600", "worse-1")
    assert drawn.tone == ""


def test_only_an_interval_without_zero_is_a_difference(tmp_path: Path) -> None:
    kept, saves, unsure = parts(read(tmp_path, numbers()))
    assert "top 30 % +0.0500 (+0.0400 to +0.0600: higher)" in kept.text
    assert "random modules +0.0001 (−0.0099 to +0.0101: not told apart)" in kept.text
    assert "The top 30 % against random modules" in kept.text
    assert "hardly any time" in saves.text
    assert "One seed" in unsure.text
    assert "docs/studies.md" in unsure.text


def test_nothing_is_said_of_block_0_where_a_set_ends_above_it(tmp_path: Path) -> None:
    given = numbers()
    given["runs"]["top_30"]["price"]["lowest_block"] = 3
    _, saves, _ = parts(read(tmp_path, given))
    assert "block 0" not in saves.text


def test_a_tuning_with_a_page_of_its_own_is_linked(tmp_path: Path) -> None:
    (tmp_path / "layers" / "all").mkdir(parents=True)
    (tmp_path / "layers" / "all" / "report.html").write_text("")
    found = read(tmp_path, numbers())
    assert found.runs["all"].link == "layers/all/report.html"
    assert found.runs["top_30"].link == ""


def test_a_number_that_is_missing_is_told_with_its_key(tmp_path: Path) -> None:
    given = numbers()
    del given["runs"]["all"]["loss"]
    with pytest.raises(DataError, match=r"layers\.json: `runs\.all\.loss` should be a number"):
        read(tmp_path, given)


def test_the_terminal_says_the_same(tmp_path: Path) -> None:
    read(tmp_path, numbers())
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render_demo_layers(tmp_path))
    told = console.export_text()
    assert "against all" in told
    assert "+0.0400 to +0.0600" in told
    assert "What this does not show" in told
