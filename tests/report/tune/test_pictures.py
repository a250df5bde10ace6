"""Pictures over windows: heights, borders, and colours that can be told apart."""

import itertools
import re
from pathlib import Path

import pytest

from lamina.report.tune import dots, paint, pictures, sums
from lamina.report.tune.read import read_tuned


def test_the_first_forty_eight_fills_differ_in_colour_or_texture() -> None:
    drawn = str(paint.defs(60))
    bodies = re.findall(r"<pattern(.*?)</pattern>", drawn)
    assert len(bodies) == paint.MOST
    looks = {re.sub(r'id="[^"]*"', "", body) for body in bodies}
    assert len(looks) == paint.MOST


def test_twelve_domains_have_twelve_colours() -> None:
    assert len({paint.colour(place) for place in range(12)}) == 12


@pytest.mark.parametrize("wanted", [[5.0, 5.0, 5.0], [0.0, 100.0], [99.0, 99.5, 100.0], [50.0]])
def test_labels_are_spread_without_overlap_and_stay_inside(wanted: list[float]) -> None:
    placed = paint.spread(wanted, gap=13.0, low=0.0, high=100.0)
    assert all(b - a >= 13.0 - 1e-9 for a, b in itertools.pairwise(placed))
    assert min(placed) >= 0.0
    assert max(placed) <= 100.0


def test_the_columns_of_the_band_fill_its_height(tuned: dict[str, Path]) -> None:
    drawn = str(pictures.band(read_tuned(tuned["foster"])))
    columns = re.findall(r"M([\d.]+) [\d.]+h[\d.]+v([\d.]+)h", drawn)
    assert len(columns) == 6 * 8
    heights: dict[str, float] = {}
    for left, height in columns:
        heights[left] = heights.get(left, 0.0) + float(height)
    whole = pictures.TALL - pictures.BOTTOM - pictures.TOP
    assert all(height == pytest.approx(whole, abs=0.4) for height in heights.values())
    assert "<desc>law from" in drawn


def test_many_windows_are_one_shape_for_each_domain(tuned: dict[str, Path]) -> None:
    drawn = str(pictures.band(read_tuned(tuned["long"])))
    assert drawn.count('class="area"') == 12
    assert drawn.count('class="border"') == 1
    assert len(drawn) < 200_000


def test_the_losses_begin_at_the_start_with_whiskers_or_a_shade(tuned: dict[str, Path]) -> None:
    few, many = read_tuned(tuned["foster"]), read_tuned(tuned["long"])
    points = sums.loss_points(few, "law")
    assert [point.step for point in points] == [0.0, *(20.0 * (n + 1) for n in range(8))]
    drawn = str(pictures.losses(few, "law"))
    assert drawn.count('class="whisker"') == 9
    assert "reference" in drawn
    shade = str(pictures.losses(many, "law"))
    assert shade.count('class="shade"') == 1
    assert 'class="whisker"' not in shade


def test_a_dot_that_is_not_clear_is_hollow() -> None:
    axis = dots.Axis("title", "below", lambda value, decimals: f"{value:.{decimals}f}")
    rows = [
        dots.Dot("law", -0.3, "law words", 0, -0.4, -0.2),
        dots.Dot("code", 0.1, "code words", 1, -0.2, 0.4, faint=True),
    ]
    drawn = str(dots.draw(rows, axis))
    assert drawn.count('class="point"') == 1
    assert drawn.count('class="ring"') == 1
    assert drawn.count('class="whisker"') == 2
    assert "<desc>law words; code words</desc>" in drawn


def test_asked_and_achieved_are_weighted_by_the_tokens_of_each_window(
    tuned: dict[str, Path],
) -> None:
    found = sums.asked_and_achieved(read_tuned(tuned["two-stages"]))
    assert sum(one.asked for one in found.values()) == pytest.approx(1.0, abs=1e-6)
    assert sum(one.achieved for one in found.values()) == pytest.approx(1.0, abs=1e-6)
    assert max(one.worst for one in found.values()) < 1e-3
