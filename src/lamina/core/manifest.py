"""What ran, on what, with what, into what. Written last: without it an output is not finished."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lamina.core.errors import DataError, OutputError

NAME = "manifest.json"
MAX_JSON_BYTES = 200_000_000


class Manifest(BaseModel):
    """The whole account of one run, as it stands in `manifest.json`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    schema_: Literal["lamina.manifest/1"] = Field(default="lamina.manifest/1", alias="schema")
    kind: str
    """The verb: `merge`, `forget`, `eval`, ..."""
    status: str
    versions: dict[str, str]
    recipe: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    """By name: path, fingerprint, bytes, license, ..."""
    outputs: dict[str, dict[str, Any]]
    """By file: bytes and checksum."""
    results: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Puts it into a run's folder, whole or not at all, and gives its path."""
        write_json_atomic(folder / NAME, self.model_dump())
        return folder / NAME


def write_json_atomic(path: Path, obj: object, *, sort_keys: bool = True) -> None:
    """Writes JSON so that the file is either the old one or the whole new one.

    A temporary name beside it, flushed to the disk, then renamed; the folder is flushed too. Keys
    are sorted (or left as they are where their order means something) and a newline ends the file:
    the same object gives the same bytes. A number that is
    not finite becomes null, as JSON has none.

    Raises:
        OutputError: the folder is missing, read-only or full.
    """
    plain = _finite(obj)
    text = json.dumps(plain, indent=1, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())


def write_atomic(path: Path, data: bytes) -> None:
    """Writes bytes under a temporary name, flushes them to the disk and renames.

    Raises:
        OutputError: the folder is missing, read-only or full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as exc:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {exc.strerror or exc}. Free the disk or choose another folder."
        ) from exc


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: missing, too large, not UTF-8, not JSON, or a key twice.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} has more than {MAX_JSON_BYTES} bytes, too many for its kind")
        return json.loads(path.read_bytes().decode(), object_pairs_hook=_without_twins)
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(
            f"{path} is not UTF-8: byte {exc.start} is {exc.object[exc.start]:#04x}"
        ) from exc
    except RecursionError as exc:
        raise DataError(f"{path} is nested too deeply to be one of ours") from exc
    except ValueError as exc:
        raise DataError(f"{path} is not JSON we can use: {exc}") from exc


def cache_folder() -> Path:
    """Where what is dear to measure is kept: `$LAMINA_CACHE`, else `~/.cache/lamina` (XDG)."""
    own = os.environ.get("LAMINA_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(own) if own else Path(home) / "lamina"


def _finite(obj: Any) -> Any:
    match obj:
        case float():
            return obj if math.isfinite(obj) else None
        case dict():
            return {key: _finite(value) for key, value in obj.items()}
        case list() | tuple():
            return [_finite(value) for value in obj]
        case _:
            return obj


def _without_twins(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key `{next(k for k in keys if keys.count(k) > 1)}` stands twice")
    return read
