"""Programs that try to hurt the machine: each is refused, and leaves everything as it was.

What must be unchanged afterwards is asserted by the fixture `machine` for every test: files
outside, processes, the canaries. Twice: with all layers, and where namespaces are not allowed.
"""

import os

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
