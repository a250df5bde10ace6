"""Checkpoints as chunks of memory: mapped files read where they lie, adapters computed as asked.

A mapping costs a third of the processor time that read() does (no copy), and `release` gives the
pages back after each chunk, so the resident memory stays a few chunks whatever the model's size.
"""

import hashlib
import mmap
import os
from collections.abc import Iterable

import numpy as np

from lamina.core.errors import CheckpointError
from lamina.weights import kernels
from lamina.weights.adapter import AdaptedCheckpoint, LoraFactors
from lamina.weights.checkpoint import Checkpoint
from lamina.weights.codes import BF16, F16, F32, LANES
from lamina.weights.headers import Header, TensorInfo

DTYPE_CODES = {"F32": F32, "F16": F16, "BF16": BF16}
NUMPY_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
PAGE = mmap.PAGESIZE


class MappedFile:
    """One safetensors file, mapped for reading for as long as this object lives."""

    def __init__(self, header: Header) -> None:
        self.path = header.file
        descriptor = os.open(header.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            info = os.fstat(descriptor)
            if (info.st_size, info.st_mtime_ns) != (header.size, header.mtime_ns):
                raise CheckpointError(f"{header.file} changed while lamina was reading it.")
            self._map = mmap.mmap(descriptor, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self.bytes = np.frombuffer(self._map, np.uint8)
        self.address = self.bytes.ctypes.data

    def release(self, begin: int, end: int) -> None:
        """Give the pages of a byte range back; they stay in the page cache. The last page stays
        mapped if it goes on beyond the range.
        """
        first, last = begin // PAGE * PAGE, end // PAGE * PAGE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)


class Source:
    """A checkpoint, or an adapter on its base, as chunks: `chunk` gives an address and a dtype.

    Safe for several threads: the factors of an adapter are read once at the start, every caller
    brings its own scratch memory.
    """

    def __init__(self, checkpoint: Checkpoint | AdaptedCheckpoint) -> None:
        self.checkpoint = checkpoint
        adapted = isinstance(checkpoint, AdaptedCheckpoint)
        base = checkpoint.base if adapted else checkpoint
        self._files = {header.file: MappedFile(header) for header in base.headers}
        self._factors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._tensors = dict(checkpoint.tensors)
        if isinstance(checkpoint, AdaptedCheckpoint):
            adapter = MappedFile(checkpoint.adapter.header)
            self._files[adapter.path] = adapter
            self._tensors |= checkpoint.replaced
            for name, factors in checkpoint.factors.items():
                self._factors[name] = _factor_arrays(adapter, factors)

    @property
    def needs_scratch(self) -> bool:
        """Whether some chunks are computed and need fp32 scratch of a chunk's size."""
        return bool(self._factors)

    def dtype(self, name: str) -> int:
        """The code of the dtype in which chunks of a tensor come."""
        return F32 if name in self._factors else DTYPE_CODES[self._tensors[name].dtype]

    def chunk(self, name: str, first: int, n: int, scratch: np.ndarray | None) -> int:
        """Address of n elements of a tensor from element `first`. Computed ones lie in `scratch`.

        Stays good until `release` or the scratch's next use.
        """
        tensor = self._tensors[name]
        size = NUMPY_DTYPES[tensor.dtype](0).itemsize
        file, begin = self._files[tensor.file], tensor.begin + first * size
        address = file.address + begin
        factors = self._factors.get(name)
        if factors is None:
            return address
        assert scratch is not None and scratch.size >= n, "an adapter's chunk needs scratch"
        code = DTYPE_CODES[tensor.dtype]
        columns = factors[1].shape[1]
        kernels.add_lora(n, first, columns, address, code, *factors, scratch)
        return scratch.ctypes.data

    def release(self, name: str, first: int, n: int) -> None:
        """Give a chunk's pages back."""
        tensor = self._tensors[name]
        size = NUMPY_DTYPES[tensor.dtype](0).itemsize
        begin = tensor.begin + first * size
        self._files[tensor.file].release(begin, begin + n * size)

    def raw(self, name: str) -> memoryview:
        """The bytes of a tensor as they lie in the file (integer tables that are copied)."""
        tensor = self._tensors[name]
        return self._files[tensor.file].bytes[tensor.begin : tensor.end].data

    def array(self, name: str) -> np.ndarray:
        """A whole tensor in fp32, in its shape. For small tensors and tests."""
        tensor = self._tensors[name]
        values = np.empty(tensor.num_elements, np.float32)
        address = self.chunk(name, 0, values.size, values)
        kernels.to_f32(values.size, address, self.dtype(name), values)
        return values.reshape(tensor.shape)


def _factor_arrays(file: MappedFile, factors: LoraFactors) -> tuple[np.ndarray, np.ndarray]:
    """(left, right) with delta = left @ right in the weight's own orientation; fp32, scaled."""
    a, b = _matrix(file, factors.a), _matrix(file, factors.b)
    scaled = factors.scale * b
    left, right = (a.T, scaled.T) if factors.transposed else (scaled, a)
    return np.ascontiguousarray(left), np.ascontiguousarray(right)


def _matrix(file: MappedFile, tensor: TensorInfo) -> np.ndarray:
    values = np.empty(tensor.num_elements, np.float32)
    code = DTYPE_CODES[tensor.dtype]
    kernels.to_f32(values.size, file.address + tensor.begin, code, values)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise CheckpointError(
            f"{tensor.file}: {bad} of {values.size} values of {tensor.name} are NaN or infinite; "
            "the training that made this adapter broke down. Use an earlier checkpoint."
        )
    return values.reshape(tensor.shape)


def digest_of(lanes: np.ndarray, num_bytes: int) -> str:
    """The checksum of a tensor from the lanes (32,) uint64 that its bytes went through."""
    assert lanes.shape == (LANES,), lanes.shape
    digest = hashlib.blake2b(lanes.astype("<u8").tobytes(), digest_size=16)
    digest.update(num_bytes.to_bytes(8, "little"))
    return digest.hexdigest()


def combined_digest(checksums: Iterable[tuple[str, str]]) -> str:
    """One checksum for many tensors, whatever the files they lie in and their order."""
    digest = hashlib.blake2b(digest_size=16)
    for name, checksum in sorted(checksums):
        digest.update(f"{name}\0{checksum}\0".encode())
    return f"lanes128:{digest.hexdigest()}"


def checksum_range(file: MappedFile, begin: int, end: int, step: int = 4 << 20) -> str:
    """The checksum of a byte range of a mapped file, pages given back on the way."""
    lanes = np.zeros(LANES, np.uint64)
    for at in range(begin, end, step):
        stop = min(at + step, end)
        kernels.checksum(file.address + at, stop - at, lanes)
        file.release(at, stop)
    return digest_of(lanes, end - begin)
