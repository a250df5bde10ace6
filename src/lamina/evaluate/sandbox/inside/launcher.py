"""The launcher: finds out what holds, enters namespaces, then forks a supervisor per program."""

import gc
import json
import os
import signal
import socket
import tempfile
import time

from . import folder, landlock, root, supervise
from .files import Files
from .plan import Plan, Request
from .probing import describe, find_plan
from .rules import rules_for
from .system import PR_SET_PDEATHSIG, moved_up, prctl

_PAUSE_SECONDS = 0.05


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
    gc.collect()
    gc.freeze()
    gc.disable()  # what is not touched after a fork is not copied
    _serve(plan, host)


def _serve(plan: Plan, host: socket.socket) -> None:
    """Keep one supervisor waiting: it takes the next request from the socket and says so."""
    number, (taken, take) = 0, os.pipe()
    while True:
        number += 1
        try:
            child = os.fork()
        except OSError:  # as many processes as there may be: some will end
            time.sleep(_PAUSE_SECONDS)
            continue
        if child == 0:
            _await(plan, number, host, take)
        if os.read(taken, 1) == b"e":  # the socket was closed
            return


def _await(plan: Plan, number: int, host: socket.socket, take: int) -> None:
    """In a child: prepare what no request is needed for, then wait for one and answer it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prctl(PR_SET_PDEATHSIG, 9)
    try:
        first = supervise.first_process(plan)
    except OSError:
        time.sleep(_PAUSE_SECONDS)
        os.write(take, b"t")  # what is asked stays in the socket for the next one
        os._exit(1)
    try:
        data, ends, _, _ = socket.recv_fds(host, 1, 2)
    except OSError:
        data, ends = b"", []
    os.write(take, b"t" if data else b"e")
    os.close(take)
    host.close()
    if data:
        _answer(plan, number, first, [moved_up(end) for end in ends])
    elif first is not None:
        os.kill(first, signal.SIGKILL)
    os._exit(0)


def _answer(plan: Plan, number: int, first: int | None, ends: list[int]) -> None:
    """One request from its socket, one answer. A second end is the program's own."""
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
        answer = supervise.run(plan, request, number, asked.fileno(), first)
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {error}"}
    try:
        if place:
            folder.remove(place)
        asked.sendall(json.dumps(answer).encode())
    except OSError:
        pass  # nobody waits for it any more; what is left is removed with the sandbox's folder


def _encoded(source: str) -> bytes:
    """The bytes that a file of this text has, or had before it was read with surrogateescape."""
    try:
        return source.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return source.encode(errors="surrogatepass")
