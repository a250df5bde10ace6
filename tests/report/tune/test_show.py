"""Tunings and detections in a terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console, RenderableType

from lamina.report.show import render_show
from lamina.report.terminal import Line

KINDS = ["foster", "two-stages", "long", "one", "unclear", "detected", "as-judged"]


def printed(shown: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_kind_fits_the_terminal(tuned: dict[str, Path], name: str, width: int) -> None:
    lines = printed(render_show(tuned[name]), width).splitlines()
    assert len(lines) > 15
    assert max(len(line) for line in lines) <= width


def test_weights_losses_changes_and_reasons_are_there(tuned: dict[str, Path]) -> None:
    text = printed(render_show(tuned["two-stages"]))
    assert "demo-base tuned on 6 domains, weights by foster and expand" in text
    assert "! The cap on repeats holds back law" in text
    assert "Weights over the windows" in text
    assert "most left to learn (potential" in text
    assert "general text" in text
    assert "Backward transfer" in text
    assert "3 min 32" in text.replace("\u00a0", " ")
    assert "1.24 GB" in text.replace("\u00a0", " ")


def test_of_many_windows_the_last_reasons_are_shown(tuned: dict[str, Path]) -> None:
    assert "Why these weights (the last 12 of 200)" in printed(render_show(tuned["long"]))


def test_a_folder_with_merges_and_a_tuning_shows_both(
    make: ModuleType, make_tuned: ModuleType, tmp_path: Path
) -> None:
    make.make_demo(tmp_path)
    make_tuned.make_tune(tmp_path / "tune")
    text = printed(render_show(tmp_path))
    assert "3 merges of one family" in text
    assert "The held-out loss fell on" in text


def test_an_order_is_told_pair_by_pair(make_tuned: ModuleType, tmp_path: Path) -> None:
    pair = {"domains": ["law", "code"], "value": -0.2, "se": 0.05, "z": -4.0, "first": "law"}
    make_tuned.write(tmp_path / "order.json", {"target": None, "unit": "nats", "pairs": [pair]})
    results = {"words": ["law before code: lower the mean loss of all domains (z 4.0)"]}
    made = make_tuned.manifest("order", {}, results=results, warnings=["few rows"])
    make_tuned.write(tmp_path / "manifest.json", made)
    text = printed(render_show(tmp_path))
    assert "! few rows" in text
    assert "law before code" in text
    assert "Which domain first" in text


def test_names_are_no_markup(make_tuned: ModuleType, tmp_path: Path) -> None:
    folder = make_tuned.make_tune(tmp_path / "run", domains=("[red]law[/red]", "[/]"))
    data = json.loads((folder / "manifest.json").read_text()) | {"warnings": ["[bold]\x1b[2J"]}
    (folder / "manifest.json").write_text(json.dumps(data))
    text = printed(render_show(folder), 140)
    assert "[red]law[/red]" in text
    assert "\x1b" not in text


def test_a_line_keeps_to_its_ends() -> None:
    assert printed(Line([-9.0, 0.0, 9.0], 0.0, 1.0)).rstrip("\n") == "▁▁█"


def test_showing_needs_neither_numpy_nor_torch_nor_the_template_engine(
    tuned: dict[str, Path],
) -> None:
    program = (
        "import sys, pathlib; from lamina.report.show import render_show;"
        f"render_show(pathlib.Path({str(tuned['foster'])!r}));"
        "print([name for name in ('numpy', 'torch', 'jinja2', 'matplotlib', 'sklearn') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
