"""Numbers as a person reads them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.report import formats


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (1.23456, 3, "1.235"),
        (-0.5, 2, "−0.50"),
        (-0.0001, 2, "0.00"),
        (math.nan, 3, "not a number"),
        (-math.inf, 3, "−∞"),
        (None, 3, "–"),
    ],
)
def test_a_number_has_its_decimals_and_a_real_minus(
    value: float | None, decimals: int, text: str
) -> None:
    assert formats.number(value, decimals) == text


def test_only_what_is_above_zero_has_a_plus() -> None:
    assert formats.signed(0.25) == "+0.250"
    assert formats.signed(0.0) == "0.000"
    assert formats.signed(0.00001) == "0.000"
    assert formats.signed(-0.25) == "−0.250"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.0004, "<0.1 %"), (0.034, "3.4 %"), (0.412, "41 %"), (1.0, "100 %")],
)
def test_a_share_is_a_percentage(share: float, text: str) -> None:
    assert formats.percent(share).replace(formats.SPACE, " ") == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(712, "712 bytes"), (999_999, "1 MB"), (8_421_376, "8.42 MB"), (2.2e9, "2.2 GB")],
)
def test_bytes_are_decimal(size: float, text: str) -> None:
    assert formats.size(size).replace(formats.SPACE, " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.84, "0.84 s"), (75.0, "75 s"), (150.0, "2 min 30 s"), (8000.0, "2 h 13 min")],
)
def test_a_duration_has_units_that_fit(seconds: float, text: str) -> None:
    assert formats.duration(seconds).replace(formats.SPACE, " ") == text


def test_settings_have_no_idle_zeros() -> None:
    assert [formats.short(value) for value in (0.5, 1.0, 0.125, -1.0, 0.95, 100.0)] == [
        "0.5",
        "1",
        "0.125",
        "−1",
        "0.95",
        "100",
    ]


def test_neighbouring_numbers_are_joined() -> None:
    assert formats.runs([9, 0, 4, 5, 6, 7]) == "0, 4 to 7 and 9"
    assert formats.runs([10, 11]) == "10 and 11"
    assert formats.listing("abcdefghij", most=4) == "a, b, c and 7 more"


def test_layer_9_stands_before_layer_10() -> None:
    names = ["10.mlp", "9.mlp", "9.attn", "embed", "2"]
    assert sorted(names, key=formats.natural) == ["embed", "2", "9.attn", "9.mlp", "10.mlp"]


def test_decimals_keep_close_values_apart() -> None:
    assert formats.decimals_for([0.9912, 0.9915]) == 5
    assert formats.decimals_for([0.5, 1.5]) == 2
    assert formats.decimals_for([]) == 2


@given(st.text())
def test_cleaned_text_can_be_written_and_steers_no_terminal(text: str) -> None:
    cleaned = formats.plain(text)
    cleaned.encode()
    assert not [char for char in cleaned if ord(char) < 32 and char not in "\n\t"]
    assert "\x1b" not in cleaned
    assert "\u202e" not in cleaned


@given(st.floats(), st.integers(0, 6))
def test_every_float_can_be_shown(value: float, decimals: int) -> None:
    for text in (
        formats.number(value, decimals),
        formats.signed(value, decimals),
        formats.percent(value),
        formats.short(value),
        formats.size(abs(value)),
    ):
        assert text
        assert "-" not in text.replace("e-", "")
