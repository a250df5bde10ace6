"""The program's side of a check: it is run here, then what the tests ask of it is answered.

Everything in this process may be taken over by the program; that gives it nothing, for the other
side believes only plain values. Self-contained with `codec` and `remote`.
"""

import contextlib

from lamina.evaluate.sandbox.remote import DEEDS, Gone, Peer, told_of


def serve(fd, program):
    """Run the text as a module, say what went wrong, and answer until the other side closes."""
    peer = Peer(fd, DEEDS, names={})
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), peer.names)
        peer.write(peer.value(""))
    except BaseException as error:
        peer.write(peer.value(told_of(error, "<program>", program)))
        raise
    with contextlib.suppress(Gone):
        peer.read()
