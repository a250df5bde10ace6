"""`lamina sandbox`: one program, run where it can do no harm."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lamina.core.errors import DataError, RecipeError


def sandbox(
    file: Path,
    /,
    *,
    seconds: float = 10.0,
    cpu_seconds: int = 10,
    memory: Annotated[int, Parameter(help="Megabytes of address space.")] = 1024,
    folder: Annotated[int, Parameter(help="Megabytes in its own folder.")] = 32,
    file_size: Annotated[int, Parameter(help="Megabytes of one file.")] = 16,
    threads: int = 32,
    open_files: int = 64,
    output: Annotated[int, Parameter(help="Kilobytes of stdout and stderr.")] = 1024,
    as_json: Annotated[bool, Parameter(name="--json", help="Is always so.", negative=())] = True,
) -> None:
    """Run a Python program in the sandbox and print the verdict as JSON; exit code 0 if it passed.

    Passed means that the whole program ran to its end without an error. Exit code 1 if it did not.

    Parameters
    ----------
    file
        The program.
    seconds
        Wall time.
    cpu_seconds
        Processor time.
    threads
        Threads; new processes are refused.
    open_files
        Open files.
    """
    from lamina.evaluate.sandbox import Limits, Sandbox

    asked = {
        "--seconds": seconds,
        "--cpu-seconds": cpu_seconds,
        "--memory": memory,
        "--folder": folder,
        "--file-size": file_size,
        "--threads": threads,
        "--open-files": open_files,
        "--output": output,
    }
    _check(asked)
    limits = Limits(
        wall_seconds=seconds,
        cpu_seconds=cpu_seconds,
        memory_bytes=memory << 20,
        file_bytes=file_size << 20,
        folder_bytes=folder << 20,
        processes=threads,
        open_files=open_files,
        output_bytes=output << 10,
    )
    source = _read(file)
    with Sandbox(limits) as box:
        verdict = box.run(source)
        print(json.dumps(verdict.as_json() | box.as_json(), indent=1))
    if not verdict.passed:
        raise SystemExit(1)


LEAST = {"--seconds": 0.1, "--memory": 64, "--open-files": 16}
"""Below these no interpreter starts; of all else at least 1 is needed."""
MOST = {"--seconds": 86_400, "--cpu-seconds": 86_400, "--threads": 1 << 20, "--open-files": 1 << 20}
"""A day, and what kernels count to; of megabytes and kilobytes 16 million."""


def _check(asked: dict[str, float]) -> None:
    low = [
        f"{name} {value:g} (at least {LEAST.get(name, 1):g})"
        for name, value in asked.items()
        if not value >= LEAST.get(name, 1)
    ]
    if low:
        raise RecipeError(f"no program can run within these limits: {', '.join(low)}.")
    high = [
        f"{name} {value:g} (at most {MOST.get(name, 1 << 24)})"
        for name, value in asked.items()
        if value > MOST.get(name, 1 << 24)
    ]
    if high:
        raise RecipeError(f"these limits are larger than any machine: {', '.join(high)}.")


def _read(file: Path) -> str:
    """The text; bytes that are no UTF-8 are kept, for the interpreter to say so."""
    if file.is_dir():
        raise DataError(f"{file} is a folder; `lamina sandbox` runs one Python file.")
    try:
        return file.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
