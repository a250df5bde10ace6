"""Kernels as machine code: compiled by numba once per machine, afterwards run without numba.

Importing numba and waking its dispatcher costs half a second of every command; loading finished
machine code through llvmlite costs 50 ms. So a kernel is compiled on first use by `numba.cfunc`,
its LLVM code turned into an object file and kept, keyed on the bytes of the kernels' sources, the
versions of numba and llvmlite, and the processor. Where nothing can be kept it is compiled again
by every process, which takes some seconds.

A kernel takes one address: of a block of 64-bit words, where scalars, addresses and shapes lie in
the order of its signature. Kinds: `i` int64, `u` uint64, `f` float32, `b` bool, and arrays by
element and number of dimensions (`f4`, `f8`, `i8`, `u4`, `u8`, then 1 or 2): `u8:2`.
"""

import ctypes
import hashlib
import os
import re
import struct
import threading
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = (
    "codes.py",
    "lanes.py",
    "fused.py",
    "blocks.py",
    "kernel_code.py",
    "pointers.py",
    "native.py",
)
_SCALARS = {"i": "q", "u": "Q", "b": "q", "f": "d"}
_DTYPES = {name: np.dtype(name) for name in ("f4", "f8", "i8", "u4", "u8")}
_LOCK = threading.Lock()


class Kernel:
    """One compiled kernel; call it with scalars and C-contiguous numpy arrays."""

    def __init__(self, name: str, signature: str) -> None:
        self.name = name
        self.kinds = tuple(signature.split())
        self._call: Any = None
        split = [kind.partition(":") for kind in self.kinds]
        self._parts = [(element, int(number or 0)) for element, _, number in split]
        words = ["Q" + "q" * n if n else _SCALARS[element] for element, n in self._parts]
        self._struct = struct.Struct("=" + "".join(words))

    def load(self) -> None:
        """Load the machine code, compiling it where it is not kept yet."""
        if self._call is None:
            with _LOCK:
                if self._call is None:
                    self._call = _load(self)

    def __call__(self, *arguments: Any) -> None:
        self.load()
        words: list[Any] = []
        for (element, dimensions), argument in zip(self._parts, arguments, strict=True):
            if dimensions:
                assert argument.dtype == _DTYPES[element], (self.name, element, argument.dtype)
                assert argument.ndim == dimensions, (self.name, element, argument.shape)
                assert argument.flags.c_contiguous, (self.name, element)
                words += [argument.ctypes.data, *argument.shape]
            else:
                words.append(float(argument) if element == "f" else int(argument))
        block = ctypes.create_string_buffer(self._struct.pack(*words))
        self._call(ctypes.addressof(block))


def cache_folders() -> list[Path]:
    """Where machine code may be kept, best first: beside the sources, then the user's cache."""
    folders = [Path(__file__).parent / "__pycache__"]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
    if not home.startswith("~"):  # a user without a home
        folders.append(Path(home) / "lamina" / "kernels")
    return folders


def _key(kernel: Kernel) -> str:
    """The file of a kernel's code: another one for other sources, arguments, tools or processor."""
    import llvmlite.binding as llvm

    digest = hashlib.blake2b(" ".join(kernel.kinds).encode(), digest_size=16)
    for source in SOURCES:
        digest.update(Path(__file__).with_name(source).read_bytes())
    features = llvm.get_host_cpu_features().flatten()
    told = (version("numba"), version("llvmlite"), llvm.get_host_cpu_name(), features)
    digest.update("\0".join(told).encode())
    return f"{kernel.name}-{digest.hexdigest()}.o"


def _load(kernel: Kernel) -> Any:
    """The kernel as a C function, from the cache or freshly compiled."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    file = _key(kernel)
    code = next((c for c in (_read(f / file) for f in cache_folders()) if c is not None), None)
    if code is None:
        code = _compile(kernel)
        for folder in cache_folders():
            if _write(folder / file, code):
                break
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address = engine.get_function_address(f"lamina_{kernel.name}")
    assert address, f"no entry for {kernel.name} in its object file"
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(address)
    _ENGINES.append(engine)  # machine code lives as long as its engine
    return function


_ENGINES: list[Any] = []


def _read(file: Path) -> bytes | None:
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    digest, code = kept[:16], kept[16:]
    return code if hashlib.blake2b(code, digest_size=16).digest() == digest else None


def _write(file: Path, code: bytes) -> bool:
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hashlib.blake2b(code, digest_size=16).digest() + code)
        part.replace(file)
    except OSError:
        return False
    return True


def _compile(kernel: Kernel) -> bytes:
    """Object code with one entry, `lamina_NAME(address)`."""
    import llvmlite.binding as llvm
    import numba as nb
    from numba import types

    compiled = nb.cfunc(types.void(types.uintp), error_model="numpy")(_entry(kernel))
    module = llvm.parse_assembly(alone(compiled.inspect_llvm()))
    entry = next(f for f in module.functions if f.name.startswith("cfunc."))
    entry.name = f"lamina_{kernel.name}"
    entry.linkage = "external"
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        jit=True,
    )
    return machine.emit_object(module)


_FOREIGN = re.compile(r"^declare ([^\n]*@(?!llvm\.|mem)[^\n]*)$", re.MULTILINE)


def alone(code: str) -> str:
    """LLVM code without a call into numba or Python: what would report an exception is unreachable.

    A kernel has nothing that can raise (`kernel_code`), but numba writes the branch all the same.
    """
    return _FOREIGN.sub(r"define internal \1 { unreachable }", code)


def _entry(kernel: Kernel) -> Any:
    """A Python function of one address that unpacks the words and calls the kernel's code."""
    from lamina.weights import kernel_code, pointers

    lines, names, word = [], [], 0
    for i, kind in enumerate(kernel.kinds):
        element, _, dimensions = kind.partition(":")
        name = f"a{i}"
        names.append(name)
        at = f"words[{word}]"
        if dimensions:
            shape = ", ".join(f"words[{word + 1 + d}]" for d in range(int(dimensions)))
            lines.append(f"{name} = carray({element}_at(np.uint64({at})), ({shape},))")
            word += 1 + int(dimensions)
        else:
            forms = {
                "i": at,
                "u": f"np.uint64({at})",
                "b": f"{at} != 0",
                "f": f"np.float32(doubles[{word}])",
            }
            lines.append(f"{name} = {forms[element]}")
            word += 1
    body = "\n    ".join(
        [
            f"words = carray(i8_at(block), ({word},))",
            f"doubles = carray(f8_at(block), ({word},))",
            *lines,
            f"code({', '.join(names)})",
        ]
    )
    space: dict[str, Any] = {
        "np": np,
        "code": getattr(kernel_code, kernel.name),
        **{name: getattr(pointers, name) for name in pointers.NAMES},
    }
    exec(f"def entry(block):\n    {body}\n", space)
    return space["entry"]


def rooms(count: int, columns: int, _local: Any = threading.local()) -> np.ndarray:  # noqa: B008
    """Scratch rows (count, columns) fp32 of this thread, with whatever they held before."""
    held = getattr(_local, "rows", None)
    if held is None or len(held) < count or held.shape[1] != columns:
        held = _local.rows = np.zeros((count, columns), np.float32)
    return held[:count]


def ready(kernels: Iterable[Kernel]) -> bool:
    """Whether the machine code of all these is kept already (then the first call is quick)."""
    return all(any((f / _key(k)).is_file() for f in cache_folders()) for k in kernels)
