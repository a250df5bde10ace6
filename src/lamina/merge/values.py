"""One setting of a merge that may differ from tensor to tensor: a number, a list over the blocks,
or filters.

Reads what mergekit's YAML allows for `weight`, `density` and `t`, and says which number one tensor
gets. Two things differ from mergekit: a filter matches whole components of a tensor's name
(`layers.1` is block 1, not also 10 to 19), and what is not a finite number is refused. Pure Python,
some microseconds a tensor.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lamina.core.errors import RecipeError, did_you_mean, nearest
from lamina.core.layers import LayerMap

LARGEST = 3.4028234e38
"""Of float32, in which all arithmetic is done."""
SIZE_UNITS: Mapping[str, int] = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """A number, or a list spread over the blocks, for the tensors that a filter names."""

    value: float | tuple[float, ...]
    filter: str | None = None
    """Components of tensor names, such as `self_attn` or `layers.3`; None means every tensor."""

    @property
    def numbers(self) -> tuple[float, ...]:
        """All numbers in it."""
        return self.value if isinstance(self.value, tuple) else (self.value,)


Value = tuple[Setting, ...]
"""Settings in order of precedence: the first one whose filter fits a tensor counts."""


@dataclass(slots=True)
class Problems:
    """Everything that is wrong with one recipe, so that it is told at once, and what is only worth
    a warning.
    """

    found: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, path: str, text: str) -> None:
        """Note what is wrong at one key."""
        self.found.append(f"{path}: {text}" if path else text)

    def warn(self, path: str, text: str) -> None:
        """Note what the user should know but may have meant."""
        self.warnings.append(f"{path}: {text}")

    def raise_if_any(self, source: str) -> None:
        """End here when anything was wrong.

        Raises:
            RecipeError: with all problems in one message.
        """
        if self.found:
            count = "1 problem" if len(self.found) == 1 else f"{len(self.found)} problems"
            raise RecipeError(
                f"{count} in {source}:" + "".join(f"\n  {line}" for line in self.found)
            )


def constant(number: float) -> Value:
    """The same number for every tensor."""
    return (Setting(number),)


def negated(value: Value) -> Value:
    """Every number with the other sign; zero stays a plain zero."""
    return tuple(
        Setting(
            tuple(0.0 - n for n in s.value) if isinstance(s.value, tuple) else 0.0 - s.value,
            s.filter,
        )
        for s in value
    )


def numbers_in(value: Value) -> Iterator[float]:
    """All numbers of a value, filtered or not."""
    for setting in value:
        yield from setting.numbers


def is_constant(value: Value) -> bool:
    """Whether every tensor gets the first number."""
    return bool(value) and value[0].filter is None and not isinstance(value[0].value, tuple)


# Reading what the YAML holds


def read_number(raw: object, path: str, problems: Problems) -> float | None:
    """A finite number; a number in quotes counts, true and false do not."""
    if isinstance(raw, str):
        try:
            raw = float(raw)
        except ValueError:
            problems.add(path, f"needs a number, found the text `{raw}`")
            return None
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        problems.add(path, f"needs a number, found {_told(raw)}")
        return None
    try:
        number = float(raw)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        problems.add(
            path, f"is {number:g}; a merge with it would be NaN or infinite. Give a finite number"
        )
        return None
    return number


def read_value(raw: object, path: str, problems: Problems) -> Value | None:
    """A number, a list of numbers over the blocks, or `{filter, value}` (one or a list of them)."""
    entries = raw if isinstance(raw, list) else [raw]
    if not entries:
        problems.add(
            path, "is an empty list; give a number, or numbers from the first block to the last"
        )
        return None
    if not any(isinstance(entry, Mapping) for entry in entries):
        value = _read_plain(raw, path, problems)
        return None if value is None else (Setting(value),)
    settings: list[Setting] = []
    for place, entry in enumerate(entries):
        where = f"{path}[{place}]" if isinstance(raw, list) else path
        if not isinstance(entry, Mapping):
            problems.add(
                where,
                "numbers and `filter:` entries are mixed in one list; write `- value: ...` here",
            )
            continue
        if settings and settings[-1].filter is None:
            problems.warn(
                where, "is never reached: the entry before it has no filter and fits every tensor"
            )
        setting = _read_setting(entry, where, problems)
        if setting is not None:
            settings.append(setting)
    return tuple(settings) or None


def _read_setting(entry: Mapping[str, object], path: str, problems: Problems) -> Setting | None:
    for key in entry:
        if key not in ("filter", "value"):
            problems.add(
                f"{path}.{key}", f"unknown key; {did_you_mean(str(key), ('filter', 'value'))}"
            )
    if "value" not in entry:
        problems.add(path, "has no `value`")
        return None
    value = _read_plain(entry["value"], f"{path}.value", problems)
    name = entry.get("filter")
    if name is not None and not isinstance(name, str | int):
        problems.add(
            f"{path}.filter", f"needs a part of tensor names such as `mlp`, found {_told(name)}"
        )
        return None
    text = None if name is None or name == "*" else str(name).strip(".")
    if text is not None and not all(text.split(".")):
        problems.add(
            f"{path}.filter", f"`{name}` has an empty part; write `self_attn` or `layers.3.mlp`"
        )
        return None
    return None if value is None else Setting(value, text)


def _read_plain(raw: object, path: str, problems: Problems) -> float | tuple[float, ...] | None:
    if not isinstance(raw, list):
        return read_number(raw, path, problems)
    if not raw:
        problems.add(
            path, "is an empty list; give a number, or numbers from the first block to the last"
        )
        return None
    numbers = [read_number(entry, f"{path}[{place}]", problems) for place, entry in enumerate(raw)]
    return None if None in numbers else tuple(n for n in numbers if n is not None)


def write_value(value: Value) -> object:
    """What the YAML of a value holds: `read_value` gives the same value back."""
    plain = [list(s.value) if isinstance(s.value, tuple) else s.value for s in value]
    if len(value) == 1 and value[0].filter is None:
        return plain[0]
    return [
        {"value": number} if s.filter is None else {"filter": s.filter, "value": number}
        for s, number in zip(value, plain, strict=True)
    ]


def size_in_bytes(text: str | int) -> int | None:
    """The bytes of `2GB`, `500 MiB` or `1000`; None when it is not a size."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?(?:I?B)?)\s*", str(text).upper())
    if found is None or found[2] not in SIZE_UNITS:
        return None
    return int(float(found[1]) * SIZE_UNITS[found[2]])


