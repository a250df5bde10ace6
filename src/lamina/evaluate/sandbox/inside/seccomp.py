"""seccomp: which system calls the kernel refuses to a program, as BPF written by hand.

Layout of what the filter reads: number (4 bytes), machine (4), address (8), six arguments (8 each).
A refused call gives EPERM, a call newer than this list ENOSYS; a call of another machine (32-bit,
x32) ends the process.
"""

import ctypes
import functools
import struct

from .system import CALLS, CLONE_THREAD, HIGHEST, MACHINE, call

_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x25, 0x45, 0x06, 0x54
_KILL, _ERROR, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

REFUSED = """
fork vfork execveat socket connect bind listen ptrace process_vm_readv process_vm_writev kcmp tkill
rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_open pidfd_getfd process_madvise
process_mrelease unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig
fsmount fspick mount_setattr statmount listmount bpf perf_event_open io_uring_setup io_uring_enter
io_uring_register io_setup io_destroy io_submit io_pgetevents userfaultfd add_key request_key keyctl
memfd_create memfd_secret shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd
msgrcv msgctl mq_open mq_unlink setrlimit init_module finit_module delete_module create_module
query_module get_kernel_syms kexec_load kexec_file_load reboot swapon swapoff settimeofday
clock_settime clock_adjtime adjtimex personality modify_ldt iopl ioperm acct quotactl quotactl_fd
syslog sethostname setdomainname vhangup uselib ustat _sysctl nfsservctl lookup_dcookie
name_to_handle_at open_by_handle_at fanotify_init inotify_init inotify_init1 mbind set_mempolicy
set_mempolicy_home_node migrate_pages move_pages remap_file_pages setpriority ioprio_set
sched_setparam sched_setscheduler sched_setattr sched_setaffinity sync seccomp capset
landlock_create_ruleset lsm_set_self_attr
""".split()
CHANGES = """
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat
setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat truncate
""".split()
"""Changes of files that Landlock does not see: refused where the real file system is in view."""
_SIGNALS_BY_FILE = (8, 10, 15, 1026, 1031)
"""fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX, F_NOTIFY, and F_SETPIPE_SZ, which takes memory."""
_IOCTLS = (0x5452, 0x8901, 0x8902, 0x5412, 0x541C)
"""FIOASYNC, FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX."""


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _argument(index: int, *, high: bool = False) -> bytes:
    return _step(_LOAD, 16 + 8 * index + (4 if high else 0))


_REFUSE, _ACCEPT = _step(_RETURN, _ERROR | _EPERM), _step(_RETURN, _ALLOW)


def _is_any(index: int, values: tuple[int, ...]) -> list[bytes]:
    """Refuse where the argument's low half is one of `values`, else allow."""
    steps = [_argument(index)]
    for value in values:
        steps += [_step(_EQUAL, value, 0, 1), _REFUSE]
    return [*steps, _ACCEPT]


def _only(*tests: tuple[int, bool, int]) -> list[bytes]:
    """Allow where every (argument, high half, value) is so, else refuse."""
    steps = []
    for index, high, value in tests:
        steps += [_argument(index, high=high), _step(_EQUAL, value, 1, 0), _REFUSE]
    return [*steps, _ACCEPT]


def _no_truncating_reads(index: int) -> list[bytes]:
    """Refuse O_TRUNC with O_RDONLY, which Landlock before its third ABI lets pass."""
    return [
        _argument(index),
        _step(_ANY_BIT, 0x200, 0, 2),
        _step(_ANY_BIT, 3, 1, 0),
        _REFUSE,
        _ACCEPT,
    ]


def build(*, pid: int, exec_address: int, real_files: bool) -> bytes:
    """The filter: `pid` may signal itself only and run the file named at `exec_address` only.

    The name's address is drawn at random for every program and is no memory of the new process, so
    that after the one start there is no second.
    """
    own = _only((0, False, pid))
    address = _only((0, False, exec_address & 0xFFFFFFFF), (0, True, exec_address >> 32))
    special = {"kill": own, "tgkill": own, "execve": address}
    return _HEAD + _steps(special) + _same_for_all(real_files)


def _steps(bodies: dict[str, list[bytes]]) -> bytes:
    """A test of the call's number before each body; calls this machine has not are left out."""
    known = {CALLS[name]: body for name, body in bodies.items() if name in CALLS}
    return b"".join(
        _step(_EQUAL, number, 0, len(body)) + b"".join(body) for number, body in known.items()
    )


@functools.cache
def _same_for_all(real_files: bool) -> bytes:
    special = {
        "clone": [_argument(0), _step(_ANY_BIT, CLONE_THREAD, 1, 0), _REFUSE, _ACCEPT],
        "clone3": [_step(_RETURN, _ERROR | _ENOSYS)],
        "prlimit64": _only((0, False, 0), (2, False, 0), (2, True, 0)),
        "socketpair": [
            *_only((0, False, 1))[:-1],
            _argument(1),
            _step(_AND, 0xF),
            _step(_EQUAL, 1, 1, 0),
            _REFUSE,
            _ACCEPT,
        ],
        "fcntl": _is_any(1, _SIGNALS_BY_FILE),
        "ioctl": _is_any(1, _IOCTLS),
    }
    if real_files:
        special |= {"open": _no_truncating_reads(1), "openat": _no_truncating_reads(2)}
        special["openat2"] = [_step(_RETURN, _ERROR | _ENOSYS)]
    special |= {name: [_REFUSE] for name in REFUSED + (CHANGES if real_files else [])}
    last = [_step(_GREATER, HIGHEST, 0, 1), _step(_RETURN, _ERROR | _ENOSYS), _ACCEPT]
    return _steps(special) + b"".join(last)


def _head() -> bytes:
    """Another machine's call ends the process, x32 on x86_64 too; then the number is loaded."""
    if MACHINE not in _AUDIT:
        return b""
    steps = [_step(_LOAD, 4), _step(_EQUAL, _AUDIT[MACHINE], 1, 0), _step(_RETURN, _KILL)]
    steps.append(_step(_LOAD, 0))
    if MACHINE == "x86_64":
        steps += [_step(_ANY_BIT, 0x40000000, 0, 1), _step(_RETURN, _KILL)]
    return b"".join(steps)


_HEAD = _head()


def install(program: bytes) -> None:
    """Lay the filter on this process and all it will ever start. Needs no_new_privs."""
    memory = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(memory))
    call("seccomp", 1, 0, ctypes.c_char_p(described))
