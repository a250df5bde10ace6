"""The base of all recipes: frozen, no unknown keys, every problem of a file told at once."""

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from lamina.core.errors import RecipeError, did_you_mean, nearest
from lamina.core.yaml import load_yaml

T = TypeVar("T", bound=BaseModel)


class Recipe(BaseModel):
    """A run, described: plain values under names, checked once, then never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def load_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of a recipe file, with `-s` overrides applied.

    Raises:
        RecipeError: not a file, not YAML, empty, or not a map of keys.
    """
    value = load_yaml(path)
    if value is None:
        raise RecipeError(f"{path} is empty; a recipe has keys, such as `merge_method: lata`")
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds {_kind(value)} at the top; a recipe is a map of keys")
    return apply_overrides(value, overrides)


def is_tune(values: Mapping[str, Any]) -> bool:
    """Whether a recipe's keys are those of `lamina tune`, not of a merge."""
    return "merge_method" not in values and bool({"domains", "mixture", "train"} & set(values))


def apply_overrides(recipe: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe with `a.b=1` settings put in: `models.0.parameters.weight=0.5` too.

    The value is YAML. A map that is missing on the way is made; a list keeps its length. Where a
    key has dots in itself, the longest key that is there is taken.

    Raises:
        RecipeError: no `=`, an empty path, or a path that leads into a value. All at once.
    """
    changed: Any = dict(recipe)
    problems = []
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            problems.append(f"-s {override}: write key=value, with dots for what lies deeper")
            continue
        try:
            changed = _set(changed, keys, load_yaml(text, name=f"-s {path}"), at=[])
        except RecipeError as exc:
            told = str(exc)
            problems.append(told if told.startswith("-s ") else f"-s {path}: {told}")
    if problems:
        raise RecipeError("\n".join(problems))
    return changed


def _set(node: Any, keys: list[str], value: Any, *, at: list[str]) -> Any:
    """A copy of `node` with `value` at the path `keys`."""
    if not keys:
        return value
    if isinstance(node, dict) or node is None:
        node = node or {}
        length = next(
            (n for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in node),
            1,
        )
        key = ".".join(keys[:length])
        return node | {key: _set(node.get(key), keys[length:], value, at=[*at, key])}
    if isinstance(node, list):
        key = keys[0]
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(node)):
            where = ".".join(at)
            raise RecipeError(f"`{where}` is a list of {len(node)}, numbered from 0, not `{key}`")
        place = int(key)
        changed = _set(node[place], keys[1:], value, at=[*at, key])
        return [*node[:place], changed, *node[place + 1 :]]
    raise RecipeError(f"`{'.'.join(at)}` is {_kind(node)} and has nothing inside it")


def describe_validation_error(
    exc: ValidationError, source: str, model: type[BaseModel] | None = None
) -> RecipeError:
    """All that pydantic found wrong, as one error: key paths, what was seen, the nearest known key.

    `model` is the class that was validated; with it, an unknown key is met with the known ones.
    """
    problems = list(dict.fromkeys(_describe(error, model) for error in exc.errors()))
    if len(problems) == 1:
        return RecipeError(f"{source}: {problems[0]}")
    told = "".join(f"\n  {problem}" for problem in problems)
    return RecipeError(f"{source}: {len(problems)} problems{told}")


def validate(model: type[T], values: Mapping[str, Any], source: str) -> T:
    """A model from a map of keys.

    Raises:
        RecipeError: with every problem in one message.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as exc:
        raise describe_validation_error(exc, source, model) from exc


def _describe(error: ErrorDetails, model: type[BaseModel] | None) -> str:
    location, seen = error["loc"], error["input"]
    path = _path(location)
    match error["type"]:
        case "extra_forbidden":
            key, known = str(location[-1]), _known_keys(model, location[:-1])
            hint = f"; {did_you_mean(key, known)}" if known else ""
            return f"{path}: unknown key{hint}"
        case "missing":
            return f"{path}: missing"
        case "literal_error" | "enum":
            expected = error.get("ctx", {}).get("expected", "")
            known = re.findall(r"'([^']*)'", expected)
            hint = did_you_mean(seen, known) if isinstance(seen, str) and known else ""
            if isinstance(seen, str) and known and nearest(seen, known):
                hint = f"{hint} (known: {', '.join(known)})"
            return f"{path}: {_shown(seen)} is unknown; {hint or f'known: {expected}'}"
        case "value_error" | "assertion_error":
            told = error["msg"].partition(", ")[2]
            return f"{path}: {told}" if path else told
        case _:
            told = error["msg"][:1].lower() + error["msg"][1:]
            return f"{path}: {told}, not {_shown(seen)}" if path else f"{told}, not {_shown(seen)}"


def _path(location: Iterable[int | str]) -> str:
    """`models[1].parameters.weight`, numbered from 0."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += ("." if path else "") + (part if part.isprintable() else repr(part))
    return path


def _known_keys(model: type[BaseModel] | None, location: Iterable[int | str]) -> list[str]:
    """The keys that may stand at a place of a model; lists and unions are looked into."""
    kinds: list[Any] = [model]
    for part in location:
        kinds = [inner for kind in kinds for inner in _inside(kind, part)] or kinds
    models = [m for kind in kinds for m in _models(kind)]
    keys = [field.alias or name for m in models for name, field in m.model_fields.items()]
    return list(dict.fromkeys(keys))


def _inside(kind: Any, part: int | str) -> list[Any]:
    """The types of what stands under `part` in a value of type `kind`."""
    if isinstance(part, int):
        kinds = [kind, *(k for k in _flatten(kind))]
        return [arg for k in kinds for arg in get_args(k) if get_origin(k) in {list, tuple}]
    named = [get_args(k)[1] for k in _flatten(kind) if get_origin(k) in {dict, Mapping}]
    return named + [
        field.annotation
        for m in _models(kind)
        for name, field in m.model_fields.items()
        if part in {name, field.alias}
    ]


def _models(kind: Any) -> list[type[BaseModel]]:
    return [k for k in _flatten(kind) if isinstance(k, type) and issubclass(k, BaseModel)]


def _flatten(kind: Any) -> list[Any]:
    """A union's members, without their annotations."""
    if get_origin(kind) is Annotated:
        return _flatten(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        return [member for arg in get_args(kind) for member in _flatten(arg)]
    return [kind]


def _kind(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a map"
        case list():
            return f"a list of {len(value)}"
        case _:
            return f"the value {_shown(value)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
