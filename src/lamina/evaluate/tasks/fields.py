"""Values out of a row, each with the reason why it is not one."""

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.data.formats import json_name
from lamina.evaluate.nouns import Row

_SHOWN = 12


class Unfit(Exception):
    """Why a row is not one of the task's; told with its place by the caller."""


class OutOfRange(Unfit):
    """The row's answer is none of its choices."""


def present(row: Row, *names: str) -> str:
    """The first of these names that the row has."""
    if not isinstance(row, Mapping):
        raise Unfit(f"a JSON object is needed, this is {json_name(row)}")
    found = next((name for name in names if name in row), None)
    if found is None:
        keys = [str(key)[:40] for key in row]
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        seen = ", ".join(keys[:_SHOWN]) + more
        raise Unfit(
            f"no field {' or '.join(f'`{name}`' for name in names)}; seen: {seen or 'none'}"
        )
    return found


def text_of(row: Row, *names: str) -> str:
    """The text under the first of these names that the row has."""
    name = present(row, *names)
    return as_text(row[name], name)


def as_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Unfit(f"`{name}` must be a text, this is {json_name(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise Unfit(f"`{name}` has half a character ({half}) at {error.start}") from None
    return value


def texts_of(row: Row, name: str) -> tuple[str, ...]:
    """The list of texts under this name: at least one."""
    return as_texts(row[present(row, name)], name)


def as_texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise Unfit(f"`{name}` must be a list of texts, this is {json_name(value)}")
    if not value:
        raise Unfit(f"`{name}` is an empty list")
    return tuple(as_text(one, name) for one in value)


def index_of(row: Row, name: str, count: int, *, first: int = 0) -> int:
    """The index under this name, a number or a text of one, as an index from 0 below `count`."""
    present(row, name)
    value = row[name]
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        shown = f'"{value[:40]}"' if isinstance(value, str) else json_name(value)
        shown = f"{value:g}" if isinstance(value, float) else shown
        raise Unfit(f"`{name}` must be a number from {first} to {first + count - 1}, not {shown}")
    if not first <= value < first + count:
        raise OutOfRange(f"`{name}` is {value}, but the choices are {first} to {first + count - 1}")
    return value - first


def label_of(row: Row, name: str, labels: Sequence[str]) -> int:
    """Where the label under this name stands among the labels of the choices."""
    label = text_of(row, name).strip()
    if label not in labels:
        raise OutOfRange(f"`{name}` is {label[:40]!r}, but the choices are {', '.join(labels)}")
    return list(labels).index(label)
