"""What this machine lets a launcher do. Every layer is tried in a child before it is counted on."""

import marshal
import os
import random
from collections.abc import Callable

from . import landlock, seccomp
from .enter import Users, enter
from .files import Files, find
from .plan import Plan
from .system import CALLS, PR_SET_NO_NEW_PRIVS, prctl

_FIRST_USER, _LAST_USER, _NUM_USERS = 0x70000000, 0x7FF00000, 60000
"""User numbers nobody hands out: above systemd's containers, below its foreign ones."""


def works(action: Callable[[], None]) -> str:
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
    with open(inlet, "rb") as told:
        problem = told.read().decode()
    _, status = os.waitpid(child, 0)
    return problem or (f"ended with status {status}" if status else "")


def find_users() -> Users | None:
    """The outside user numbers that programs may have, None if we may not choose."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map", encoding="ascii") as file:
        rows = [tuple(map(int, line.split())) for line in file]
    for inner, _, count in rows:
        if inner <= _FIRST_USER and inner + count >= _LAST_USER:
            draw = random.SystemRandom()
            return draw.randrange(_FIRST_USER, _LAST_USER - _NUM_USERS), _NUM_USERS
    inner, _, count = max(rows, key=lambda row: row[2])
    return (inner + count - 6000, 4000) if count > 20000 else None


def find_plan(without: set[str], files: Files | None) -> Plan:
    """The layers that hold, entered where they are the launcher's. `files`: known already, for
    bubblewrap has put us where only they are."""
    bubblewrap = files is not None
    plan = Plan(files or find(), bubblewrap=bubblewrap)
    path = os.path.join(os.path.dirname(__file__), "runner.py")
    with open(path, encoding="utf-8") as text:
        plan.runner = marshal.dumps(compile(text.read(), "<runner>", "exec"))
    plan.seccomp = _has_seccomp(plan, "seccomp" in without)
    if "landlock" in without:
        plan.missing.append("landlock: switched off")
    else:
        plan.landlock = landlock.version()
        plan.missing += [] if plan.landlock else ["landlock: not in this kernel"]
    users = None if bubblewrap else find_users()
    if "namespaces" in without or bubblewrap:
        plan.missing += ["namespaces: switched off"] * (not bubblewrap)
    elif problem := works(lambda: enter(Plan(plan.files), users)):
        plan.missing.append(f"namespaces: {problem}")
    else:
        enter(plan, users)
    if not plan.namespaces and users is not None and not _is_closed(plan.files, users[0]):
        plan.users, plan.num_users = users
    return plan


def _has_seccomp(plan: Plan, off: bool) -> bool:
    def filtered() -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(seccomp.build(pid=os.getpid(), exec_address=1, real_files=True))

    problem = "switched off" if off else "" if CALLS else "no table of system calls"
    problem = problem or works(filtered)
    if not problem:
        for real_files in (False, True):  # made here once, kept by all children
            seccomp.build(pid=1, exec_address=1, real_files=real_files)
    plan.missing += [f"seccomp: {problem}"] if problem else []
    return not problem


def _is_closed(files: Files, user: int) -> str:
    """Whether another user can run this interpreter where it lies."""

    def become_and_look() -> None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        for path in (files.executable, *files.folders, *files.libraries):
            os.close(os.open(path, os.O_RDONLY))

    return works(become_and_look)


def describe(plan: Plan) -> dict:
    """Layers in force, those missing, and what nothing holds."""
    layers = {
        "limits": True,
        "namespaces": plan.namespaces,
        "bubblewrap": plan.bubblewrap,
        "own user": plan.users is not None,
        f"landlock {plan.landlock}": plan.landlock > 0,
        "seccomp": plan.seccomp,
    }
    apart = plan.namespaces or plan.bubblewrap
    held = {
        "files": apart or plan.landlock > 0,
        "network": apart or plan.seccomp,
        "processes": plan.namespaces or plan.seccomp,
    }
    return {
        "layers": [name for name, holds in layers.items() if holds],
        "missing": plan.missing,
        "lacks": [name for name, holds in held.items() if not holds],
        "files": plan.files.as_json(),
    }
