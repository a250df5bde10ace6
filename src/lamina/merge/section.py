"""One mapping of a YAML file, read key by key: every reader notes what is wrong and gives None or
the default.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.core.errors import did_you_mean
from lamina.merge.values import Problems, Value, read_number, read_value, size_in_bytes

_YES = frozenset({"true", "yes", "on"})
_NO = frozenset({"false", "no", "off"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping, where it stands in the file (`models[1].parameters.`, empty at the top), and the
    list of problems.
    """

    given: Mapping[str, object]
    at: str
    problems: Problems

    @classmethod
    def of(cls, raw: object, at: str, problems: Problems) -> "Section":
        """The section that a value holds; nothing and anything else give an empty one."""
        if raw is not None and not isinstance(raw, Mapping):
            problems.add(at.rstrip("."), f"needs keys below it, found a {type(raw).__name__}")
        held = raw if isinstance(raw, Mapping) else {}
        return cls({str(key): value for key, value in held.items()}, at, problems)

    def __contains__(self, key: str) -> bool:
        return key in self.given

    def below(self, key: str) -> "Section":
        """The section under one key."""
        return Section.of(self.given.get(key), f"{self.at}{key}.", self.problems)

    def wrong(self, key: str, text: str) -> None:
        """Note what is wrong with one key."""
        self.problems.add(self.at + key, text)

    def check_known(self, known: Sequence[str]) -> None:
        """Note every key that is not known, with the nearest one."""
        for key in self.given:
            if key not in known:
                self.wrong(key, f"unknown key; {did_you_mean(key, known)}")

    def text(self, key: str, what: str) -> str | None:
        """A non-empty text, such as a path."""
        raw = self.given.get(key)
        if isinstance(raw, str) and raw.strip() and "\0" not in raw:
            return raw
        if key in self.given:
            hint = f"; write it in quotes: '{raw}'" if isinstance(raw, bool | int | float) else ""
            self.wrong(
                key, f"needs {what}, found {'nothing' if raw in (None, '') else f'`{raw}`'}{hint}"
            )
        return None

    def name(self, key: str) -> str | None:
        """A text that can name a folder anywhere."""
        raw = self.text(key, "a name")
        if raw is not None and not _NAME.fullmatch(raw):
            self.wrong(
                key,
                f"`{raw}` cannot name a folder; use letters, digits, then also `._=+-`",
            )
            return None
        return raw

    def choice(self, key: str, known: Sequence[str]) -> str | None:
        """One of the known words."""
        raw = self.given.get(key)
        if key in self.given and raw not in known:
            self.wrong(key, f"unknown value `{raw}`; {did_you_mean(str(raw), known)}")
        return raw if isinstance(raw, str) and raw in known else None

    def flag(self, key: str, default: bool) -> bool:
        """true or false; also the words that mergekit's YAML takes for these."""
        raw = self.given.get(key, default)
        if isinstance(raw, bool):
            return raw
        word = str(raw).lower()
        if isinstance(raw, list | Mapping):
            self.wrong(
                key,
                "is a list or has filters, which is mergekit's only; give true or false",
            )
        elif word not in _YES | _NO and raw not in (0, 1):
            self.wrong(key, f"needs true or false, found `{raw}`")
        return word in _YES or raw == 1

    def number(self, key: str, default: float) -> float:
        """One finite number for all tensors."""
        if key not in self.given:
            return default
        if isinstance(self.given[key], list | Mapping):
            self.wrong(
                key,
                "is a list or has filters, which is mergekit's only; put it into the weights",
            )
            return default
        number = read_number(self.given[key], self.at + key, self.problems)
        return default if number is None else number

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number in a range."""
        raw = self.given.get(key, default)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            self.wrong(key, f"needs a whole number from {low} to {high}, found `{raw}`")
            return default
        return raw

    def value(self, key: str) -> Value | None:
        """A number, a list over the blocks, or filters."""
        return (
            read_value(self.given[key], self.at + key, self.problems) if key in self.given else None
        )

    def size(self, key: str) -> str | None:
        """A number of bytes such as `2GB`."""
        raw = self.given.get(key)
        if raw is None:
            return None
        if isinstance(raw, bool) or not isinstance(raw, str | int) or not size_in_bytes(raw):
            self.wrong(key, f"needs a size such as `2GB` or `500MiB`, found `{raw}`")
            return None
        return str(raw)
