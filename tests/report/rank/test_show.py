"""Rankings, plans and token shifts in a terminal."""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console, RenderableType

from lamina.report.rank.show import Map
from lamina.report.show import render_show

KINDS = ["whole", "noisy", "one-seed", "blocks", "sublayers", "large", "experts", "all", "single"]


def printed(shown: RenderableType, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_kind_fits_the_terminal(ranked: dict[str, Path], name: str, width: int) -> None:
    lines = printed(render_show(ranked[name]), width).splitlines()
    assert len(lines) > 15
    assert max(len(line) for line in lines) <= width


def test_the_map_is_readable_without_colours() -> None:
    values = {"0.a": 0.0, "1.a": 1.0, "2.a": 0.5, "0.b": 0.9, "2.b": 0.4}
    marked = {"1.a": (True, False), "0.b": (True, True), "2.a": (False, True)}
    assert printed(Map(values, marked)).splitlines() == [
        "block 0 1 2 ",
        "a     ▁ █*▅~",
        "b     █+  ▄ ",
    ]


def test_values_below_zero_are_marked_by_a_letter() -> None:
    assert printed(Map({"0.a": -1.0, "1.a": 1.0}, {})).splitlines()[1] == "a     v █ "


def test_a_wide_map_is_cut_into_bands_with_all_blocks(ranked: dict[str, Path]) -> None:
    text = printed(render_show(ranked["large"]), 60)
    heads = [line for line in text.splitlines() if line.startswith("block ")]
    assert len(heads) == 2
    assert [int(word) for head in heads for word in head.split()[1:]][-1] == 40
    rows = [line for line in text.splitlines() if line.startswith("down_proj")]
    assert sum(row.count("*") + row.count("+") for row in rows[:2]) == 28


def test_reading_matrices_and_facts_are_there(ranked: dict[str, Path]) -> None:
    text = printed(render_show(ranked["whole"])).replace("\u00a0", " ")
    for words in (
        "Which modules of demo-base matter, by integrate",
        "What tuning only these saves",
        "* in the top 30 %; within one spread of the cut: + in it, ~ not in it",
        "Shared by the top 30 %, by chance 30 %",
        "The same with chance taken out",
        "Spearman over all",
        "2 leave_one_out",
        "The plan",
        "* tuned, . frozen",
        "Between seeds",
    ):
        assert words in text, words


def test_a_tuning_shows_its_plan(
    make_rank: ModuleType, make_tuned: ModuleType, tmp_path: Path
) -> None:
    folder = make_rank.add_plan(make_tuned.make_tune(tmp_path), layerwise="prilora")
    text = printed(render_show(folder))
    assert "* tuned, . frozen; higher: a higher rank" in text
    assert "input_layernorm               █*" in text


def test_a_folder_of_runs_tells_the_ranking_in_short(
    make: ModuleType, make_rank: ModuleType, tmp_path: Path
) -> None:
    make.make_demo(tmp_path)
    make_rank.make_rank(tmp_path / "rank")
    text = printed(render_show(tmp_path))
    assert "3 merges of one family" in text
    assert "17 of 56 modules" in text


def test_a_token_shift_is_told_by_set_and_by_position(
    make_rank: ModuleType, tmp_path: Path
) -> None:
    def row(**more: object) -> dict[str, object]:
        shares = {"unshifted": 0.8, "marginal": 0.15, "shifted": 0.05}
        return {"tokens": 1200, "fractions": shares, "se": None, **more}

    places = [row(first=1, last=8), row(first=9, last=32)]
    told = {
        "schema": "lamina.shift/1",
        "model": "models/chat",
        "base": "models/base",
        "prompts": 20,
        "sets": [row(name="base", modules=0, by_position=places), row(name="top 30 %", modules=17)],
        "most_shifted": [{"token": " Thank", "shifted": 5, "said": 6}],
    }
    make_rank.write(tmp_path / "shift.json", told)
    facts = make_rank.manifest({}, {}) | {"kind": "shift", "warnings": ["few prompts"]}
    make_rank.write(tmp_path / "manifest.json", facts)
    text = printed(render_show(tmp_path)).replace("\u00a0", " ")
    assert "What chat says that its base would not" in text
    assert "! Few prompts." in text
    assert "80 % as its first choice" in text
    assert "top 30 % (17 modules)" in text
    assert "9 to 32" in text
    assert "' Thank' 5 of 6" in text
    (tmp_path / "shift.json").write_text("{")
    assert "names no set of modules" in printed(render_show(tmp_path))


def test_names_are_no_markup(make_rank: ModuleType, tmp_path: Path) -> None:
    folder = make_rank.make_rank(tmp_path / "run", types=("[red]a[/red]", "[/]"))
    facts = json.loads((folder / "manifest.json").read_text()) | {"warnings": ["[bold]\x1b[2J"]}
    make_rank.write(folder / "manifest.json", facts)
    text = printed(render_show(folder), 140)
    assert "[red]a[/red]" in text
    assert "\x1b" not in text


def test_showing_needs_neither_numpy_nor_torch_nor_the_template_engine(
    ranked: dict[str, Path],
) -> None:
    program = (
        "import sys, pathlib; from lamina.report.show import render_show;"
        f"render_show(pathlib.Path({str(ranked['whole'])!r}));"
        "print([name for name in ('numpy', 'torch', 'jinja2', 'matplotlib', 'sklearn') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
