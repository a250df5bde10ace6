"""Pictures are well-formed, named, and drawn for any number of layers."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.report import grid, pictures
from lamina.report.nouns import Control, Expert
from lamina.report.read import read_run
from lamina.report.svg import ticks

SVG = "{http://www.w3.org/2000/svg}"


def parse(drawing: str) -> ET.Element:
    """As an XML parser sees it; inline SVG has no namespace of its own."""
    root = ET.fromstring(
        str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    )
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == root.get("aria-label")
    return root


def drawn(folder: Path) -> list[tuple[pictures.Panel, ET.Element]]:
    run = read_run(folder)
    return [
        (panel, parse(pictures.draw(panel, expert)))
        for expert in run.experts
        for panel in pictures.panels(expert, run.experts, None)
    ]


@pytest.mark.parametrize(
    ("name", "experts", "blocks"),
    [("eight-blocks", 2, 8), ("math-code-lata", 2, 12), ("forty-two-blocks", 3, 42)],
)
def test_every_block_has_its_mark_in_every_picture(
    runs: dict[str, Path], name: str, experts: int, blocks: int
) -> None:
    found = drawn(runs[name])
    assert [panel.title for panel, _ in found] == [
        "Similarity",
        "Rank",
        "Weight",
        "Norm share",
    ] * experts
    for panel, root in found:
        circles, bars = len(root.findall(f"{SVG}circle")), len(root.findall(f"{SVG}rect"))
        if panel.kind == "dots":
            assert (circles, bars) == (blocks, 0)
        else:
            assert (circles, bars) == (0, blocks if panel.after is None else 2 * blocks)


def test_modules_are_drawn_as_a_grid_in_their_usual_order(runs: dict[str, Path]) -> None:
    for _, root in drawn(runs["by-module"]):
        cells = [one for one in root.findall(f"{SVG}rect") if one.find(f"{SVG}title") is not None]
        assert len(cells) == 210
        names = [one.text for one in root.findall(f"{SVG}text")][:7]
        assert names == list(grid.ORDER)


def test_sizes_of_an_update_have_no_rank_and_no_similarity(runs: dict[str, Path]) -> None:
    titles = [panel.title for panel, _ in drawn(runs["plain"])]
    assert titles == ["Size", "Norm share"] * 2


def test_layers_left_out_are_hollow_and_the_threshold_is_drawn(runs: dict[str, Path]) -> None:
    run = read_run(runs["forgotten"])
    panel = pictures.panels(run.experts[0], run.experts, 0.95)[0]
    root = parse(pictures.draw(panel, run.experts[0]))
    kinds = [circle.get("class") for circle in root.findall(f"{SVG}circle")]
    assert kinds.count("dot hollow") == 6
    assert "threshold 0.95" in [text.text for text in root.findall(f"{SVG}text")]


def expert(values: dict[str, float], **more: object) -> Expert:
    plain = Expert("x", "lata_cosine", "cosine", "block", "", values, {}, {})
    return replace(plain, **more)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.one_of(st.integers(0, 90).map(str), st.text(max_size=8)),
        st.one_of(st.floats(-1.0, 1.0), st.sampled_from([math.nan, math.inf, -math.inf])),
        min_size=1,
        max_size=12,
    )
)
def test_any_values_can_be_drawn(values: dict[str, float]) -> None:
    coefficients = dict.fromkeys(values, 0.5)
    one = expert({pictures.formats.plain(key): value for key, value in values.items()})
    one = replace(one, coefficients=coefficients, columns={"B": one.values})
    for panel in pictures.panels(one, [one], 0.95):
        text = str(pictures.draw(panel, one))
        assert "nan" not in text.split("<title>", 1)[0]
        assert "inf" not in text.split("<title>", 1)[0]
        parse(text.replace("\ufffe", "").replace("\uffff", ""))


def test_the_experts_of_a_router_are_joined() -> None:
    values = {
        f"{block}.mlp.experts.{one}.w1": float(one) for block in range(2) for one in range(64)
    }
    values |= {f"{block}.mlp.gate": 1.0 for block in range(2)}
    cells = grid.cells(values)
    assert len(cells) == 4
    assert cells[0, "mlp.experts.*.w1"] == 31.5


def test_a_name_cannot_break_out_of_a_picture() -> None:
    name = '"><script>alert(1)</script>'
    one = expert({"0": 0.9, name: 0.8}, name=name, where={name: 0.4, "mlp": 0.6})
    for panel in pictures.panels(one, [one], None):
        assert "<script" not in pictures.draw(panel, one)
    assert "<script" not in pictures.where(one)
    assert "<script" not in pictures.controls([Control(name, 2.0, 0.1, 0.01)])


def test_a_share_bar_is_as_wide_as_its_shares() -> None:
    one = expert({"0": 0.9}, where={"mlp": 0.75, "attention": 0.25, "head": 0.0})
    root = parse(pictures.where(one))
    bars = root.findall(f"{SVG}rect")
    assert [bar.get("class") for bar in bars] == ["role-attention", "role-mlp"]
    assert [float(bar.get("x", "")) for bar in bars] == [0.0, 225.0]


def test_controls_have_whiskers_of_two_standard_errors() -> None:
    root = parse(
        pictures.controls([Control("lata", 2.0, 0.0, 0.0), Control("reversed", 2.1, 0.1, 0.02)])
    )
    whiskers = [one for one in root.findall(f"{SVG}line") if one.get("class") == "whisker"]
    assert len(whiskers) == 3
    assert len(root.findall(f"{SVG}circle")) == 2


@given(st.floats(-1e9, 1e9), st.floats(0.0, 1e9))
def test_ticks_are_few_and_cover_the_range(low: float, span: float) -> None:
    marks = ticks(low, low + span, 4)
    assert 2 <= len(marks) <= 8
    slack = 1e-6 * (marks[1] - marks[0])
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack
