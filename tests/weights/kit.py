"""What these tests share: tensors at any address, kernels called with plain arrays, references."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lamina.weights import kernels

F32, F16, BF16 = 0, 1, 2
BLOCK, CHUNK = 2048, 1 << 20
SPECIAL = np.array(
    [
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000,
        0xFFC00001, 0x7F800001, 0x7FBFFFFF, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000,
        0x7F7FFFFF, 0xFF7FFFFF, 0x3F808000, 0x3F818000, 0x3F808001, 0x3F817FFF, 0x7F7F8000,
        0x7F7F7FFF, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x33800000,
        0x387FC000, 0x387FE000, 0x38800000, 0x3F801000, 0x3F803000, 0x3F800FFF, 0x3F801001,
        0x0000FFFF, 0x00008000, 0x00018000, 0x32FFFFFF, 0x33C00000, 0x34200000, 0x00007FFF,
    ],
    np.uint32,
).view(np.float32)  # fmt: skip
"""Signs, NaN, Inf, denormals, largest values, ties to even of bf16 and fp16, neighbours."""


def narrow(values: np.ndarray, dtype: int) -> np.ndarray:
    """fp32 values rounded by torch, as an array of the dtype's storage."""
    import torch

    if dtype == F32:
        return np.ascontiguousarray(values, np.float32)
    kind = torch.float16 if dtype == F16 else torch.bfloat16
    rounded = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(kind)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def widen(stored: np.ndarray, dtype: int) -> np.ndarray:
    """What an array of a dtype's storage stands for, in fp32."""
    if dtype == F32:
        return stored.view(np.float32)
    if dtype == F16:
        return stored.view(np.float16).astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)


@dataclass
class Held:
    """A tensor in memory, at an address that need not be aligned."""

    stored: np.ndarray
    dtype: int
    offset: int = 0
    memory: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        raw = np.ascontiguousarray(self.stored).view(np.uint8)
        self.memory = np.zeros(raw.size + self.offset + 64, np.uint8)
        self.memory[self.offset : self.offset + raw.size] = raw

    @property
    def address(self) -> int:
        return self.memory.ctypes.data + self.offset

    @property
    def values(self) -> np.ndarray:
        return widen(self.stored, self.dtype)

    def at(self, first: int) -> np.uint64:
        return np.uint64(self.address + first * (4 if self.dtype == F32 else 2))


def held(values: Any, dtype: int, offset: int = 0) -> Held:
    return Held(narrow(np.asarray(values, np.float32), dtype), dtype, offset)


@dataclass
class Combined:
    """What `kernels.combine` gave."""

    stored: np.ndarray
    hashes: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    quotas: np.ndarray


def combine(
    experts: Sequence[Held],
    weights: Sequence[float],
    *,
    target: Held | None = None,
    reference: Held | None = None,
    n: int | None = None,
    limits: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    modes: Sequence[int] | None = None,
    thresholds: Sequence[int] | None = None,
    quotas: Sequence[int] | None = None,
    keys: Sequence[int] | None = None,
    rescales: Sequence[float] | None = None,
    elect: bool = False,
    normalize: bool = False,
    divisor: float = 1.0,
    factor: float = 1.0,
    out_dtype: int = F32,
    out_offset: int = 0,
    chunk: int = CHUNK,
) -> Combined:
    """A whole tensor through the kernel, chunk by chunk, as `merge.apply` does it."""
    num = len(experts)
    n = experts[0].stored.size if n is None else n
    limits = [n] * (num + 1) if limits is None else list(limits)
    left = np.array([n] * num if quotas is None else quotas, np.int64)
    out = held(np.zeros(n), out_dtype, out_offset)
    hashes, sums = np.zeros((num + 3, 32), np.uint64), np.zeros(num + 2)
    counts = np.zeros(4 + num, np.int64)
    for first in range(0, n, chunk):
        m = min(chunk, n - first)
        kernels.combine(
            m,
            first,
            np.uint64(0) if target is None else target.at(first),
            0 if target is None else target.dtype,
            np.uint64(0) if reference is None else reference.at(first),
            0 if reference is None else reference.dtype,
            np.array([expert.at(first) for expert in experts], np.uint64),
            np.array([expert.dtype for expert in experts], np.int64),
            np.array([max(0, min(m, limit - first)) for limit in limits], np.int64),
            np.array([1.0] * num if scales is None else scales, np.float32),
            np.array([kernels.WHOLE] * num if modes is None else modes, np.int64),
            np.array([0] * num if thresholds is None else thresholds, np.uint32),
            left,
            np.array([0] * num if keys is None else keys, np.uint64),
            np.array([1.0] * num if rescales is None else rescales, np.float32),
            np.array(weights, np.float32),
            elect,
            normalize,
            np.float32(divisor),
            np.float32(factor),
            out.at(first),
            out_dtype,
            hashes,
            True,
            sums,
            counts,
        )
    size = 4 if out_dtype == F32 else 2
    raw = out.memory[out_offset : out_offset + n * size].copy()
    assert not out.memory[:out_offset].any(), "wrote before the output"
    assert not out.memory[out_offset + n * size :].any(), "wrote behind the output"
    stored = raw.view(np.float32 if out_dtype == F32 else np.uint16)
    return Combined(stored, hashes, sums, counts, left)


