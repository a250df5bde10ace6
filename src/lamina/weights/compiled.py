"""How a kernel is compiled: once per machine, and again whenever any of its sources changes.

numba's cache on the disk looks at the time of the one file that holds a function; what that
function calls may lie in another one. Here the cache is keyed on the bytes of all those files.
Where no cache can be kept (a read-only installation without a home), it compiles in every process,
which takes some seconds.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba as nb

SOURCES = ("lanes.py", "fused.py", "blocks.py", "kernels.py", "compiled.py")


def sources_digest() -> str:
    """A checksum over the files that kernels are made of."""
    digest = hashlib.blake2b(digest_size=16)
    for name in SOURCES:
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()


_DIGEST = sources_digest()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function without the GIL, kept on the disk for the sources as they are now."""
    try:
        compiled: Any = nb.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # "cannot cache function": nowhere to write
        return nb.njit(nogil=True)(function)
    # numba compares this stamp with the one in the cache's index; by itself it is (mtime, size).
    compiled._cache._cache_file._source_stamp = _DIGEST
    return compiled
