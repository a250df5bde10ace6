"""Hidden states of a frozen prefix on the disk: computed once, read in every later pass.

Kept by example, and found again by the example's tokens: hidden states depend on nothing else where
packed examples do not see each other. So one cache serves every layout of a batch, flat or padded,
the rows that are trained on, held-out losses and a teacher; a batch with an example that is not in
it runs the whole model. Losses are those without a cache up to the rounding of other shapes
(float32: 1e-5 of the loss; tests/engine/test_prefix.py).

    FOLDER/  states.bin   [T, H] in the dtype the blocks work in, example after example
             prefix.json  what they are of; written last, before the folder gets its name

Building costs one forward pass of the prefix over all examples; T * H * itemsize bytes. Read by
memory map: only what a batch needs is read, and the processes of one machine share it.

Letters: B rows, L positions, H hidden size, T tokens of all examples.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.core.manifest import read_json, write_json_atomic
from lamina.engine import parallel
from lamina.engine.collate import collate, packed_row
from lamina.engine.fast import example_lengths
from lamina.engine.heads import evaluating, unwrapped
from lamina.engine.prefix import frozen_prefix, given, hidden_after, standing_in
from lamina.engine.prefix_check import check_keepable

if TYPE_CHECKING:
    from lamina.data.encode import Examples

SCHEMA = "lamina.prefix/1"
STATES, ACCOUNT = "states.bin", "prefix.json"
_ROOM = 64 * 2**20
"""Bytes that are left free on the disk."""
_READ = frozenset({"input_ids", "position_ids", "use_cache"})
NOTHING_BELOW = (
    "plan.cache_prefix keeps what the frozen blocks below the lowest trained one give, and here "
    "that is block 0, or the input embedding: nothing is frozen below it. Leave cache_prefix out, "
    "or choose a plan that begins higher (rule: prefix_friendly)."
)
_UNWRITABLE = (
    "the outputs of the frozen blocks cannot be written to {part}: {why}. Leave "
    "plan.cache_prefix out, or choose another --out."
)


@dataclass(frozen=True, slots=True)
class PrefixAt:
    """Where a run keeps its prefix, and what it is of."""

    folder: Path
    """`OUT/prefix`; made, or made anew where it is of something else."""
    model: str
    """Fingerprint of the model before training."""
    examples: tuple[Examples, ...]
    """All that is read: rows to train on, held out and watched."""


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """The hidden states before one block, of known examples."""

    block: int
    states: torch.Tensor
    """[T, H], mapped from the disk."""
    places: Mapping[bytes, int]
    """Key of an example -> where its first token stands among the T."""

    @classmethod
    def settled(
        cls,
        model: nn.Module,
        at: PrefixAt,
        *,
        autocast: torch.dtype | None = None,
        flatten: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> PrefixCache:
        """The cache that stands in the folder if it is of this model and these examples, else new.

        Several processes build it together, on a disk that all of them see.

        Args:
            autocast: the dtype the model runs in where it does not do so by itself.
            flatten: batches are one row without padding.

        Raises:
            RecipeError: nothing is frozen below the lowest trained block, or the model's prefix
                cannot be kept: see `prefix_check`.
            OutputError: the disk has too little room, or a process does not see the folder.
        """
        block = frozen_prefix(model)
        if not block:
            raise RecipeError(NOTHING_BELOW)
        found = check_keepable(model, block, autocast=autocast, flatten=flatten)
        members, places, tokens = _members(at.examples)
        account = {
            "schema": SCHEMA,
            "versions": {name: version(name) for name in ("lamina", "transformers")},
            "model": at.model,
            "examples": hashlib.sha256(b"".join(places)).hexdigest(),
            "block": block,
            "dtype": str(found.dtype).removeprefix("torch."),
            "tokens": tokens,
            "hidden_size": found.shape[-1],
        }
        if parallel.decided(_fits(at.folder, account)):
            tell(f"the outputs of the frozen blocks 0 to {block - 1} stand in {at.folder}")
        else:
            with _building(at.folder, account, found, tell) as file:
                _fill(model, block, members, places, file, found, autocast, flatten)
        return cls(block, _mapped(at.folder / STATES, tokens, found), places)

    @contextlib.contextmanager
    def reading(self, model: nn.Module) -> Iterator[None]:
        """While this holds a batch of known examples skips the blocks below `block`."""
        with contextlib.ExitStack() as stack:
            stand_in = stack.enter_context(standing_in(model, self.block))

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                told = {name for name, value in kwargs.items() if value is not None}
                stand_in.hidden = None
                if not args and "position_ids" in told and told <= _READ:
                    stand_in.hidden = self.find(kwargs["input_ids"], kwargs["position_ids"])

            def after(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
                stand_in.hidden = None

            inner = unwrapped(model)
            for handle in (
                inner.register_forward_pre_hook(before, with_kwargs=True),
                inner.register_forward_hook(after, always_call=True),
            ):
                stack.callback(handle.remove)
            yield

    def find(self, ids_BL: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor | None:
        """The hidden states of a batch [B, L, H], zero where it is padding; None: not all known."""
        flat = torch.zeros(ids_BL.numel(), self.states.shape[1], dtype=self.states.dtype)
        for begin, length, key in _examples_in(ids_BL, positions_BL):
            place = self.places.get(key)
            if place is None:
                return None
            flat[begin : begin + length] = self.states[place : place + length]
        return flat.view(*ids_BL.shape, -1).to(ids_BL.device)


def reading(cache: PrefixCache | None, model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """`cache.reading(model)`, or nothing where there is none."""
    return contextlib.nullcontext() if cache is None else cache.reading(model)


# ---- which examples


def _key(ids: np.ndarray) -> bytes:
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=16).digest()


def _members(
    groups: Sequence[Examples],
) -> tuple[list[tuple[Examples, int]], dict[bytes, int], int]:
    """Each example once: (group, number), where its states stand, and the tokens of all."""
    members: list[tuple[Examples, int]] = []
    places: dict[bytes, int] = {}
    tokens = 0
    for examples in groups:
        for number in range(len(examples)):
            ids = examples.ids[examples.starts[number] : examples.starts[number + 1]]
            if (key := _key(ids)) not in places:
                places[key] = tokens
                members.append((examples, number))
                tokens += len(ids)
    return members, places, tokens


def _examples_in(
    ids_BL: torch.Tensor, positions_BL: torch.Tensor
) -> Iterator[tuple[int, int, bytes]]:
    """(flat place, length, key) of each example of a batch; padding is left out."""
    ids = ids_BL.flatten().cpu().numpy()
    positions = positions_BL.cpu()
    places = positions.flatten().numpy()
    begin = 0
    for length in example_lengths(positions):
        if length > 1 and places[begin + 1] == 1:  # positions of padding are all 0
            yield begin, length, _key(ids[begin : begin + length])
        begin += length


# ---- the folder


def _fits(folder: Path, account: Mapping[str, Any]) -> bool:
    """Whether a whole cache of just this stands there."""
    states = folder / STATES
    if not (folder / ACCOUNT).is_file() or not states.is_file():
        return False
    with contextlib.suppress(DataError):
        return read_json(folder / ACCOUNT) == account
    return False


@contextlib.contextmanager
def _building(
    folder: Path, account: Mapping[str, Any], like: torch.Tensor, tell: Callable[[str], None]
) -> Iterator[Path]:
    """The file to fill; the folder gets its name once every process has filled its share."""
    part = folder.with_name(f".{folder.name}.part")
    size = account["tokens"] * account["hidden_size"] * like.element_size()
    tell(
        f"keeping the outputs of the frozen blocks 0 to {account['block'] - 1} for "
        f"{account['tokens']:,} tokens: {size / 2**20:,.1f} MB in {folder}"
    )
    try:
        problem = _prepared(folder, part, size) if parallel.is_main() else ""
        if problem := parallel.decided(problem):
            raise OutputError(problem)
        if parallel.any_of(not (part / STATES).is_file()):
            raise OutputError(
                f"{part} was made by the first process and is not seen by every other one. "
                "plan.cache_prefix needs a folder for --out that all processes share."
            )
        try:
            yield part / STATES
        except OSError as error:
            problem = _UNWRITABLE.format(part=part, why=error.strerror or error)
        if problem := next(filter(None, parallel.gathered(problem)), ""):
            raise OutputError(problem)
        if parallel.is_main():
            with (part / STATES).open("rb") as file:
                os.fsync(file.fileno())
            write_json_atomic(part / ACCOUNT, account)
            part.rename(folder)
        parallel.barrier()
    finally:
        if parallel.is_main():
            shutil.rmtree(part, ignore_errors=True)


def _prepared(folder: Path, part: Path, size: int) -> str:
    """Makes an empty file of the right size, if the disk has the room; else why there is none."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        free = shutil.disk_usage(part).free
        if size + _ROOM > free:
            return (
                f"the outputs of the frozen blocks need {size / 2**20:,.0f} MB in {folder}, and "
                f"{free / 2**20:,.0f} MB are free there. Leave plan.cache_prefix out, or choose an "
                "--out on a larger disk."
            )
        with (part / STATES).open("wb") as file:
            file.truncate(size)
    except OSError as error:
        return _UNWRITABLE.format(part=part, why=error.strerror or error)
    return ""


