"""Numbers as a person reads them: digits that mean something, real minus signs, units that fit."""

import math
import re
import unicodedata
from collections.abc import Iterable

MINUS = "\u2212"
SPACE = "\u00a0"
"""Between a number and its unit: no line break there."""
_SIZES = ("bytes", "kB", "MB", "GB", "TB", "PB")


def decimals_for(values: Iterable[float], *, least: int = 2, most: int = 5) -> int:
    """How many decimals keep these values apart: about fifty steps over their range."""
    finite = [value for value in values if math.isfinite(value)]
    spread = max(finite) - min(finite) if finite else 0.0
    if spread <= 0.0:
        return least
    return max(least, min(most, 1 - math.floor(math.log10(spread / 5.0))))


def number(value: float | None, decimals: int = 3) -> str:
    """A fixed number of decimals, a dash where there is no value."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else MINUS + "∞"
    text = f"{value:.{decimals}f}"
    if not text.strip("-0."):
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def short(value: float | None) -> str:
    """Up to three significant digits and no idle zeros: settings such as 0.5, 1 or 0.125."""
    if value is None or not math.isfinite(value):
        return number(value)
    if value != 0.0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", MINUS)
    return number(float(f"{value:.3g}"), 6).rstrip("0").rstrip(".")


def signed(value: float | None, decimals: int = 3) -> str:
    """As `number`, with a plus sign where the value is above zero."""
    text = number(value, decimals)
    return "+" + text if value is not None and value > 0 and text.strip("0.") else text


def percent(share: float | None) -> str:
    """A share as a percentage, one decimal below ten."""
    if share is None or not math.isfinite(share):
        return number(share)
    value = 100.0 * share
    if 0.0 < value < 0.1:
        return f"<0.1{SPACE}%"
    decimals = 1 if abs(value) < 10.0 and round(value, 1) not in (0.0, 10.0) else 0
    return f"{number(value, decimals)}{SPACE}%"


def size(count: float | None) -> str:
    """Bytes in decimal units."""
    if count is None or not math.isfinite(count):
        return number(count)
    value, unit = float(count), 0
    while abs(value) >= 999.5 and unit < len(_SIZES) - 1:
        value, unit = value / 1000.0, unit + 1
    return f"{value:.3g}{SPACE}{_SIZES[unit]}" if unit else f"{value:.0f}{SPACE}{_SIZES[0]}"


def count(value: float | None) -> str:
    """A whole number with thin spaces between the thousands."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:,.0f}".replace(",", "\u202f").replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and seconds, or hours and minutes."""
    if seconds is None or not math.isfinite(seconds):
        return number(seconds)
    if seconds < 120.0:
        return f"{seconds:.{2 if seconds < 9.995 else 0}f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}{SPACE}min {rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60:02d}{SPACE}min"


def listing(words: Iterable[str], *, most: int = 8) -> str:
    """`a, b and c`; a long list is cut and says how many more."""
    words = list(words)
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def runs(numbers: Iterable[int]) -> str:
    """Whole numbers with neighbours joined: `0, 4 to 7 and 9`."""
    parts: list[list[int]] = []
    for value in sorted(set(numbers)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    pieces: list[str] = []
    for first, last in parts:
        if last - first > 1:
            pieces.append(f"{first} to {last}")
        else:
            pieces += [str(value) for value in range(first, last + 1)]
    return listing(pieces)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts `layer 9` before `layer 10`."""
    return [
        (int(part), "") if is_block(part) else (-1, part)
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def is_block(layer: str) -> bool:
    """Whether a layer is a whole block, named by its number alone."""
    return layer.isascii() and layer.isdigit() and len(layer) <= 9


def plain(text: str) -> str:
    """Text from a file with what could disturb a page or a terminal written out, as `\\u001b`.

    Control characters, invisible direction marks and half surrogates go; line breaks and tabs stay.
    """
    return "".join(
        char
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs")
        else f"\\u{ord(char):04x}"
        for char in text
    )
