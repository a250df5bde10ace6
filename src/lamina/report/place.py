"""A JSON value that knows its file and key, so that an error can say where it stands."""

from dataclasses import dataclass
from pathlib import Path

from lamina.core.errors import DataError
from lamina.report.formats import plain


@dataclass(frozen=True, slots=True)
class Place:
    """A value together with its file and key, so that an error can say where it stands."""

    value: object
    file: Path
    key: str = ""

    def problem(self, need: str) -> DataError:
        seen = (
            f"{self.value!r:.60}" if not isinstance(self.value, dict | list) else "something else"
        )
        return DataError(
            f"{self.file}: `{self.key or 'the file'}` should be {need}, but it is {seen}.\n"
            "The report reads files that lamina wrote; write the run again, or mend that file."
        )

    def items(self) -> list[tuple[str, "Place"]]:
        if self.value is None:
            return []
        if not isinstance(self.value, dict):
            raise self.problem("an object")
        return [
            (plain(str(key)), Place(value, self.file, f"{self.key}.{plain(str(key))}".lstrip(".")))
            for key, value in self.value.items()
        ]

    def get(self, key: str) -> "Place":
        return dict(self.items()).get(key, Place(None, self.file, f"{self.key}.{key}".lstrip(".")))

    def listed(self) -> list["Place"]:
        if self.value is None:
            return []
        if not isinstance(self.value, list | tuple):
            raise self.problem("a list")
        return [
            Place(value, self.file, f"{self.key}[{place}]")
            for place, value in enumerate(self.value)
        ]

    def number(self) -> float | None:
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.problem("a number")
        return float(self.value)

    def text(self) -> str:
        if self.value is None:
            return ""
        if isinstance(self.value, dict | list):
            raise self.problem("a text")
        return plain(str(self.value))

    def numbers(self) -> dict[str, float]:
        read = {key: place.number() for key, place in self.items()}
        return {key: value for key, value in read.items() if value is not None}

    def cleaned(self) -> dict[str, object]:
        return {key: clean(place.value) for key, place in self.items()}


def clean(value: object) -> object:
    """The same JSON value with every text in it cleaned."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(str(key)): clean(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return value
