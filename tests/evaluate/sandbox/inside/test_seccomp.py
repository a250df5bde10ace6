"""The filter, run by a BPF machine of a dozen lines: what it refuses is decided by these bytes."""

import struct

import pytest

from lamina.evaluate.sandbox.inside import seccomp
from lamina.evaluate.sandbox.inside.system import CALLS, HIGHEST, MACHINE

pytestmark = pytest.mark.skipif(not CALLS, reason=f"no table of system calls for {MACHINE}")

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050001, 0x00050026
PID, ADDRESS = 2, 0x1F_1234_5000
CLONE_THREAD = 0x10000


def decide(program: bytes, number: int, *arguments: int, machine: int | None = None) -> int:
    """What the kernel does with a call."""
    arch = seccomp._AUDIT[MACHINE] if machine is None else machine
    data = struct.pack("<IIQ6Q", number, arch, 0, *[*arguments, *[0] * 6][:6])
    at = accumulator = 0
    while True:
        code, yes, no, value = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += yes if accumulator == value else no
            case 0x25:
                at += yes if accumulator > value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                return value
            case _:
                raise AssertionError(f"{code:#x}")


def build(*, real_files: bool = False) -> bytes:
    return seccomp.build(pid=PID, exec_address=ADDRESS, real_files=real_files)


def call(name: str, *arguments: int, real_files: bool = False) -> int:
    return decide(build(real_files=real_files), CALLS[name], *arguments)


def test_every_refused_name_that_this_machine_has_is_refused():
    known = [name for name in seccomp.REFUSED if name in CALLS]
    assert len(known) > 90
    assert {call(name) for name in known} == {EPERM}


def test_all_refused_names_are_in_the_table_of_x86_64():
    if MACHINE != "x86_64":
        pytest.skip("old calls that other machines never had")
    special = {"clone3", "kill", "tgkill", "prlimit64", "socketpair", "fcntl", "ioctl", "execve"}
    missing = {*seccomp.REFUSED, *seccomp.CHANGES, *special} - CALLS.keys()
    assert missing == set()


def test_threads_start_and_processes_do_not():
    assert call("clone", 0x3D0F00 | CLONE_THREAD) == ALLOW
    assert call("clone", 0x1200011) == EPERM
    assert call("clone3") == ENOSYS


def test_a_process_signals_only_itself():
    assert call("kill", PID, 9) == ALLOW
    assert [call("kill", pid & 0xFFFFFFFFFFFFFFFF, 9) for pid in (0, 1, -1, 3)] == [EPERM] * 4
    assert call("tgkill", PID, 77, 6) == ALLOW
    assert call("tgkill", 3, 3, 6) == EPERM
    assert call("fcntl", 1, 8, 99) == EPERM, "F_SETOWN sends signals, too"
    assert call("fcntl", 1, 1) == ALLOW


def test_only_the_name_at_the_drawn_address_is_executed():
    assert call("execve", ADDRESS) == ALLOW
    assert call("execve", ADDRESS + (1 << 32)) == EPERM
    assert call("execve", ADDRESS + 1) == EPERM


def test_limits_are_read_and_not_set():
    assert call("prlimit64", 0, 7, 0, 4096) == ALLOW
    assert call("prlimit64", 0, 7, 4096, 0) == EPERM
    assert call("prlimit64", 0, 7, 1 << 32, 0) == EPERM
    assert call("prlimit64", 1, 7, 0, 4096) == EPERM


def test_pairs_of_streams_are_the_only_sockets():
    unix, internet, stream, datagram, flags = 1, 2, 1, 2, 0o2000000
    assert call("socketpair", unix, stream | flags) == ALLOW
    assert call("socketpair", unix, datagram) == EPERM, "it could be sent to other addresses"
    assert call("socketpair", internet, stream) == EPERM
    assert {call("socket", family, stream) for family in range(46)} == {EPERM}


def test_changes_that_landlock_does_not_see_are_refused_where_files_are_the_machines():
    known = [name for name in seccomp.CHANGES if CALLS.get(name, HIGHEST + 1) <= HIGHEST]
    assert {call(name) for name in known} == {ALLOW}
    assert {call(name, real_files=True) for name in known} == {EPERM}
    assert call("openat", 0, 0, 0o1000, real_files=True) == EPERM, "O_TRUNC for reading"
    assert call("openat", 0, 0, 0o1001, real_files=True) == ALLOW
    assert call("openat", 0, 0, 0, real_files=True) == ALLOW


def test_another_machines_calls_end_the_process():
    assert decide(build(), 1, machine=0x40000003) == KILL
    if MACHINE == "x86_64":
        assert decide(build(), 0x40000000 | 41) == KILL


def test_calls_of_kernels_to_come_do_not_exist():
    assert decide(build(), HIGHEST + 1) == ENOSYS
    assert decide(build(), HIGHEST) == ALLOW
