"""The launcher: finds out what holds, enters its namespaces, then forks a supervisor per program."""

import json
import os
import random
import signal
import socket
import struct
import tempfile

from . import confine, files, landlock, root, seccomp, supervise
from .plan import Plan, Request
from .rules import rules_for
from .system import (
    CALLS,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    call,
    moved_up,
    prctl,
)

_FIRST_USERS, _LAST_USERS = 0x70000000, 0x7FF00000
"""User numbers nobody hands out: above systemd's containers, below the foreign ones."""
_NUM_USERS = 60000


def works(action) -> str:
    """Try `action` in a child: empty if it worked, else what went wrong."""
    inlet, outlet = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:
            os.write(outlet, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(outlet)
    with open(inlet, "rb") as told:  # noqa: PTH123
        problem = told.read().decode()
    _, status = os.waitpid(child, 0)
    return problem or (f"ended with status {status}" if status else "")


def _users() -> tuple[int, int] | None:
    """(first, how many) outside user numbers for programs, None if we may not choose."""
    if os.geteuid() != 0:
        return None
    rows = [tuple(map(int, line.split())) for line in open("/proc/self/uid_map")]  # noqa: PTH123
    for inner, _, count in rows:
        if inner <= _FIRST_USERS and inner + count >= _LAST_USERS:
            return random.SystemRandom().randrange(
                _FIRST_USERS, _LAST_USERS - _NUM_USERS
            ), _NUM_USERS
    inner, _, count = max(rows, key=lambda row: row[2])
    return (inner + count - 6000, 4000) if count > 20000 else None


def _enter(plan: Plan, users: tuple[int, int] | None) -> None:
    """Namespaces of the launcher, its maps, and the new root. As root the files come first, for
    the new user must not see them where the machine's folders are closed to it."""
    plan.proc = moved_up(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY))
    rest = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET
    if users is None:
        outer = f"0 {os.geteuid()} 1", f"0 {os.getegid()} 1"
        call("unshare", rest)
        confine.write_map(plan.proc, "setgroups", "deny")
        confine.write_map(plan.proc, "uid_map", outer[0])
        confine.write_map(plan.proc, "gid_map", outer[1])
        root.enter_new_root(plan.files)
        return
    call("unshare", CLONE_NEWNS)
    root.enter_new_root(plan.files)
    ready, asked = os.pipe(), os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        code = 1
        try:
            os.read(asked[0], 1)
            for name in ("uid_map", "gid_map"):
                file = os.open(f"{parent}/{name}", os.O_WRONLY, dir_fd=plan.proc)
                os.write(file, f"0 {users[0]} {users[1]}".encode())
            code = 0
        finally:
            os.write(ready[1], b"%d" % code)
            os._exit(code)
    call("unshare", rest)
    os.write(asked[1], b"x")
    answer = os.read(ready[0], 1)
    os.waitpid(helper, 0)
    for end in (*ready, *asked):
        os.close(end)
    if answer != b"0":
        raise OSError(1, "the map of users could not be written")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    plan.users, plan.num_users = 1, users[1] - 1


def make_plan(without: set[str]) -> tuple[Plan, list[str]]:
    """What holds here, and the problems of what does not. Enters the namespaces."""
    plan, missing = Plan(files.find()), []
    here = os.path.dirname(__file__)
    with open(os.path.join(here, "runner.py"), encoding="utf-8") as text:  # noqa: PTH123
        import marshal

        plan.runner = marshal.dumps(compile(text.read(), "<runner>", "exec"))
    users = _users()

    def seccomp_works():
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.build(pid=os.getpid(), exec_address=1, real_files=True))

    if "seccomp" in without or not CALLS:
        missing.append("seccomp: switched off")
    elif problem := works(seccomp_works):
        missing.append(f"seccomp: {problem}")
    else:
        plan.seccomp = True
    if "landlock" in without or not landlock.version():
        missing.append(
            "landlock: switched off" if "landlock" in without else "landlock: not in the kernel"
        )
    else:
        plan.landlock = landlock.version()
    if "namespaces" in without:
        missing.append("namespaces: switched off")
    elif problem := works(lambda: _enter(Plan(plan.files), users)):
        missing.append(f"namespaces: {problem}")
    else:
        _enter(plan, users)
        plan.namespaces = plan.network = plan.counts = True
    return plan, missing


def _describe(plan: Plan, missing: list[str]) -> dict:
    layers = ["limits"]
    layers += ["namespaces"] if plan.namespaces else []
    layers += ["user"] if plan.users is not None else []
    layers += [f"landlock {plan.landlock}"] if plan.landlock else []
    layers += ["seccomp"] if plan.seccomp else []
    lacks = []
    if not (plan.namespaces or plan.landlock):
        lacks.append("files")
    if not (plan.network or plan.seccomp):
        lacks.append("network")
    if not (plan.namespaces or plan.seccomp):
        lacks.append("processes")
    return {"layers": layers, "missing": missing, "lacks": lacks}


def main(descriptor: int, without: set[str]) -> None:
    """Serve requests that come as descriptors over the socket, until it is closed."""
    host = socket.socket(fileno=descriptor)
    try:
        plan, missing = make_plan(without)
    except Exception as error:
        host.sendall(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        return
    if plan.namespaces:
        child = os.fork()  # the first process of the pid namespace
        if child:
            host.close()
            os.waitpid(child, 0)
            os._exit(0)
        prctl(PR_SET_PDEATHSIG, 9)
    if plan.landlock and plan.namespaces:
        made = landlock.ruleset(rules_for(plan.files, root.PARENT), abi=plan.landlock)
        plan.ruleset = moved_up(made)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    host.sendall(json.dumps(_describe(plan, missing)).encode() + b"\n")
    number = 0
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(host, 1, 2)
        except InterruptedError:
            continue
        if not data:
            break
        number += 1
        if os.fork() == 0:
            host.close()
            _serve(plan, number, *fds)
        for one in fds:
            os.close(one)


def _serve(plan: Plan, number: int, descriptor: int, link: int | None = None) -> None:
    """In a child: one request from its socket, one answer; `link` goes to the program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prctl(PR_SET_PDEATHSIG, 9)
    try:
        asked = socket.socket(fileno=descriptor)
        with asked.makefile("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            told = json.loads(stream.read(size))
        folder = root.FOLDER if plan.namespaces else tempfile.mkdtemp(dir=told["folder"])
        source = told["source"].encode(errors="surrogatepass")
        request = Request(source, told["limits"], folder, link)
        try:
            answer = supervise.run(plan, request, number, asked.fileno())
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        asked.sendall(json.dumps(answer).encode())
    finally:
        os._exit(0)
