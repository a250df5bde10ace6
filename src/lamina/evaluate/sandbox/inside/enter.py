"""The launcher's own namespaces, which its programs' are made in."""

import os

from . import root
from .plan import Plan
from .system import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    call,
    moved_up,
)

Users = tuple[int, int]
"""The first of a run of user numbers, and how many."""
_ALL = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET


def write_map(proc: int, name: str, text: str, *, process: str = "self") -> None:
    """Write one of a process's user-namespace files through an open /proc."""
    file = os.open(f"{process}/{name}", os.O_WRONLY, dir_fd=proc)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def enter(plan: Plan, users: Users | None) -> None:
    """Enter all namespaces (that of processes holds for the next child) and the new root.

    As root the files come first: the new user must not see them where folders are closed to it.
    A network namespace costs milliseconds and is empty; so the programs share the launcher's.
    """
    plan.proc = moved_up(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY))
    if users is None:
        user, group = os.geteuid(), os.getegid()
        call("unshare", _ALL)
        write_map(plan.proc, "setgroups", "deny")
        write_map(plan.proc, "uid_map", f"0 {user} 1")
        write_map(plan.proc, "gid_map", f"0 {group} 1")
        root.enter_new_root(plan.files)
    else:
        call("unshare", CLONE_NEWNS)
        root.enter_new_root(plan.files)
        _become_root_of(plan.proc, users)
        plan.users, plan.num_users = 1, users[1] - 1
    plan.namespaces = True


def _become_root_of(proc: int, users: Users) -> None:
    """A user namespace with many users, whose map a helper outside must write."""
    us = str(os.getpid())
    (told, tell), (heard, answer) = os.pipe(), os.pipe()
    helper = os.fork()
    if helper == 0:
        done = b"no"
        try:
            os.read(told, 1)
            for name in ("uid_map", "gid_map"):
                write_map(proc, name, f"0 {users[0]} {users[1]}", process=us)
            done = b"yes"
        finally:
            os.write(answer, done)
            os._exit(0)
    try:
        call("unshare", _ALL)
        os.write(tell, b"x")
        done = os.read(heard, 3)
    finally:
        os.close(tell)
        os.waitpid(helper, 0)
        for end in (told, heard, answer):
            os.close(end)
    if done != b"yes":
        raise OSError(1, "the map of users could not be written")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
