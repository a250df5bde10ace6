"""The last steps of a process before it is the program: everything is given up, in order."""

import ctypes
import os
import resource

from . import landlock, root, seccomp
from .enter import write_map
from .plan import BOOT, Plan, Request
from .system import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    PR_SET_SECUREBITS,
    call,
    close_from,
    libc,
    prctl,
)

INNER = 1000
"""The program's user and group as it sees them, in its own user namespace."""
_PAGE = 4096


def become_user(plan: Plan, number: int) -> None:
    """Another user for every program, where there is more than one to be had."""
    if plan.users is None:
        return
    user = plan.user(number)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    prctl(PR_SET_DUMPABLE, 1)


def own_namespaces(plan: Plan, request: Request) -> None:
    """User, mount, ipc and uts namespaces, and the program's folder on its own tmpfs."""
    outer_user, outer_group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS)
    assert plan.proc is not None
    write_map(plan.proc, "setgroups", "deny")
    write_map(plan.proc, "uid_map", f"{INNER} {outer_user} 1")
    write_map(plan.proc, "gid_map", f"{INNER} {outer_group} 1")
    libc.sethostname(b"sandbox", 7)
    num_files = max(64, request.limits["folder_bytes"] >> 15)
    root.own_folder(request.limits["folder_bytes"], num_files, INNER)


def set_limits(limits: dict, *, processes: int | None) -> None:
    """Resource limits, soft and hard alike, so that they cannot be raised again."""
    cpu = limits["cpu_seconds"]
    both = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_DATA: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_STACK: 8 << 20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    if processes is not None:
        both[resource.RLIMIT_NPROC] = processes
    for kind, most in both.items():
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))


def drop_capabilities() -> None:
    """None effective, permitted, inheritable or to be had again; set-user-id means nothing."""
    try:
        prctl(PR_SET_SECUREBITS, 0xEF)  # NOROOT, NO_SETUID_FIXUP, KEEP_CAPS off, no ambient: locked
        for capability in range(64):
            prctl(PR_CAPBSET_DROP, capability)
    except OSError:
        pass  # the end of the list, or we had no right to: then there is nothing to drop
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if libc.capset(head, (ctypes.c_uint32 * 6)()) < 0:
        raise OSError(ctypes.get_errno(), "capset")


def _name_at_random_address(executable: str) -> int:
    """The path in memory that nothing else has, at an address drawn at random below 2^37."""
    mmap = libc.mmap
    mmap.restype = ctypes.c_void_p
    address = (1 << 36) + int.from_bytes(os.urandom(3), "little") * _PAGE
    made = mmap(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), 3, 0x100022, -1, ctypes.c_long(0))
    if made != address:
        raise OSError(ctypes.get_errno(), "mmap of the program's name")
    path = os.fsencode(executable) + b"\0"
    ctypes.memmove(address, path, len(path))
    return address


def start_program(plan: Plan, request: Request, number: int, ruleset: int | None) -> None:
    """Give up everything and become the interpreter; returns only by an exception."""
    os.setsid()
    become_user(plan, number)
    if plan.namespaces:
        own_namespaces(plan, request)
    os.chdir(request.folder)
    drop_capabilities()
    processes = request.limits["processes"] if plan.seccomp else 1
    set_limits(request.limits, processes=processes if plan.counts else None)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, 9)
    address = _name_at_random_address(plan.files.executable)
    words = [plan.files.executable, "-I", "-S", "-B", "-X", "utf8", "-c", BOOT]
    arguments = (ctypes.c_char_p * (len(words) + 1))(*[os.fsencode(word) for word in words], None)
    environment = (ctypes.c_char_p * 1)(None)
    if ruleset is not None:
        landlock.restrict(ruleset)
    close_from(5 if request.link is None else 6)
    if plan.seccomp:
        seccomp.install(
            seccomp.build(pid=os.getpid(), exec_address=address, real_files=not plan.namespaces)
        )
    call("execve", ctypes.c_void_p(address), arguments, environment)
