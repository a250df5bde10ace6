"""`mixture.json`: what a checkpoint needs beside the weights so that a run goes on to the bit.

A checkpoint is written under another name, sealed with the SHA-256 of each of its files, and
renamed; `mixture.json` is the seal. A folder without it is half-written, and one whose files do
not match it is damaged: neither is ever trained from.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lamina.core.errors import CheckpointError, DataError, RecipeError
from lamina.core.manifest import read_json, write_json_atomic

NAME = "mixture.json"
WRITING = ".writing"
SWITCHES = ("data", "recipe", "processes")
GO_BACK = "Delete the folder to go on from the one before it."


class MixtureState(BaseModel):
    """Where a run stands: the next row of every domain follows from it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True
    )

    schema_: Literal["lamina.mixture/1"] = Field(default="lamina.mixture/1", alias="schema")
    step: int
    """Optimiser steps done."""
    stopped: str | None = None
    """Why the steering ended the run here."""
    window: int
    """The window in work, from 0; its rows follow from seed, weights and cursors."""
    seed: int
    weights: dict[str, float]
    """In force in this window."""
    cursors: dict[str, int]
    """Rows of each domain read before this window."""
    owed: dict[str, float]
    """Rows that rounding kept from each domain so far."""
    sizes: dict[str, int]
    """Packed rows of each domain."""
    world: int
    window_steps: int
    window_rows: int
    unit: str
    """What a weight is a share of: `tokens` or `rows`."""
    data: str
    """Fingerprint of the rows, trained and held out."""
    recipe: str
    model: str
    measured: str = ""
    """Fingerprint of the examples whose losses are measured; empty: not known."""
    train_sums: dict[str, float]
    """Nats of the training loss in this window so far."""
    train_tokens: dict[str, int]
    rank_sums: tuple[dict[str, float], ...] = ()
    """`train_sums` of each process: added up anew, they give the same bits."""
    steering: dict[str, Any]
    """What the mover of the weights remembers: history, held-out losses, memory."""
    files: dict[str, dict[str, Any]] = {}
    """By file of the checkpoint: bytes and sha256."""

    @property
    def in_mid_window(self) -> bool:
        return self.step != self.window * self.window_steps


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint must belong to, to be resumed."""

    data: str
    recipe: str
    model: str
    world: int


def digest(value: object) -> str:
    """SHA-256 of plain values as JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(folder: Path, state: MixtureState) -> None:
    """Flushes a checkpoint's files to the disk and writes `mixture.json` with their checksums.

    Raises:
        OutputError: the disk is full or read-only.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME):
        files[path.relative_to(folder).as_posix()] = _account(path, flush=True)
    sealed = state.model_copy(update={"files": files}).model_dump()
    write_json_atomic(
        folder / NAME, sealed, sort_keys=False
    )  # the order of domains means something


def read_sealed(folder: Path) -> MixtureState:
    """The state of a checkpoint, after every file was compared with its checksum.

    Raises:
        CheckpointError: half-written, damaged, or not a checkpoint of lamina.
    """
    if not (folder / NAME).is_file():
        raise CheckpointError(f"{folder} has no {NAME}: it is half-written, or not from lamina.")
    state = _read_state(folder)
    problems = []
    for name, account in state.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif path.stat().st_size != account["bytes"]:
            problems.append(f"{name} has {path.stat().st_size} bytes, not {account['bytes']}")
        elif _account(path)["sha256"] != account["sha256"]:
            problems.append(f"{name} does not match its checksum")
    if problems:
        raise CheckpointError(
            f"the checkpoint {folder} is damaged: {'; '.join(problems)}. {GO_BACK}"
        )
    return state


def _read_state(folder: Path) -> MixtureState:
    try:
        return MixtureState.model_validate(read_json(folder / NAME))
    except DataError as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {error}. {GO_BACK}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{folder / NAME} is damaged or from another version: {where}: {first['msg']}. "
            f"{GO_BACK}"
        ) from error


def latest(folder: Path, tell: Callable[[str], None]) -> tuple[Path, MixtureState] | None:
    """The newest whole checkpoint among `checkpoint-STEP` folders, or None where none is.

    Raises:
        CheckpointError: the newest sealed one is damaged.
    """
    shutil.rmtree(folder / WRITING, ignore_errors=True)
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if not (path / NAME).is_file():
            tell(f"{path} is half-written and is left out")
            continue
        return path, read_sealed(path)
    return None


def newest_state(folder: Path) -> MixtureState | None:
    """Where the newest sealed checkpoint stands; its files are not compared with their checksums.

    Raises:
        CheckpointError: its `mixture.json` is damaged.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        if (path / NAME).is_file():
            return _read_state(path)
    return None


def rotate(folder: Path, keep: int) -> None:
    """Deletes all but the newest checkpoints; called after a new one is sealed."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def check_fits(
    state: MixtureState,
    now: Identity,
    allowed: frozenset[str],
    *,
    offered: Collection[str] = SWITCHES,
) -> list[str]:
    """Refuses to go on where something changed since the checkpoint; tells what was allowed.

    Args:
        offered: switches of `--allow-changed` that the message may name.

    Raises:
        RecipeError: all changes that no switch allows, in one message.
    """
    world_counts = state.in_mid_window
    changed = {
        "model": (state.model, now.model, "the model to tune is another one"),
        "data": (state.data, now.data, "the rows are others than the run began with"),
        "recipe": (state.recipe, now.recipe, "the recipe was changed"),
        "processes": (
            state.world if world_counts else now.world,
            now.world,
            f"{state.world} processes made it, now there are {now.world}, and it stands in mid-"
            f"window (step {state.step}, windows of {state.window_steps} steps)",
        ),
    }
    told = {key: text for key, (then, this, text) in changed.items() if then != this}
    refused = {key: text for key, text in told.items() if key not in allowed}
    if refused:
        switches = [key for key in refused if key in offered]
        ways = [f"--allow-changed {key}" for key in switches]
        advice = f", or go on all the same with {' '.join(ways)}" if ways else ""
        raise RecipeError(
            f"the checkpoint at step {state.step} cannot be gone on from: "
            + "; ".join(refused.values())
            + f". Put it back, give another --out{advice}."
        )
    return [f"allowed, but not the same run any more: {text}" for text in told.values()]


def check_comparable(state: MixtureState, domains: tuple[str, ...], measured: str) -> None:
    """Refuses what no switch can allow: losses are compared with those from before, by domain.

    Args:
        measured: fingerprint of the examples whose losses are measured.

    Raises:
        RecipeError: other domains, or other held-out rows.
    """
    then = tuple(state.sizes)
    if then != domains:
        why = f"it has the domains {', '.join(then)}, the recipe {', '.join(domains)}"
    elif state.measured and measured != state.measured:
        why = (
            "the held-out rows (or the general text) are others, and losses are compared with "
            "those from before. Rows that are added move held-out rows, too: held-out rows of "
            "their own (`heldout:`) do not move"
        )
    else:
        return
    raise RecipeError(
        f"the checkpoint at step {state.step} cannot be gone on from: {why}. Put them back, or "
        "give another --out."
    )


def _step(path: Path) -> int:
    number = path.name.partition("-")[2]
    return int(number) if number.isascii() and number.isdigit() else -1


def _account(path: Path, *, flush: bool = False) -> Mapping[str, Any]:
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": sha}
