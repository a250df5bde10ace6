"""Programs that reach for files, the network, the machine itself; and those that crash.

As in `test_attacks`, the fixture `machine` asserts afterwards that all is as it was.
"""

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

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
