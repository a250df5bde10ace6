"""A JSON value that is read without ever failing: what is wrong is noted down, and left out."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from lamina.core.errors import DataError
from lamina.core.manifest import read_json
from lamina.report.formats import plain
from lamina.report.place import clean

MOST_LINES = 100_000
_LONGEST = 60
_LARGEST = 1e100
"""No loss, count or size comes near; sums and pictures of larger ones overflow."""


@dataclass(frozen=True, slots=True)
class Soft:
    """A value with its file and key; all that is wrong below it goes to one list of problems."""

    value: object
    file: str
    problems: list[str] = field(default_factory=list)
    key: str = ""

    def wrong(self, need: str) -> None:
        seen = "something else"
        if isinstance(self.value, str | int | float | bool):
            seen = plain(f"{_brief(self.value)!r}")
        self.tell(f"`{self.key or 'the file'}` should be {need}, but it is {seen}; it is left out")

    def tell(self, words: str) -> None:
        """Note a problem of this file, once."""
        told = f"{self.file}: {words}."
        if told not in self.problems:
            self.problems.append(told)

    def at(self, value: object, key: str) -> "Soft":
        return Soft(value, self.file, self.problems, f"{self.key}.{key}".lstrip("."))

    def items(self) -> list[tuple[str, "Soft"]]:
        if self.value is None:
            return []
        if not isinstance(self.value, dict):
            self.wrong("an object")
            return []
        return [(plain(str(key)), self.at(one, plain(str(key)))) for key, one in self.value.items()]

    def get(self, key: str) -> "Soft":
        if not isinstance(self.value, dict):
            if self.value is not None:
                self.wrong("an object")
            return self.at(None, key)
        return self.at(self.value.get(key), key)

    def listed(self) -> list["Soft"]:
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            self.wrong("a list")
            return []
        return [
            Soft(one, self.file, self.problems, f"{self.key}[{place}]")
            for place, one in enumerate(self.value)
        ]

    def number(self) -> float | None:
        """A finite number; None where there is none, which is no problem if it is `null`."""
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.wrong("a number")
            return None
        if _LARGEST < abs(self.value) < math.inf:
            self.wrong("a number of a likely size")
            return None
        return float(self.value) if math.isfinite(self.value) else None

    def text(self) -> str:
        if self.value is None:
            return ""
        if isinstance(self.value, dict | list):
            self.wrong("a text")
            return ""
        return plain(str(_brief(self.value) if isinstance(self.value, int) else self.value))

    def texts(self) -> tuple[str, ...]:
        return tuple(text for one in self.listed() if (text := one.text()))

    def numbers(self) -> dict[str, float]:
        """Finite numbers by key."""
        read = {key: one.number() for key, one in self.items()}
        return {key: value for key, value in read.items() if value is not None}

    def cleaned(self) -> dict[str, object]:
        """The object with every text cleaned, for recipes and results."""
        return {key: one.cleaned_value() for key, one in self.items()}

    def cleaned_value(self) -> object:
        return _tame(clean(self.value))


def _brief(value: str | int | float | bool) -> str | int | float | bool:
    if isinstance(value, str):
        return value[:_LONGEST] + ("…" if len(value) > _LONGEST else "")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return "a number with more than 300 digits"
    return value


def soft_json(path: Path, problems: list[str], *, name: str = "") -> Soft:
    """A JSON file that may be missing (value None) or damaged (told)."""
    name = name or path.name
    if not path.is_file():
        return Soft(None, name, problems)
    try:
        return Soft(read_json(path), name, problems)
    except DataError as error:
        why = plain(str(error)).replace(str(path), "it").split("\n")[0].removesuffix(".")
        problems.append(f"{name} is left out: {why}.")
        return Soft(None, name, problems)


def soft_lines(path: Path, problems: list[str]) -> list[Soft]:
    """The objects of a JSONL file; a line that cannot be read is told and left out."""
    if not path.is_file():
        return []
    try:
        lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    except OSError as error:
        problems.append(f"{path.name} is left out: {error.strerror or error}.")
        return []
    found: list[Soft] = []
    bad: list[int] = []
    for place, line in enumerate(lines[:MOST_LINES], start=1):
        if not line.strip():
            continue
        value = json_line(line)
        if isinstance(value, dict):
            found.append(Soft(value, f"{path.name}, line {place}", problems))
        else:
            bad.append(place)
    if bad:
        which = ", ".join(str(place) for place in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        many = "lines" if len(bad) > 1 else "line"
        problems.append(
            f"{path.name}: {many} {which}{more} cannot be read and "
            f"{'are' if len(bad) > 1 else 'is'} left out."
        )
    return found


def json_line(line: str) -> object:
    """What a line holds; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _tame(value: object) -> object:
    """The same value with whole numbers that no float can hold written out as words."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _brief(value)
    if isinstance(value, dict):
        return {key: _tame(inner) for key, inner in value.items()}
    return [_tame(inner) for inner in value] if isinstance(value, list) else value