# Asking what a tensor gets


def resolve(value: Value, tensor_name: str, layers: LayerMap) -> float:
    """The number one tensor gets.

    Lists are interpolated over the blocks as mergekit does it: block i of n stands at i / (n - 1)
    of the list. Tensors outside the blocks (embeddings, the last norm, the head) get the first
    number of a list.

    Raises:
        RecipeError: no setting fits this tensor.
    """
    setting = setting_for(value, tensor_name)
    if setting is None:
        raise RecipeError(
            f"no setting fits `{tensor_name}`: every entry has a filter. Add a last entry"
            " `- value: ...` without one."
        )
    if not isinstance(setting.value, tuple):
        return setting.value
    block = layers.of(tensor_name).block
    if block is None:
        return setting.value[0]
    return interpolate(setting.value, block, layers.num_blocks)


def setting_for(value: Value, tensor_name: str) -> Setting | None:
    """The first setting whose filter fits the tensor."""
    return next((s for s in value if s.filter is None or matches(s.filter, tensor_name)), None)


def interpolate(numbers: tuple[float, ...], block: int, num_blocks: int) -> float:
    """The number of one block when a list is spread evenly from the first block to the last."""
    share = block / (num_blocks - 1) if num_blocks > 1 else 1.0
    place = share * (len(numbers) - 1)
    low = int(place)
    high = min(len(numbers) - 1, low + 1)
    return (1 - (place - low)) * numbers[low] + (place - low) * numbers[high]


def matches(wanted: str, tensor_name: str) -> bool:
    """Whether the components of a filter stand next to each other in a tensor's name."""
    parts, name = wanted.split("."), tensor_name.split(".")
    return any(name[at : at + len(parts)] == parts for at in range(len(name) - len(parts) + 1))


def narrower(filters: Iterable[str], tensor_names: Iterable[str]) -> list[str]:
    """A sentence for each filter that fits more tensors in mergekit, which takes parts of words."""
    names = list(tensor_names)
    counts = {
        wanted: (
            sum(matches(wanted, name) for name in names),
            sum(wanted in name for name in names),
        )
        for wanted in filters
    }
    return [
        f"filter `{wanted}` fits {here} tensors, in mergekit {there}: it matches whole parts of a "
        "name here, there also parts of words"
        for wanted, (here, there) in counts.items()
        if 0 < here < there
    ]


def unmatched(filters: Iterable[str], tensor_names: Iterable[str]) -> list[str]:
    """A sentence for each filter that fits no tensor, with the nearest name that would."""
    names = sorted(tensor_names)
    sentences: list[str] = []
    for wanted in dict.fromkeys(filters):
        if any(matches(wanted, name) for name in names):
            continue
        length = wanted.count(".") + 1
        pieces = {
            ".".join(parts[at : at + length])
            for parts in (name.split(".") for name in names)
            for at in range(len(parts) - length + 1)
        }
        known = sorted((p for p in pieces if not p.isdigit()), key=lambda p: (len(p), p))
        close = nearest(wanted, known[:2000])
        hint = f"did you mean `{close}`?" if close else f"known: {', '.join(known[:12])}"
        whole = " A filter matches whole parts of a name here, unlike mergekit's."
        told = whole if any(wanted in name for name in names) else ""
        sentences.append(f"filter `{wanted}` fits no tensor; {hint}{told}")
    return sentences


def _told(raw: object) -> str:
    if raw is None:
        return "nothing"
    return f"`{raw}`" if isinstance(raw, bool | int | float) else f"a {type(raw).__name__}"
