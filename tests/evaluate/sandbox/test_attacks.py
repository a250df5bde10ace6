"""Programs that try to hurt the machine: each is refused, and leaves everything as it was.

What must be unchanged afterwards is asserted by the fixture `machine` for every test: files
outside, processes, the canaries. Twice: with all layers, and where namespaces are not allowed.
"""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

# --- time and numbers -----------------------------------------------------------------------


def test_an_infinite_loop_ends_with_its_processor_time(machine) -> None:
    with machine.briefly():
        machine.fails("while True: pass", "cpu time", "timed out")


def test_a_long_sleep_ends_with_the_wall_time(machine) -> None:
    with machine.briefly():
        machine.fails("import time; time.sleep(1000)", "timed out")


def test_signals_that_tell_of_time_cannot_be_ignored_for_long(machine) -> None:
    with machine.briefly():
        machine.fails(
            """
            import signal
            for name in ("SIGALRM", "SIGTERM", "SIGXCPU", "SIGINT", "SIGHUP", "SIGPROF"):
                signal.signal(getattr(signal, name), lambda *_: None)
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
            while True:
                try:
                    while True: pass
                except BaseException: pass
            """,
            "cpu time",
            "timed out",
            "killed",
        )


def test_a_program_that_stops_itself_is_ended(machine) -> None:
    with machine.briefly():
        machine.fails("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "timed out")


def test_limits_cannot_be_raised(machine) -> None:
    machine.refused(
        *(
            f"import resource; resource.setrlimit(resource.{name}, (1 << 40, 1 << 40))"
            for name in ("RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE")
        ),
        "import resource; resource.prlimit(os.getpid(), resource.RLIMIT_CPU, (9999, 9999))",
        "import resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "os.setpriority(os.PRIO_PROCESS, 0, -20)",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))",
    )


# --- memory, disk, output -------------------------------------------------------------------


def test_a_memory_bomb_meets_its_limit(machine) -> None:
    machine.fails("kept = [bytearray(10 << 20) for _ in range(1000)]", "memory")


@pytest.mark.parametrize(
    "bomb",
    [
        "import mmap; kept = [mmap.mmap(-1, 64 << 20) for _ in range(100)]",
        "x = 'x' * (1 << 40)",
        "x = 10 ** 10 ** 10",
        "x = list(range(10 ** 12))",
    ],
)
def test_memory_is_limited_by_every_way_to_it(machine, bomb: str) -> None:
    with machine.briefly():
        machine.fails(bomb, "memory", "error", "cpu time", "timed out")


def test_files_in_memory_are_refused(machine) -> None:
    machine.refused("os.memfd_create('x')", "os.write(os.memfd_create('x', 0), b'x')")


def test_a_disk_filler_meets_its_limit(machine) -> None:
    verdict = machine.run(
        """
        written = 0
        try:
            for number in range(1000):
                with open(f"file{number}", "wb") as file:
                    for _ in range(9):
                        written += file.write(bytes(100_000))
        except OSError as error:
            print("stopped", error.errno)
        print(written // (1 << 20))
        """
    )
    assert "stopped" in verdict.output or verdict.reason == "disk", verdict


def test_a_file_grows_no_larger_than_allowed(machine) -> None:
    machine.refused(
        "open('big', 'wb').write(bytes(4 << 20))",
        "os.posix_fallocate(os.open('big2', os.O_CREAT | os.O_WRONLY), 0, 1 << 30)",
        "os.truncate('big3', 1 << 40)",
    )


def test_a_filler_of_inodes_meets_its_limit(machine) -> None:
    with machine.briefly():
        verdict = machine.run(
            """
            import os
            try:
                for number in range(100_000):
                    os.mkdir(f"d{number}") if number % 2 else open(f"f{number}", "w").close()
            except OSError:
                print("stopped")
            """
        )
        assert "stopped" in verdict.output or verdict.reason in ("disk", "cpu time", "timed out")


def test_files_cannot_be_opened_without_end(machine) -> None:
    machine.refused(
        "kept = [open('/dev/null') for _ in range(100)]", "[os.pipe() for _ in range(99)]"
    )


def test_a_flood_of_output_ends_the_program_and_is_not_kept(machine) -> None:
    verdict = machine.fails("while True: print('x' * 1000)", "output")
    assert len(verdict.output) <= 64 << 10


def test_a_flood_to_every_descriptor_ends_the_program(machine) -> None:
    machine.fails(
        """
        import os
        while True:
            for fd in range(1, 64):
                try: os.write(fd, b"x" * 4096)
                except OSError: pass
        """,
        "output",
        "tampered",
    )


# --- processes and signals ------------------------------------------------------------------


def test_a_fork_bomb_does_not_start(machine) -> None:
    machine.fails("import os\nwhile True: os.fork()", "error")


def test_a_bomb_of_threads_meets_its_limit(machine) -> None:
    with machine.briefly():
        machine.fails(
            """
            import threading, time
            for _ in range(1000):
                threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
            """,
            "error",
            "memory",
            "timed out",
        )


def test_a_daemon_cannot_outlive_the_program(machine) -> None:
    machine.refused(
        "if os.fork() == 0:\n    os.setsid()\n    os._exit(os.fork() and 0)",
        "os.forkpty()",
        "import subprocess; subprocess.Popen(['/bin/sleep', '99'], start_new_session=True)",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "os.posix_spawn('/bin/sleep', ['sleep', '99'], {})",
    )


def test_a_thread_that_goes_on_ends_with_its_process(machine) -> None:
    verdict = machine.run(
        """
        import threading, time
        def on():
            while True: time.sleep(0.01)
        for daemon in (True, False):
            threading.Thread(target=on, daemon=daemon).start()
        """
    )
    assert verdict.passed or verdict.reason == "timed out"


def test_zombies_cannot_be_made(machine) -> None:
    machine.refused(
        "for _ in range(9):\n    if os.fork() == 0: os._exit(0)", "assert os.system('true') == 0"
    )


def test_no_other_program_can_be_started(machine) -> None:
    machine.refused(
        "os.execv('/bin/true', ['true'])",
        "os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
        "os.execv(sys.executable, ['python', '-c', ''])",
        "os.execve(os.open(sys.executable, os.O_RDONLY), ['python'], {})",
        "import subprocess; subprocess.run([sys.executable, '-c', ''], check=True)",
        "assert os.system('true') == 0",
        "os.popen('true').close(); assert os.popen('echo hi').read() == 'hi\\n'",
        "import pty; pty.spawn('true')",
    )


def test_a_program_of_its_own_cannot_be_made_runnable(machine) -> None:
    machine.refused(
        """
        open('run', 'wb').write(b'#!/bin/sh\\nexit 0\\n')
        os.chmod('run', 0o755)
        os.execv('./run', ['run'])
        """,
    )


def test_signals_reach_neither_the_parent_nor_a_group_nor_everybody(machine) -> None:
    verdict = machine.run(
        """
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in (PARENT, os.getppid(), 1, -PARENT, 2, 3):
            for number in (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
                if pid == os.getpid(): continue
                try:
                    os.kill(pid, number)
                    print("DID", pid, number)
                except OSError: pass
        for group in (0, PARENT, os.getppid()):
            try:
                os.killpg(group, signal.SIGTERM)
                print("DID group", group)
            except OSError: pass
        for everybody in (-1, 0):
            try:
                os.kill(everybody, signal.SIGTERM)
                print("DID", everybody)
            except OSError: pass
        """,
        PARENT=os.getpid(),
    )
    assert "DID" not in verdict.output
    assert verdict.passed, verdict


def test_other_processes_cannot_be_handled_by_descriptor(machine) -> None:
    machine.refused(
        "import signal; signal.pidfd_send_signal(os.pidfd_open(PARENT), 9)",
        "os.pidfd_open(1)",
        "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, -PARENT)",
        PARENT=os.getpid(),
    )


# --- files ----------------------------------------------------------------------------------


def test_the_environment_is_empty(machine) -> None:
    verdict = machine.run("import os; print(dict(os.environ), os.getenv('LAMINA_SECRET'))")
    assert verdict.output.split("}")[-1].strip() == "None"
    assert verdict.passed, verdict
    machine.refused(
        "print(open(f'/proc/{PARENT}/environ').read())",
        "print(open('/proc/self/environ').read(99) or 1 / 0)",
        "print(open(f'/proc/{os.getppid()}/environ').read())",
        PARENT=os.getpid(),
    )


def test_files_of_the_machine_cannot_be_read(machine) -> None:
    machine.refused(
        "print(open('/etc/passwd').read())",
        "print(open('/etc/shadow').read())",
        "print(open(SECRET).read())",
        "print(os.listdir(HOME))",
        "print(os.listdir('/'))",
        "print(os.listdir(FOLDER))",
        "print(open(TEST).read())",
        "import sqlite3; sqlite3.connect(SECRET).execute('select 1 from x')",
        "import shutil; shutil.copy(SECRET, 'mine'); print(open('mine').read())",
        "import linecache as l; print(l.getline(SECRET, 1)); assert l.getline(SECRET, 1)",
        "os.sendfile(1, os.open(SECRET, os.O_RDONLY), 0, 99)",
        "os.open(SECRET, os.O_PATH) and os.read(os.open(SECRET, os.O_PATH), 9)",
        SECRET=str(machine.folder / "secret"),
        FOLDER=str(machine.folder),
        HOME=str(Path.home()),
        TEST=__file__,
    )


def test_the_memory_of_other_processes_cannot_be_read(machine) -> None:
    machine.refused(
        "open(f'/proc/{PARENT}/mem', 'rb').read(1)",
        "open(f'/proc/{PARENT}/maps').read()",
        "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
        "open('/proc/self/mem', 'rb').read(1)",
        "open('/proc/self/maps').read(1)",
        "open('/dev/mem', 'rb').read(1)",
        "import ctypes; ctypes.CDLL(None).ptrace(16, PARENT, 0, 0)",
        "import _ctypes",
        PARENT=os.getpid(),
    )


def test_nothing_can_be_written_outside(machine) -> None:
    machine.refused(
        "open(FOLDER + '/new', 'w')",
        "open(FOLDER + '/secret', 'a').write('x')",
        "open(FOLDER + '/secret', 'r+').truncate(0)",
        "os.open(FOLDER + '/secret', os.O_RDONLY | os.O_TRUNC)",
        "os.truncate(FOLDER + '/secret', 0)",
        "os.unlink(FOLDER + '/secret')",
        "os.rename(FOLDER + '/secret', FOLDER + '/other')",
        "os.mkdir(FOLDER + '/d')",
        "os.rmdir(FOLDER + '/inner')",
        "os.symlink('x', FOLDER + '/link')",
        "os.mkfifo(FOLDER + '/fifo')",
        "os.chmod(FOLDER + '/secret', 0)",
        "os.chown(FOLDER + '/secret', 1, 1)",
        "os.utime(FOLDER + '/secret', (0, 0))",
        "os.setxattr(FOLDER + '/secret', 'user.x', b'y')",
        "open('/etc/new', 'w')",
        "open(LIBRARY + '/new.py', 'w')",
        "open(LIBRARY + '/os.py', 'a')",
        "os.utime(LIBRARY + '/os.py')",
        FOLDER=str(machine.folder),
        LIBRARY=str(Path(os.__file__).parent),
    )


def test_links_and_dots_lead_nowhere(machine) -> None:
    machine.refused(
        "os.symlink(SECRET, 'link'); print(open('link').read())",
        "os.symlink(FOLDER, 'way'); print(os.listdir('way'))",
        "os.symlink('/', 'root'); print(open('root' + SECRET).read())",
        "print(open('../' * 20 + SECRET.lstrip('/')).read())",
        "print(open('/tmp/../' + SECRET.lstrip('/')).read())",
        "os.chdir('..'); os.chdir('..'); open('new', 'w')",
        "os.link(SECRET, 'hard'); print(open('hard').read())",
        "open('mine', 'w').close(); os.link('mine', FOLDER + '/hard')",
        "os.symlink(FOLDER + '/new', 'out'); open('out', 'w')",
        "open('mine2', 'w').close(); os.rename('mine2', FOLDER + '/moved')",
        "fd = os.open('.', os.O_RDONLY); print(os.listdir(os.open('../..', 0, dir_fd=fd)))",
        "os.chroot('.')",
        "os.fchdir(5)",
        SECRET=str(machine.folder / "secret"),
        FOLDER=str(machine.folder),
    )


def test_devices_and_sockets_in_the_file_system_cannot_be_made(machine) -> None:
    machine.refused(
        "import stat; os.mknod('dev', stat.S_IFBLK | 0o666, os.makedev(8, 0)); open('dev', 'rb')",
        "import stat; os.mknod('tty', stat.S_IFCHR | 0o666, os.makedev(1, 1)); open('tty', 'rb')",
        "open('/dev/sda', 'rb')",
        "open('/dev/tty', 'w')",
        "open('/dev/ptmx', 'w')",
    )


def test_one_program_does_not_see_the_files_of_another(machine) -> None:
    machine.run("open('left', 'w').write('x'); import os; print(os.getcwd())")
    verdict = machine.run("import os; print(os.listdir('.'))")
    assert verdict.output.strip() == "[]"


def test_packages_of_the_parent_cannot_be_imported(machine) -> None:
    site = str(Path(pytest.__file__).parent.parent)
    machine.refused(
        "import numpy",
        "import torch",
        "import pytest",
        "import lamina",
        "sys.path.insert(0, SITE); import pytest",
        "import site; site.addsitedir(SITE); import pytest",
        "import importlib.util as u"
        "\ns = u.spec_from_file_location('p', SITE + '/pytest/__init__.py')"
        "\ns.loader.exec_module(u.module_from_spec(s))",
        SITE=site,
    )


# --- network --------------------------------------------------------------------------------


def test_no_socket_leads_anywhere(machine) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        abstract.bind(f"\0lamina-{os.getpid()}-{threading.get_ident()}")
        abstract.listen()
        datagrams.bind(("127.0.0.1", 0))
        machine.refused(
            "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
            "import socket; socket.create_connection(('192.0.2.1', 80), 0.2)",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
            ".sendto(b'x', ('127.0.0.1', UDP))",
            "import socket; socket.socket(socket.AF_INET6).connect(('::1', PORT))",
            "import socket; socket.socket(socket.AF_UNIX).connect(ABSTRACT)",
            "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect(ABSTRACT)",
            "import socket; socket.create_server(('127.0.0.1', 0))",
            "import socket; socket.socket(socket.AF_UNIX).bind('sock')",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
            "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
            "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
            "import socket; socket.socket(socket.AF_VSOCK).connect((2, 1))",
            "import socket; socket.getaddrinfo('example.com', 80)",
            "import urllib.request; urllib.request.urlopen('http://example.com', timeout=0.2)",
            PORT=server.getsockname()[1],
            UDP=datagrams.getsockname()[1],
            ABSTRACT=abstract.getsockname(),
        )
        for end in (server, abstract, datagrams):
            end.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        with pytest.raises(BlockingIOError):
            abstract.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(1)


# --- crashes --------------------------------------------------------------------------------


def test_deep_recursion_is_an_error_or_a_crash_of_its_own(machine) -> None:
    machine.fails("def f(): f()\nf()", "error")
    machine.fails(
        """
        import sys
        sys.setrecursionlimit(10 ** 9)
        class A:
            def __repr__(self): return repr(self)
        def f(): return [f()]
        try: f()
        except BaseException: pass
        repr(A())
        """,
        *("killed", "memory", "error", "cpu time", "timed out"),
    )


@pytest.mark.parametrize(
    "crash",
    [
        "import ctypes; ctypes.string_at(0)",
        "import faulthandler; faulthandler._sigsegv()",
        "import faulthandler; faulthandler._fatal_error_c_thread()",
        "import os; os.abort()",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import sys; sys.setrecursionlimit(2**31 - 1)\nx = ()\nfor _ in range(10**6): x = (x,)\n"
        "hash(x)",
    ],
)
def test_a_crash_is_the_program_s_own(machine, crash: str) -> None:
    machine.fails(crash, "killed", "error", "memory")


def test_the_machine_cannot_be_shut_down_or_mounted(machine) -> None:
    machine.refused(
        "os.sync.__call__; open('/proc/sysrq-trigger', 'w').write('b')",
        "open('/sys/power/state', 'w').write('mem')",
        "os.setuid(0) or os.setgid(0) or open('/etc/shadow')",
        "os.setgroups([0])",
        "os.unshare(0)" if sys.version_info >= (3, 12) else "raise OSError",
        "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
        "import socket; socket.sethostname('owned')",
    )
