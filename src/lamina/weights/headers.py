"""Safetensors headers, read with suspicion: what a loader would trip over is refused here.

Reads the header only, never a data byte, and needs neither numpy nor torch: 300 tensors cost about
a millisecond. A header says where each tensor lies; this module makes sure that it says it once,
inside the file, without overlap or gap, with a shape that fits its bytes and a name that can stand
in a path or a log line. Format: 8 bytes little-endian length, JSON, data.
"""

import json
import math
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import CheckpointError

MAX_HEADER_BYTES = 100 * 1000 * 1000
MAX_TENSORS = 200_000
MAX_NAME_CHARS = 512
MAX_DIMENSIONS = 8
MAX_DIMENSION = 1 << 40

ITEM_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "U64": 64, "I32": 32, "U32": 32,
    "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip
"""Bits of one element of each dtype of the format."""
FLOATS = frozenset({"F32", "F16", "BF16"})
"""What lamina computes with."""
SMALL_FLOATS = frozenset(name for name in ITEM_BITS if name.startswith(("F8", "F4", "F6")))


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its header describes it; `begin` and `end` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """One file's header: its tensors in the order of their data, and how the file looked then."""

    file: Path
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    size: int
    mtime_ns: int
    raw: bytes


def read_header(file: Path) -> Header:
    """Read and check the header of one safetensors file.

    Raises:
        CheckpointError: no such file, a Git LFS pointer, a pickle, a truncated file, an absurd
            header, or tensors whose names, shapes or offsets are wrong; all wrong tensors are in
            one message.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{file} cannot be read: {reason}.") from None
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{file} is not a regular file; a safetensors file is needed.")
    with os.fdopen(descriptor, "rb") as stream:
        start = stream.read(8)
        _refuse_strangers(file, start + stream.read(120), info.st_size)
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{file}: its header claims {length:,} bytes; over {MAX_HEADER_BYTES:,} is absurd. "
                "The file is damaged or is not safetensors; download it again."
            )
        if 8 + length > info.st_size:
            raise CheckpointError(
                f"{file} is truncated: its header claims {length:,} bytes, the whole file holds "
                f"{info.st_size:,}. Download it again."
            )
        stream.seek(8)
        raw = stream.read(length)
    table = _parse(file, raw)
    metadata = _metadata(file, table.pop("__metadata__", {}))
    tensors = _tensors(file, table, 8 + length, info.st_size)
    return Header(file, tensors, metadata, info.st_size, info.st_mtime_ns, raw)


def _refuse_strangers(file: Path, start: bytes, size: int) -> None:
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{file} is a Git LFS pointer of {size} bytes, not the weights. Run `git lfs pull` in "
            "that folder, or download the model again."
        )
    # A header of 640, 896, 1152 or 1408 bytes begins like a pickle: its ninth byte tells.
    if start[8:9] != b"{" and start.startswith(PICKLES):
        raise CheckpointError(
            f"{file} is a pickle under another name; only safetensors is read. {CONVERT}"
        )
    if len(start) < 8:
        raise CheckpointError(
            f"{file} is truncated: {size} bytes, a safetensors file has at least 8. Download it "
            "again."
        )


PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
CONVERT = (
    "Convert it where you trust it: "
    '`python -c "from transformers import AutoModelForCausalLM as A; '
    "A.from_pretrained('IN').save_pretrained('OUT')\"`."
)


def _parse(file: Path, raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = [f"{name!r:.80}" for name, count in counts.items() if count > 1][:5]
            raise CheckpointError(
                f"{file}: its header names a tensor or key twice: {', '.join(twice)}."
            )
        return table

    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        raise CheckpointError(
            f"{file}: its header is not JSON ({str(error)[:120]}). The file is damaged or is not "
            "safetensors."
        ) from None
    if not isinstance(table, dict):
        raise CheckpointError(
            f"{file}: its header is a {type(table).__name__}; a table of tensors is needed."
        )
    if len(table) > MAX_TENSORS:
        raise CheckpointError(
            f"{file}: {len(table):,} tensors in one file; over {MAX_TENSORS:,} is absurd."
        )
    return table


def _metadata(file: Path, metadata: Any) -> dict[str, str]:
    good = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if not good:
        raise CheckpointError(f"{file}: `__metadata__` must be a table of strings.")
    return metadata


def name_problem(name: str) -> str | None:
    """What is wrong with a tensor's name, or None: it must be fit for a path and a log line."""
    if not name or len(name) > MAX_NAME_CHARS:
        return f"a name of {len(name)} characters (1 to {MAX_NAME_CHARS} are allowed)"
    if not name.isprintable():
        return "a name with a control character (NUL, line break, ...) or an unprintable one"
    if ".." in name or "/" in name or "\\" in name:
        return "a name with `..`, `/` or `\\`"
    return None


def _tensors(
    file: Path, table: dict[str, Any], data_begin: int, size: int
) -> tuple[TensorInfo, ...]:
    problems: list[str] = []
    tensors: list[TensorInfo] = []
    for name, entry in table.items():
        problem = name_problem(name) or _entry_problem(entry)
        if problem is None:
            begin, end = entry["data_offsets"]
            bits = math.prod(entry["shape"]) * ITEM_BITS[entry["dtype"]]
            if bits != 8 * (end - begin):
                problem = (
                    f"{entry['dtype']} {entry['shape']} needs {bits / 8:,.0f} bytes, its range has "
                    f"{end - begin:,}"
                )
            elif data_begin + end > size:
                problem = (
                    f"its range ends at byte {data_begin + end:,}, the file at {size:,}: truncated"
                )
            else:
                shape, begin, end = tuple(entry["shape"]), data_begin + begin, data_begin + end
                tensors.append(TensorInfo(name, entry["dtype"], shape, file, begin, end))
        if problem is not None:
            problems.append(f"{name!r:.80}: {problem}")
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end, tensor.name))
    if not problems:
        at = data_begin
        for tensor in tensors:
            if tensor.begin != at:
                early = tensor.begin < at
                fault = "overlaps the tensor before it" if early else "leaves a gap before it"
                problems.append(
                    f"{tensor.name!r:.80}: begins at byte {tensor.begin:,}, {fault} (which ends at "
                    f"{at:,})"
                )
            at = max(at, tensor.end)
        if at != size:
            problems.append(f"the tensors end at byte {at:,}, the file at {size:,}")
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"{file}: {len(problems)} problem(s) in its header; the file is damaged or was made to "
            "mislead:\n  " + "\n  ".join(problems[:20]) + more
        )
    return tuple(tensors)


def _entry_problem(entry: Any) -> str | None:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "its entry must have dtype, shape and data_offsets, and no more"
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in ITEM_BITS:
        return f"unknown dtype {entry['dtype']!r:.40}"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if (
        not isinstance(shape, list)
        or not all(_whole(n, MAX_DIMENSION) for n in shape)
        or len(shape) > MAX_DIMENSIONS
    ):
        return f"absurd shape {shape!r:.80}"
    if (
        not isinstance(offsets, list)
        or len(offsets) != 2
        or not all(_whole(n, 1 << 62) for n in offsets)
    ):
        return f"absurd offsets {offsets!r:.80}"
    if offsets[0] > offsets[1]:
        return f"its range ends ({offsets[1]:,}) before it begins ({offsets[0]:,})"
    return None


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
