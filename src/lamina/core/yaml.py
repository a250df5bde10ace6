"""YAML as people write it: 1.2 scalars, no surprises, no bombs, and errors with line and column.

PyYAML reads YAML 1.1, in which `1e-5` is a text and `no` is False. Here its parser gives the events
and we make the values: the core schema of YAML 1.2 for plain scalars, keys always as texts, a key
twice refused, tags refused but those of the core schema, one document. Aliases and `<<` work, but
what they expand to is counted. At most 1 MB, 64 levels, 20,000 values.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import yaml

from lamina.core.errors import RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_TEXT = 4_000_000
MAX_DIGITS = 400

_NULL = re.compile(r"(?:null|Null|NULL|~|)")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_INF = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CORE_TAG = "tag:yaml.org,2002:"

# What PyYAML says, and what mostly mends it.
_HINTS = {
    "while scanning an alias": "; put a text that begins with * in quotes",
    "while scanning an anchor": "; put a text that begins with & in quotes",
    "cannot start any token": "; put the text in quotes",
    "mapping values are not allowed": "; quote a text with a colon, or mend the indentation",
}

_Tagged = yaml.ScalarEvent | yaml.CollectionStartEvent


def load_yaml(source: Path | str | bytes, *, name: str | None = None) -> Any:
    """What a YAML file (a Path) or a YAML text (str, bytes) says; None for an empty one.

    Maps are dicts with text keys, the rest is list, str, int, float, bool and None. `name` stands
    for a text in errors.

    Raises:
        RecipeError: anything that is not one plain document, with line and column.
    """
    name = name or (str(source) if isinstance(source, Path) else "YAML text")
    if isinstance(source, Path):
        source = _read(source)
    text = source if isinstance(source, str) else _decode(source, name)
    return _Document(text, name).value()


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            kind = "is not a file" if path.exists() else "does not exist"
            raise RecipeError(f"{path} {kind}; a recipe is a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = (exc.strerror if isinstance(exc, OSError) else None) or exc
        raise RecipeError(f"cannot read {str(path)!r}: {reason}") from exc
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{path} has more than {MAX_BYTES:,} bytes; that is no recipe")
    return data


def _decode(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError(f"{name} is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        before = data[: exc.start]
        line = before.count(b"\n") + 1
        raise RecipeError(
            f"{name}, line {line}: not UTF-8, the byte at offset {exc.start} is"
            f" {data[exc.start]:#04x}; save the file as UTF-8"
        ) from exc


@dataclass(frozen=True, slots=True)
class _Node:
    """A value and what it would take to write it out with all its aliases."""

    value: Any
    nodes: int = 1
    text: int = 0
    height: int = 1


class _Document:
    """One pass over PyYAML's events, which it makes without recursion."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name
        self.anchors: dict[str, _Node | None] = {}  # None: still open

    def value(self) -> Any:
        if len(self.text) > MAX_BYTES:
            raise RecipeError(f"{self.name} has more than {MAX_BYTES:,} characters")
        self._check_characters()
        try:
            return self._only_document()
        except yaml.MarkedYAMLError as exc:
            self._fail_syntax(exc)
        except (yaml.YAMLError, ValueError, OverflowError) as exc:
            # Escapes beyond Unicode end in chr(), not in an error of PyYAML's own.
            raise RecipeError(f"{self.name} cannot be read as YAML: {exc}") from exc

    def _only_document(self) -> Any:
        events = iter(yaml.parse(self.text, Loader=yaml.SafeLoader))
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        node = self._node(next(events), events, depth=1)
        next(events)
        after = next(events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._fail(after.start_mark, "a second document begins here; a recipe is only one")
        return node.value

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], *, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        assert isinstance(event, yaml.NodeEvent), event
        anchor = event.anchor
        if anchor is not None:
            if anchor in self.anchors:
                self._fail(event.start_mark, f"the anchor `&{anchor}` stands twice; rename one")
            self.anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
            node = _Node(value, text=len(event.value))
        else:
            if depth > MAX_DEPTH:
                self._fail(event.start_mark, f"nested deeper than {MAX_DEPTH} levels")
            if isinstance(event, yaml.SequenceStartEvent):
                self._check_tag(event, "seq")
                node = self._sequence(event, events, depth)
            else:
                assert isinstance(event, yaml.MappingStartEvent), event
                self._check_tag(event, "map")
                node = self._mapping(event, events, depth)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent, depth: int) -> _Node:
        name = event.anchor
        if name not in self.anchors:
            hint = "; put a text that begins with * in quotes"
            self._fail(event.start_mark, f"the alias `*{name}` has no anchor `&{name}`{hint}")
        node = self.anchors[name]
        if node is None:
            self._fail(event.start_mark, f"`*{name}` stands inside `&{name}`: it has no end")
        if depth + node.height - 1 > MAX_DEPTH:
            self._fail(event.start_mark, f"aliases nest deeper than {MAX_DEPTH} levels")
        return node

    def _sequence(self, start: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        items: list[_Node] = []
        size = _Size(self, start)
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(self._node(event, events, depth=depth + 1))
            size.add(items[-1])
        return size.node([item.value for item in items])

    def _mapping(self, start: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        merged: dict[str, Any] = {}
        size = _Size(self, start)
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._key(event)
            assert isinstance(event, yaml.ScalarEvent)
            is_merge = key == "<<" and event.implicit[0]
            seen_as = "<< " if is_merge else key
            if seen_as in lines:
                told = f"the key `{key}` stands twice, first in line {lines[seen_as]}; keep one"
                self._fail(event.start_mark, told)
            lines[seen_as] = event.start_mark.line + 1
            node = self._node(next(events), events, depth=depth + 1)
            size.add(node, text=len(key))
            if is_merge:
                merged = self._merged(node.value, event)
            else:
                values[key] = node.value
        return size.node(values | {k: v for k, v in merged.items() if k not in values})

    def _key(self, event: yaml.Event) -> str:
        """A key as it is written: `0`, `no` and `1e-5` are texts there."""
        if not isinstance(event, yaml.ScalarEvent):
            self._fail(event.start_mark, "a key must be a plain text, not a list, map or alias")
        self._check_tag(event, "str")
        if not event.value and event.implicit[0]:
            self._fail(event.start_mark, "a key is missing before the colon")
        if event.anchor is not None:
            self._fail(event.start_mark, f"the anchor `&{event.anchor}` stands on a key")
        self._check_text(event)
        return event.value

    def _merged(self, value: Any, event: yaml.Event) -> dict[str, Any]:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            self._fail(event.start_mark, "`<<` takes a map or a list of maps")
        merged: dict[str, Any] = {}
        for part in parts:
            merged = part | merged  # the first one wins
        return merged

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        self._check_text(event)
        tag = event.tag
        if tag == "!":
            return event.value
        if tag is None:
            return self._resolve(event) if event.implicit[0] else event.value
        self._check_tag(event, "str", "int", "float", "bool", "null")
        kind = tag.removeprefix(_CORE_TAG)
        if kind == "str":
            return event.value
        value = self._resolve(event)
        if kind == "float" and type(value) is int:
            return float(value)
        if kind != {int: "int", float: "float", bool: "bool", type(None): "null"}.get(type(value)):
            self._fail(event.start_mark, f"`{_short(event.value)}` is not what `!!{kind}` says")
        return value

    def _resolve(self, event: yaml.ScalarEvent) -> Any:
        """The core schema of YAML 1.2 (section 10.3.2)."""
        text = event.value
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text[0] in "tT"
        if _INF.fullmatch(text):
            return -math.inf if text[0] == "-" else math.inf
        if _NAN.fullmatch(text):
            return math.nan
        is_int = _INT.fullmatch(text)
        if not is_int and not _FLOAT.fullmatch(text):
            return text
        if len(text) > MAX_DIGITS:
            self._fail(event.start_mark, f"a number of {len(text):,} characters")
        if is_int:
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text, base)
        number = float(text)
        if math.isinf(number):
            self._fail(event.start_mark, f"`{_short(text)}` is too large; write .inf for infinity")
        return number

    def _check_tag(self, event: _Tagged, *allowed: str) -> None:
        tag = event.tag
        if tag in {None, "!"} or tag in {_CORE_TAG + name for name in allowed}:
            return
        shown = "!!" + tag.removeprefix(_CORE_TAG) if tag.startswith(_CORE_TAG) else tag
        what = "a recipe holds plain values only, no objects; remove the tag"
        self._fail(event.start_mark, f"the tag `{_short(shown)}`: {what}")

    def _check_text(self, event: yaml.ScalarEvent) -> None:
        if "\0" in event.value:
            self._fail(event.start_mark, "a text with a NUL character")
        if any("\ud800" <= character <= "\udfff" for character in event.value):
            self._fail(event.start_mark, "a text with half a surrogate pair, which is no character")

    def _check_characters(self) -> None:
        found = _UNPRINTABLE.search(self.text)
        if found:
            before = self.text[: found.start()]
            line = before.count("\n") + 1
            column = found.start() - before.rfind("\n")
            what = "a NUL" if found[0] == "\0" else f"the control character U+{ord(found[0]):04X}"
            raise RecipeError(
                f"{self.name}, line {line}, column {column}: {what}; a recipe is plain UTF-8 text"
            )

    def _fail(self, mark: yaml.Mark, problem: str) -> Never:
        raise RecipeError(f"{self.name}, line {mark.line + 1}, column {mark.column + 1}: {problem}")

    def _fail_syntax(self, exc: yaml.MarkedYAMLError) -> Never:
        mark = exc.problem_mark or exc.context_mark
        problem = " ".join(part for part in (exc.context, exc.problem) if part)
        if mark is None:
            raise RecipeError(f"{self.name} cannot be read as YAML: {problem}") from exc
        lines = self.text.splitlines()
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "\t" in line[: len(line) - len(line.lstrip())]:
            self._fail(mark, "a tab in the indentation; YAML wants spaces")
        if line[mark.column : mark.column + 1] == "\t":
            self._fail(mark, "a tab between two words; write spaces")
        hint = next((hint for part, hint in _HINTS.items() if part in problem), "")
        shown = f"\n    {_short(line.strip())}" if line.strip() else ""
        self._fail(mark, f"cannot be read as YAML: {problem}{hint}{shown}")


class _Size:
    """Adds up what a list or map would take when written out, and stops at the caps."""

    def __init__(self, document: _Document, start: yaml.Event) -> None:
        self.document, self.start = document, start
        self.nodes, self.text, self.height = 1, 0, 0

    def add(self, node: _Node, *, text: int = 0) -> None:
        self.nodes += node.nodes
        self.text += node.text + text
        self.height = max(self.height, node.height)
        if self.nodes > MAX_NODES or self.text > MAX_TEXT:
            self.document._fail(
                self.start.start_mark,
                f"this expands to more than {MAX_NODES:,} values or {MAX_TEXT:,} characters; use"
                " fewer aliases",
            )

    def node(self, value: Any) -> _Node:
        return _Node(value, self.nodes, self.text, self.height + 1)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


class _Dumper(yaml.SafeDumper):
    """Quotes every text that a YAML 1.1 or a 1.2 reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Double quotes, with escapes, for what would look like a line end or like nothing."""
    style = None if all(c.isprintable() or c == "\n" for c in text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _pattern in (_INT, _FLOAT, _INF, _NAN):
    _Dumper.add_implicit_resolver("!number", re.compile(rf"(?:{_pattern.pattern})$"), None)


def dump_yaml(value: Any) -> str:
    """Block-style YAML of JSON-like data, tuples as lists; `load_yaml` reads the same back."""
    return yaml.dump(
        _plain(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value), list(value)
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    assert value is None or type(value) in {str, int, float, bool}, type(value)
    return value