def _mapped(path: Path, tokens: int, like: torch.Tensor) -> torch.Tensor:
    hidden = like.shape[-1]
    flat = torch.from_file(str(path), shared=False, size=tokens * hidden, dtype=like.dtype)
    return flat.view(tokens, hidden)


# ---- filling it


def _fill(
    model: nn.Module,
    block: int,
    members: Sequence[tuple[Examples, int]],
    places: Mapping[bytes, int],
    file: Path,
    like: torch.Tensor,
    autocast: torch.dtype | None,
    flatten: bool,
) -> None:
    """Runs the prefix over this process's share of the examples and writes what it gives."""
    device = like.device
    width = like.shape[-1] * like.element_size()
    batches = _batches([int(e.lengths[n]) for e, n in members], device)
    cast = torch.autocast(device.type, dtype=autocast, enabled=autocast is not None)
    with evaluating(model), cast, file.open("r+b") as out:
        for chosen in batches[parallel.rank() :: parallel.world()]:
            rows = [packed_row(examples, [n]) for examples, n in (members[c] for c in chosen)]
            batch = collate(rows, pad_id=0, flatten=flatten, multiple_of=1)
            inputs = {name: value.to(device) for name, value in given(model, batch).items()
                      if isinstance(value, torch.Tensor)}  # fmt: skip
            hidden = hidden_after(model, inputs | {"use_cache": False}, block - 1)
            flat = hidden.flatten(0, 1).cpu().contiguous().view(torch.uint8)
            for begin, length, key in _examples_in(batch["input_ids"], batch["position_ids"]):
                out.seek(places[key] * width)
                out.write(flat[begin : begin + length].numpy().tobytes())


def _batches(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Numbers of examples, longest first, as many as fit the tokens of a batch."""
    limit = 2048 if device.type == "cpu" else 32768
    order = sorted(range(len(lengths)), key=lambda n: (-lengths[n], n))
    found = []
    while order:
        size = max(1, limit // lengths[order[0]])
        found.append(order[:size])
        order = order[size:]
    return found
