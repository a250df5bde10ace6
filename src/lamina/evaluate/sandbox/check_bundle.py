"""The two sides of a check as one text each, to be run by a bare interpreter.

The modules are put one after another, without their imports of each other; compiled once in a
process, so that an interpreter of the same version (the same one) only reads the code.
"""

import ast
import functools
import marshal
from pathlib import Path

_PARTS = {
    "program": ("codec", "remote", "remote_program"),
    "tests": ("codec", "remote", "remote_tests"),
}


def program_side(fd: int, program: str) -> str:
    """The text that runs a program and answers what is asked of it by the socket `fd`."""
    return f"{_begin('program')}serve({fd}, {program!r})\n"


def tests_side(fd: int, tests: str, names: tuple[str, ...]) -> str:
    """The text that runs tests to their end, with `names` looked up by the socket `fd`."""
    return f"{_begin('tests')}report({fd}, {tests!r}, {names!r})\n"


@functools.cache
def _begin(side: str) -> str:
    statements: list[ast.stmt] = []
    for name in _PARTS[side]:
        text = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
        statements += [one for one in ast.parse(text).body if not _is_ours(one)]
    code = compile(
        ast.Module(statements, []), f"<side of the {side}>", "exec", dont_inherit=True, optimize=2
    )
    return f"import marshal\nexec(marshal.loads({marshal.dumps(code)!r}))\n"


def _is_ours(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("lamina")