def kept_by_noise(n: int, key: int, density_bits: int) -> np.ndarray:
    """Which elements `drop` keeps: a hash of (key, element number), in plain numpy."""
    with np.errstate(over="ignore"):
        h = np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
    return (h >> np.uint64(32)) < density_bits


def trimmed(delta: np.ndarray, threshold: int, quota: int) -> np.ndarray:
    """What is above the threshold, and the first `quota` of what equals it."""
    magnitude = delta.view(np.uint32) & np.uint32(0x7FFFFFFF)
    equal = magnitude == threshold
    keep = (magnitude > threshold) | (equal & (np.cumsum(equal) <= quota))
    return np.where(keep, delta, np.float32(0.0))


def reference_combine(
    experts: Sequence[np.ndarray],
    weights: Sequence[float],
    *,
    target: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    n: int | None = None,
    limits: Sequence[int] | None = None,
    scales: Sequence[float] | None = None,
    modes: Sequence[int] | None = None,
    thresholds: Sequence[int] | None = None,
    quotas: Sequence[int] | None = None,
    keys: Sequence[int] | None = None,
    rescales: Sequence[float] | None = None,
    elect: bool = False,
    normalize: bool = False,
    divisor: float = 1.0,
    factor: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(update, target + update) in plain fp32 numpy: each operation once, in the kernel's order."""
    num = len(experts)
    n = experts[0].size if n is None else n
    f = np.float32
    kept = np.zeros(n, f) if target is None else target
    origin = np.zeros(n, f) if reference is None else reference
    weighted = []
    for k, expert in enumerate(experts):
        have = n if limits is None else limits[k]
        delta = np.zeros(n, f)
        delta[:have] = expert[:have] - origin[:have]
        delta = delta * f(1.0 if scales is None else scales[k])
        mode = kernels.WHOLE if modes is None else modes[k]
        if mode == kernels.TRIM:
            delta = trimmed(delta, thresholds[k], quotas[k])
        elif mode == kernels.DROP:
            delta = np.where(kept_by_noise(n, keys[k], thresholds[k]), delta, f(0.0))
        delta = delta * f(1.0 if rescales is None else rescales[k])
        weighted.append(delta * f(weights[k]))
    update = np.zeros(n, f)
    if elect:
        mass, share = np.zeros(n, f), np.zeros(n, f)
        for part in weighted:
            mass = mass + part
        for k, part in enumerate(weighted):
            agrees = np.where(mass >= 0, part > 0, part < 0)
            update = update + np.where(agrees, part, f(0.0))
            share = share + np.where(agrees, f(weights[k]), f(0.0))
        if normalize:
            update = update / np.where(share != 0, share, f(1.0))
    else:
        for part in weighted[:num]:
            update = update + part
    update = update / f(divisor) * f(factor)
    return update, np.where(update != 0, kept + update, kept)
