"""The two sides of a check, each as code and a line that starts it.

Modules are put one after another, without their imports of each other, and compiled once; an
interpreter of the same version, which the sandbox's is, reads the code.
"""

import ast
import functools
import marshal
import threading
from pathlib import Path

_PARTS = {
    "program": ("codec", "remote", "remote_program"),
    "tests": ("codec", "remote", "remote_tests"),
}

TREES = threading.Lock()
"""Held while a text becomes a syntax tree: in Python 3.11 two threads that do so at once may get a
SystemError (recursion depth mismatch)."""
Side = tuple[bytes, str]
"""Trusted code, marshalled, and the text that is run after it."""


def program_side(fd: int, program: str) -> Side:
    """Runs a program and answers what is asked of it by the socket `fd`."""
    return _code("program"), f"serve({fd}, {program!r})\n"


def tests_side(fd: int, tests: str, names: tuple[str, ...]) -> Side:
    """Runs tests to their end, with `names` looked up by the socket `fd`."""
    return _code("tests"), f"report({fd}, {tests!r}, {names!r})\n"


def _code(side: str) -> bytes:
    with TREES:
        return _compiled(side)


@functools.cache
def _compiled(side: str) -> bytes:
    statements: list[ast.stmt] = []
    for name in _PARTS[side]:
        text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        statements += [one for one in ast.parse(text).body if not _is_ours(one)]
    whole, place = ast.Module(statements, []), f"<side of the {side}>"
    return marshal.dumps(compile(whole, place, "exec", dont_inherit=True, optimize=2))


def _is_ours(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("lamina")
