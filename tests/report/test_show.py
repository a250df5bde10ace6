"""The same in a terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console, RenderableType

from lamina.core.errors import DataError
from lamina.report.show import Bar, Line, render_show

KINDS = ["math-code-lata", "forty-two-blocks", "by-module", "forgotten", "plain", "demo"]


def printed(shown: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_kind_of_run_fits_the_terminal(runs: dict[str, Path], name: str, width: int) -> None:
    lines = printed(render_show(runs[name]), width).splitlines()
    assert len(lines) > 20
    assert max(len(line) for line in lines) <= width


def test_numbers_and_bars_of_every_block_are_there(runs: dict[str, Path]) -> None:
    text = printed(render_show(runs["math-code-lata"]))
    assert "math + code into instruct, by LATA" in text
    assert "! models/code names no licence" in text
    assert "0.986  ██████████████     1" in text
    assert "task arithmetic, same norm" in text


def test_a_demo_folder_shows_its_comparison(runs: dict[str, Path]) -> None:
    text = printed(render_show(runs["demo"]))
    assert "3 merges of one family" in text
    assert "What was forgotten" in text


def test_names_are_neither_markup_nor_orders_to_the_terminal(
    make: ModuleType, tmp_path: Path
) -> None:
    folder = make.make_lata(tmp_path / "run", names=("[red]x[/red]", "[/]"))
    data = json.loads((folder / "manifest.json").read_text())
    data["warnings"] = ["[bold]\x1b[2Jcleared"]
    (folder / "manifest.json").write_text(json.dumps(data))
    text = printed(render_show(folder))
    assert "[red]x[/red]" in text
    assert "\x1b" not in text
    assert "[bold]\\u001b[2Jcleared" in text


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither"):
        render_show(tmp_path)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "    "), (0.5, "██  "), (1.0, "████"), (9, "████")]
)
def test_a_bar_is_as_long_as_its_share(share: float, text: str) -> None:
    assert printed(Bar(share, most=4)).rstrip("\n") == text


def test_a_line_rises_with_its_values() -> None:
    assert printed(Line([0.0, 0.5, None, 1.0], 0.0, 1.0)).rstrip("\n") == "▁▅ █"


def test_a_terminal_without_unicode_gets_plain_bars() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=20)
    console.print(Bar(0.5, most=4))
    console.file.flush()
    assert raw.getvalue().rstrip(b"\n") == b"##  "


def test_showing_a_run_needs_neither_numpy_nor_the_template_engine(runs: dict[str, Path]) -> None:
    program = (
        "import sys, pathlib; from lamina.report.show import render_show;"
        f"render_show(pathlib.Path({str(runs['math-code-lata'])!r}));"
        "print([name for name in ('numpy', 'torch', 'jinja2', 'matplotlib', 'numba') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_a_file_of_losses_alone_can_be_shown(runs: dict[str, Path]) -> None:
    text = printed(render_show(runs["demo"] / "metrics.json"))
    assert "Mean loss per token" in text
