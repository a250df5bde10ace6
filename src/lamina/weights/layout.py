"""Where every byte of an output lies, known before the first is written.

Shards, headers, offsets and the index, from the target's names and shapes alone.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lamina.core.errors import RecipeError
from lamina.weights.checkpoint import SINGLE, Checkpoint
from lamina.weights.headers import ITEM_BITS

METADATA = {"format": "pt"}


@dataclass(frozen=True, slots=True)
class Place:
    """One output tensor: its file, dtype, shape and byte range in that file."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file: its header's bytes and its whole size."""

    file: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All output files of one model folder."""

    shards: tuple[Shard, ...]
    places: Mapping[str, Place]
    index: bytes | None
    """The bytes of `model.safetensors.index.json`, None for a single file."""

    @property
    def num_bytes(self) -> int:
        return sum(shard.size for shard in self.shards)


def plan_layout(
    target: Checkpoint, dtypes: Mapping[str, str], max_shard_bytes: int | None
) -> Layout:
    """Files as the target's, or cut so that none is larger than `max_shard_bytes`.

    Tensors keep the target's order; inside a file wider dtypes come first, so that every tensor is
    aligned to its own element.

    Raises:
        RecipeError: a single tensor is larger than the largest shard asked for.
    """
    sizes = {
        name: math.prod(tensor.shape) * ITEM_BITS[dtypes[name]] // 8
        for name, tensor in target.tensors.items()
    }
    if max_shard_bytes is None:
        files = [header.file.name for header in target.headers]
        groups = [[t.name for t in header.tensors] for header in target.headers]
        if len(groups) == 1:
            files = [SINGLE]
    else:
        groups = _cut(sizes, max_shard_bytes)
        total = len(groups)
        files = [f"model-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)]
        files = [SINGLE] if total == 1 else files
    shards, places = [], {}
    for file, names in zip(files, groups, strict=True):
        ordered = sorted(names, key=lambda name: -ITEM_BITS[dtypes[name]])
        table: dict[str, Any] = {"__metadata__": METADATA}
        at = 0
        for name in ordered:
            shape = target.tensors[name].shape
            table[name] = {
                "dtype": dtypes[name],
                "shape": list(shape),
                "data_offsets": [at, at + sizes[name]],
            }
            at += sizes[name]
        text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        header = len(text).to_bytes(8, "little") + text
        for name in ordered:
            begin, end = (len(header) + offset for offset in table[name]["data_offsets"])
            shape = target.tensors[name].shape
            places[name] = Place(name, file, dtypes[name], shape, begin, end)
        shards.append(Shard(file, header, len(header) + at))
    return Layout(
        tuple(shards), places, _index(places.values(), sizes) if len(shards) > 1 else None
    )


def _cut(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    large = [f"{name} ({size:,} bytes)" for name, size in sizes.items() if size > most]
    if large:
        raise RecipeError(
            f"max_shard_size is {most:,} bytes, but {len(large)} tensor(s) are larger alone: "
            f"{', '.join(large[:3])}. Give a larger size."
        )
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if used + size > most and groups[-1]:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _index(places: Iterable[Place], sizes: Mapping[str, int]) -> bytes:
    weight_map = {place.name: place.file for place in places}
    table = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    return (json.dumps(table, indent=2, sort_keys=True) + "\n").encode()
