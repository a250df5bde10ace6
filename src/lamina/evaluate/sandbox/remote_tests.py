"""The tests' side of a check: no line of the program is run here.

Self-contained with `codec` and `remote`.
"""

import builtins
import contextlib
import sys

from lamina.evaluate.sandbox.remote import CALLS, Gone, Peer, told_of


class ProgramFailed(Exception):
    """The program did not come to its end, so no test was run."""


def examine(fd, tests, names):
    """Run the tests to their end, with `names` looked up in the program's process.

    Raises what a test raises, and `Gone` also where a test swallowed it.
    """
    peer = Peer(fd, CALLS)
    began = peer.read()
    if began != "":
        raise ProgramFailed(str(began)[:4000])
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
        told = type(error).__name__, told_of(error, "<tests>", tests)
        sys.stdout.write(f"\n{told!a}\n")
        raise
