"""A raw row of any known type becomes a `Record`: turns of a conversation, or running text.

* messages: `messages` is a list of `role`, `content`.
* sharegpt: `conversations` is a list of `from`, `value` (or `role`, `content`); `system` if any.
* alpaca: `instruction`, `output`; `input`, `system` and `history` (a list of pairs) if any.
* prompt_completion: `prompt`, `completion`, both texts or both lists of messages; `system` if any.
* text: `text`, all of which is trained on.

An `input` follows its instruction on a new line. `fields` renames: our name -> the row's, with dots
for what lies deeper. Other fields of a row are left alone. An empty completion is no error here:
the encoder counts it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamina.core.errors import DataError, did_you_mean
from lamina.data.recipe import FIELDS, REQUIRED, RowType

ROLES: dict[str, str] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
    "function_response": "tool",
}
"""What the roles of other formats are called here."""

SHOWN = 5
"""How many rows a message names; it counts the rest."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation says."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row, whatever its type was. Exactly one of `turns` and `text` is there."""

    turns: tuple[Turn, ...] | None
    text: str | None
    place: str
    """`file.jsonl:17`: the line of a .jsonl or .txt file, else the row, both from 1."""

    @property
    def whole(self) -> str:
        """All that stands in it, the contents of its turns with a line end between them."""
        if self.turns is None:
            return self.text or ""
        return "\n".join(turn.content for turn in self.turns)

    @property
    def says_something(self) -> bool:
        """Whether there is anything to train on: running text, or an assistant turn with text."""
        if self.turns is None:
            return bool((self.text or "").strip())
        return any(turn.role == "assistant" and turn.content.strip() for turn in self.turns)


class Unfit(Exception):
    """Why one row cannot be read; told with its place by the caller."""


def to_records(
    rows: Sequence[tuple[str, Any]],
    kind: RowType = "auto",
    *,
    fields: Mapping[str, str],
    source: str,
) -> tuple[str, list[Record]]:
    """The type of a source's rows and its records, in order. `rows` are (place, row) pairs.

    With `auto` the first row says the type, and all others must have it.

    Raises:
        DataError: rows that do not fit, by place; all of one source in one message.
    """
    if not rows:
        return kind, []
    problems: list[str] = []
    records: list[Record] = []
    found = _kind_of(rows[0][1], fields) if kind == "auto" else kind
    if found is None:
        raise DataError(_no_type(source, rows[0], fields))
    for place, row in rows:
        try:
            records.append(to_record(row, found, fields=fields, place=place))
        except Unfit as unfit:
            problems.append(f"{place}: {_mixed(row, found, kind, fields) or unfit}")
    if problems:
        raise DataError(told(source, f"not of type `{found}`", problems, len(rows)))
    return found, records


def to_record(row: Any, kind: str, *, fields: Mapping[str, str], place: str) -> Record:
    """One row of a known type (not `auto`) as a record.

    Raises:
        Unfit: a field is missing, not a text, or has a role that nobody knows.
    """
    if not isinstance(row, Mapping):
        raise Unfit(f"an object with fields is needed, this is {json_name(row)}")
    missing = [_shown_field(name, fields) for name in REQUIRED[kind]
               if _field(row, name, fields) is _MISSING]  # fmt: skip
    if missing:
        raise Unfit(f"{', '.join(missing)} missing; fields seen: {_seen(row)}")
    values = {name: _field(row, name, fields) for name in FIELDS[kind]}
    values = {name: value for name, value in values.items() if value is not _MISSING}
    if kind == "text":
        return Record(None, _text(values["text"], _shown_field("text", fields)), place)
    return Record(tuple(_turns(kind, values, fields)), None, place)


def _turns(kind: str, values: Mapping[str, Any], fields: Mapping[str, str]) -> list[Turn]:
    def text(name: str) -> str:
        return _text(values[name], _shown_field(name, fields))

    turns: list[Turn] = []
    if values.get("system") not in (None, ""):
        turns.append(Turn("system", text("system")))
    match kind:
        case "messages":
            turns += _said(values["messages"], _shown_field("messages", fields))
        case "sharegpt":
            turns += _said(values["conversations"], _shown_field("conversations", fields))
        case "alpaca":
            turns += _history(values.get("history"), _shown_field("history", fields))
            asked = [text("instruction")]
            if values.get("input") not in (None, ""):
                asked.append(text("input"))
            turns += [Turn("user", "\n".join(asked)), Turn("assistant", text("output"))]
        case "prompt_completion" if isinstance(values["prompt"], list):
            for name in ("prompt", "completion"):
                turns += _said(values[name], _shown_field(name, fields))
        case "prompt_completion":
            turns += [Turn("user", text("prompt")), Turn("assistant", text("completion"))]
        case _:
            raise AssertionError(f"no such type: {kind}")
    return turns


def _said(value: Any, name: str) -> list[Turn]:
    """The turns of a list of `role`, `content` or `from`, `value`."""
    if not isinstance(value, list):
        raise Unfit(f"{name} must be a list of messages, this is {json_name(value)}")
    if not value:
        raise Unfit(f"{name} is an empty list")
    return [_turn(message, f"{name}[{number}]") for number, message in enumerate(value)]


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping):
        raise Unfit(f"{name} must have `role` and `content`, this is {json_name(message)}")
    keys = (("role", "content"), ("from", "value"))
    role_key, content_key = next(
        (pair for pair in keys if message.get(pair[0]) is not None), keys[0]
    )
    if role_key not in message:
        raise Unfit(f"{name} has no `role` (or `from`); fields seen: {_seen(message)}")
    if content_key not in message:
        raise Unfit(f"{name} has no `{content_key}`; fields seen: {_seen(message)}")
    said = _text(message[role_key], f"{name}.{role_key}")
    role = ROLES.get(said.strip().lower())
    if role is None:
        raise Unfit(f"{name} has the role {_short(said)!r}, which is unknown; "
                    f"{did_you_mean(said, ROLES)}")  # fmt: skip
    return Turn(role, _text(message[content_key], f"{name}.{content_key}"))


def _history(value: Any, name: str) -> list[Turn]:
    """The earlier turns of an alpaca row: pairs of what was asked and answered."""
    if value is None:
        return []
    if not isinstance(value, list) or any(
        not isinstance(pair, list) or len(pair) != 2 for pair in value
    ):
        raise Unfit(f"{name} must be a list of [asked, answered] pairs")
    return [
        Turn(role, _text(content, f"{name}[{number}]"))
        for number, pair in enumerate(value)
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{name} must be a text, this is {json_name(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unfit(
            f"{name} has half a character (\\u{ord(value[error.start]):04x}) at {error.start}"
        ) from None
    return value


# Fields


_MISSING: Any = object()


def _field(row: Mapping[str, Any], name: str, fields: Mapping[str, str]) -> Any:
    """The value of our field `name`; where it has no key of its own, dots lead deeper."""
    key = fields.get(name, name)
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _kind_of(row: Any, fields: Mapping[str, str]) -> str | None:
    """The first type whose required fields a row has, among those that have the renamed fields."""
    if not isinstance(row, Mapping):
        return None
    for kind, required in REQUIRED.items():
        if set(fields) <= set(FIELDS[kind]) and all(
            _field(row, name, fields) not in (_MISSING, None) for name in required
        ):
            return kind
    return None


def _shown_field(name: str, fields: Mapping[str, str]) -> str:
    key = fields.get(name, name)
    return f"`{key}`" if key == name else f"`{key}` (as {name})"


# Messages


def _no_type(source: str, first: tuple[str, Any], fields: Mapping[str, str]) -> str:
    place, row = first
    if not isinstance(row, Mapping):
        return (
            f"{source}: {place} is {json_name(row)}. A row is an object with fields; known"
            f" are:{_types()}"
        )
    renamed = ", ".join(f"{ours}: {theirs}" for ours, theirs in fields.items())
    tried = f" with `fields: {{{renamed}}}`" if renamed else ""
    return (
        f"{source}: no type of row fits {place}{tried}. Fields seen: {_seen(row)}. Known"
        f" are:{_types()}\nIf the fields have other names, say which they are:"
        " `fields: {prompt: question, completion: answer}`."
    )


def _types() -> str:
    return "".join(f"\n  {kind}: {', '.join(names)}" for kind, names in REQUIRED.items())


def _mixed(row: Any, found: str, asked: str, fields: Mapping[str, str]) -> str | None:
    """What to say of a row that is fine, but of another type than the first one was."""
    other = _kind_of(row, fields) if asked == "auto" else None
    if other is None or other == found:
        return None
    return f"this row is of type `{other}`; the first one is `{found}`, and a source has one type"


def told(source: str, what: str, problems: Sequence[str], total: int) -> str:
    """Problems of one kind in one source: how many, the first five, the number of the rest."""
    shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    many = "1 row" if len(problems) == 1 else f"{len(problems)} rows"
    return (
        f"{source}: {many} of {total} {'is' if len(problems) == 1 else 'are'} {what}.{shown}{more}"
    )


def _seen(row: Mapping[Any, Any]) -> str:
    names = [_short(str(name)) for name in row]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(names[:12]) + more) or "none"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def json_name(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = (
        (list, "a list"),
        (Mapping, "an object"),
        (str, "a text"),
        (bool, "true or false"),
        ((int, float), "a number"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
