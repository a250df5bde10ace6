"""The tests' side of a check: no line of the program is run here.

Self-contained with `codec` and `remote`.
"""

import builtins
import contextlib
import sys

from lamina.evaluate.sandbox.remote import CALLS, Gone, Peer


class ProgramFailed(Exception):
    """The program did not come to its end, so no test was run."""


def examine(fd, tests, names):
    """Run the tests to their end, with `names` looked up in the program's process.

    Raises what a test raises, and `Gone` also where a test swallowed it.
    """
    peer = Peer(fd, CALLS)
    try:
        peer.read()
    except Gone:
        raise
    except BaseException as error:
        raise ProgramFailed(f"{type(error).__name__}: {error}") from None
    known = {"__builtins__": builtins}
    for name in names:
        with contextlib.suppress(NameError):
            known[name] = peer.ask("look up", name)
    try:
        exec(compile(tests, "<tests>", "exec", dont_inherit=True), known)
    except AssertionError as error:
        if peer.compared:
            kinds = ", ".join(sorted(peer.compared))
            error.add_note(f"compared as unequal, since it is no plain value: {kinds}")
        raise
    if peer.gone is not None:
        raise Gone(peer.gone)


def report(fd, tests, names):
    """`examine`, and what went wrong as the last line that is printed."""
    try:
        examine(fd, tests, names)
    except BaseException as error:
        told = type(error).__name__, f"{_place(error, tests)}{_said(error)}"
        sys.stdout.write(f"\n{told!a}\n")
        raise


def _place(error, tests):
    """The last line of the tests that the error came by."""
    number, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            number = trace.tb_lineno
        trace = trace.tb_next
    lines = tests.splitlines()
    return f"{lines[number - 1].strip()[:500]}\n" if 0 < number <= len(lines) else ""


def _said(error):
    try:
        words = [f"{type(error).__name__}: {error}".removesuffix(": ")]
    except Exception:
        words = [type(error).__name__]
    return "\n".join([*words, *getattr(error, "__notes__", ())])[:2000]
