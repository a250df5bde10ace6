"""The launcher: finds out what holds, enters namespaces, then forks a supervisor per program."""

import json
import os
import signal
import socket
import tempfile

from . import folder, landlock, root, supervise
from .files import Files
from .plan import Plan, Request
from .probing import describe, find_plan
from .rules import rules_for
from .system import PR_SET_PDEATHSIG, moved_up, prctl


def main(descriptor: int, told: str) -> None:
    """Serve requests that come as descriptors over the socket, until it is closed."""
    host = socket.socket(fileno=moved_up(descriptor))
    options = json.loads(told)
    files = Files.of_json(options["files"]) if options["files"] else None
    try:
        plan = find_plan(set(options["without"]), files)
    except Exception as error:
        host.sendall(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        return
    if plan.namespaces:
        child = os.fork()  # the first process of the pid namespace: when it ends, all there end
        if child:
            host.close()
            os.waitpid(child, 0)
            os._exit(0)
        prctl(PR_SET_PDEATHSIG, 9)
        if plan.landlock:
            rules = rules_for(plan.files, root.PARENT)
            plan.ruleset = moved_up(landlock.ruleset(rules, abi=plan.landlock))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    host.sendall(json.dumps(describe(plan)).encode() + b"\n")
    _serve(plan, host)


def _serve(plan: Plan, host: socket.socket) -> None:
    number = 0
    while True:
        data, ends, _, _ = socket.recv_fds(host, 1, 2)
        if not data:
            return
        number += 1
        if os.fork() == 0:
            host.close()
            _answer(plan, number, [moved_up(end) for end in ends])
        for end in ends:
            os.close(end)


def _answer(plan: Plan, number: int, ends: list[int]) -> None:
    """In a child: one request from its socket, one answer. A second end is the program's own."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prctl(PR_SET_PDEATHSIG, 9)
    asked = socket.socket(fileno=ends[0])
    place = ""
    try:
        with asked.makefile("rb") as stream:
            told = json.loads(stream.read(int(stream.read(16))))
        if not plan.namespaces:
            place = tempfile.mkdtemp(dir=root.PARENT if plan.bubblewrap else told["folder"])
            if plan.users is not None:
                os.chown(place, plan.user(number), plan.user(number))
        request = Request(
            source=_encoded(told["source"]),
            before=bytes.fromhex(told["before"]),
            shown=told["shown"],
            limits=told["limits"],
            folder=place or root.FOLDER,
            link=ends[1] if len(ends) > 1 else None,
        )
        answer = supervise.run(plan, request, number, asked.fileno())
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {error}"}
    try:
        if place:
            folder.remove(place)
        asked.sendall(json.dumps(answer).encode())
    finally:
        os._exit(0)


def _encoded(source: str) -> bytes:
    """The bytes that a file of this text has, or had before it was read with surrogateescape."""
    try:
        return source.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return source.encode(errors="surrogatepass")
