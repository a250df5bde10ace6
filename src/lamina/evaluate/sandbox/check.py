"""A program and its tests, each in a process of its own, so that neither the tests nor the verdict
can be reached by the program.

The program's process runs it and then answers calls over a socket; the tests' process holds no line
of it. There every name that the tests use but do not define stands for something of the program's,
and what comes back from it is plain data (`codec`), compared by the tests' own interpreter. So a
program that patches built-ins, looks into frames, leaves early, prints whatever it likes or returns
things that equal everything has changed nothing but its own process.

Differences from running both in one file, for programs that mean well: arguments and results are
copies; an instance of a class of the program's equals only itself; built-in names in the tests are
the built-ins, even where the program defines them anew (but for its `entry`); `__name__` is not
`__main__`, as in lm-evaluation-harness. Cost: one more process, and 0.05 to 0.2 ms a call.
"""

import ast
import socket
from typing import Protocol

from lamina.evaluate.sandbox.check_bundle import TREES, program_side, tests_side
from lamina.evaluate.sandbox.check_names import free_names
from lamina.evaluate.sandbox.nouns import Verdict
from lamina.evaluate.sandbox.running import Running

LINK = 5
"""The descriptor of the socket in both processes."""
LINGER_SECONDS = 0.5
"""How long a program may take to end once its tests have."""
LINGERED = "went on after its tests"


class Start(Protocol):
    """`Sandbox.start`."""

    def __call__(
        self, source: str, link: socket.socket, *, before: bytes, shown: str
    ) -> Running: ...


def check(start: Start, program: str, tests: str, entry: str | None) -> Verdict:
    """Run the tests of a program; `start` starts each side with one end of the link.

    The verdict is of the tests; where they could not go on because of the program, the reason is
    what became of it. `output` is what the program printed.
    """
    try:
        names = set(free_names(tests)) | ({entry} if entry else set())
    except (SyntaxError, ValueError) as error:
        told = f"in the tests: {type(error).__name__}: {error}"
        return Verdict(False, "error", told, 0.0, (), "")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    # Both ends must be closed here at once: a side sees the other one end by that.
    with ours, theirs:
        code, source = program_side(LINK, program)
        of_program = start(source, theirs, before=code, shown=program)
        code, source = tests_side(LINK, tests, tuple(sorted(names)))
        of_tests = start(source, ours, before=code, shown="")
    told = of_tests.verdict()
    return combine(told, of_program.verdict(within=LINGER_SECONDS))


def combine(tests: Verdict, program: Verdict) -> Verdict:
    """One verdict of two: passed if the tests did."""
    kind, detail = _outcome(tests.output)
    reason, suspicious = tests.reason, program.suspicious
    if tests.passed:
        detail = ""
        if program.reason == "sandbox":
            suspicious = (*suspicious, LINGERED)
    elif kind == "ProgramFailed" and not program.passed:
        reason, detail = program.reason, detail.removeprefix("ProgramFailed: ")
    elif kind in ("Gone", "ProgramFailed") or (not kind and reason == "timed out"):
        reason, detail = _of_program(program, reason, detail)
    elif kind == "AssertionError":
        reason = "wrong"
    else:
        detail = detail or tests.detail
    return Verdict(
        passed=tests.passed,
        reason=reason,
        detail=detail,
        seconds=max(tests.seconds, program.seconds),
        suspicious=suspicious,
        output=program.output,
    )


def _of_program(program: Verdict, reason: str, detail: str) -> tuple[str, str]:
    """Why tests could not go on: what became of the program, if it did not end by itself."""
    if program.passed:
        return ("tampered" if reason == "error" else reason), detail
    return program.reason, program.detail


def _outcome(output: str) -> tuple[str, str]:
    """(kind of error, its place and text) as the tests' side printed them last."""
    last = output.rstrip("\n").rpartition("\n")[2]
    try:
        with TREES:
            kind, detail = ast.literal_eval(last)
    except (ValueError, SyntaxError, TypeError):
        return "", ""
    return str(kind), str(detail)
