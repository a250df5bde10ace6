"""A machine with canaries, and programs that try things on it."""

import os
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest

from lamina.evaluate.sandbox import Limits, Sandbox, Verdict

CANARY = "canary-7f3a9c51e2"
"""In the parent's environment, memory and files: never to be seen in a program's output."""
LIMITS = Limits(
    wall_seconds=2.0,
    cpu_seconds=1,
    memory_bytes=256 << 20,
    file_bytes=1 << 20,
    folder_bytes=2 << 20,
    processes=16,
    open_files=32,
    output_bytes=64 << 10,
)


HUNT = """
import gc, os, re, sys, threading

found, seen, kept = set(), set(), []

def look(thing, depth):
    if id(thing) in seen or depth > 5:
        return
    seen.add(id(thing)); kept.append(thing)
    if isinstance(thing, (bytes, bytearray)):
        found.update(re.findall(rb"[0-9a-f]{64}", bytes(thing)))
    elif isinstance(thing, str):
        found.update(one.encode() for one in re.findall("[0-9a-f]{64}", thing))
    elif isinstance(thing, dict):
        for pair in list(thing.items()): look(pair, depth + 1)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for one in list(thing): look(one, depth + 1)
    else:
        for name in ("__dict__", "__closure__", "__defaults__", "cell_contents", "args", "func",
                     "keywords", "__self__", "__func__", "__reduce__"):
            try: look(getattr(thing, name), depth + 1)
            except BaseException: pass

def look_everywhere():
    frame = sys._getframe()
    while frame is not None:
        look([dict(frame.f_locals), frame.f_globals, frame.f_builtins], 0)
        frame = frame.f_back
    look({name: vars(module) for name, module in list(sys.modules.items())}, 0)
    for action in (
        lambda: gc.get_objects(),
        lambda: [gc.get_objects(generation=n) for n in range(3)],
        lambda: gc.get_referrers(look.__globals__),
        lambda: gc.get_referents(*kept),
        lambda: list(sys._current_frames().values()),
        lambda: [os.read(fd, 4096) for fd in (3, 4, 5, 6) if not os.set_blocking(fd, False)],
    ):
        try: look(action(), 0)
        except BaseException: pass

def forge():
    for word in [*found, b"0" * 64, b"passed", b""]:
        for fd in range(1, 16):
            try: os.write(fd, b"\\n" + word + b"\\n")
            except OSError: pass
"""


def descendants(pid: int) -> set[int]:
    """All processes that came of this one, as the machine sees them."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def settled(pid: int, wanted: int) -> int:
    """How many descendants there are, once they are as many as wanted or five seconds have gone."""
    waiting = threading.Event()
    for _ in range(500):
        seen = len(descendants(pid))
        if seen == wanted:
            break
        waiting.wait(0.01)
    return seen


def state(folder: Path) -> list[tuple[str, int, int, int, bytes]]:
    """All that could be changed in a folder."""
    return [
        (
            path.relative_to(folder).as_posix(),
            path.stat().st_mode,
            path.stat().st_nlink,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted([folder, *folder.rglob("*")])
    ]


@dataclass(frozen=True)
class Machine:
    """A sandbox, and what is around it."""

    sandbox: Sandbox
    folder: Path
    """Open to everybody; `secret` in it has the canary."""
    hunt: ClassVar[str] = HUNT
    """How a program looks at all there is for a secret of 64 digits, and writes it everywhere."""

    def run(self, source: str, **known: object) -> Verdict:
        """Run a program that knows some values of ours."""
        lines = [f"{name} = {value!r}" for name, value in known.items()]
        return self.sandbox.run("\n".join([*lines, textwrap.dedent(source)]))

    def refused(self, *actions: str, **known: object) -> Verdict:
        """A program tries each action; none may work, and it goes on after each."""
        tried = [
            f"try:\n{textwrap.indent(textwrap.dedent(action).strip(), '    ')}\n"
            f"except BaseException as error:\n    print('no {number}:', type(error).__name__)\n"
            f"else:\n    print('DID IT: {number}')\n"
            for number, action in enumerate(actions)
        ]
        verdict = self.run("import os, sys\n" + "".join(tried), **known)
        assert "DID IT" not in verdict.output, verdict.output
        assert verdict.output.count("no ") == len(actions), verdict
        assert verdict.passed, verdict
        return verdict

    @contextmanager
    def briefly(self) -> Iterator[None]:
        """With little wall time, for programs that do not end."""
        before = self.sandbox.limits
        self.sandbox.limits = replace(before, wall_seconds=0.8)
        try:
            yield
        finally:
            self.sandbox.limits = before

    def fails(self, source: str, *reasons: str, **known: object) -> Verdict:
        """A program that must not pass, for one of these reasons."""
        verdict = self.run(source, **known)
        assert not verdict.passed, verdict
        assert verdict.reason in reasons, verdict
        return verdict

    def check_fails(self, program: str, *reasons: str) -> Verdict:
        """A program that must not pass tests that it has no right answer to."""
        tests = """
            SECRET_OF_THE_TESTS = 8191

            def check(candidate):
                assert candidate(SECRET_OF_THE_TESTS) == SECRET_OF_THE_TESTS + 1
                assert candidate(2) == 3

            check(solve)
        """
        verdict = self.sandbox.check(textwrap.dedent(program), textwrap.dedent(tests), "solve")
        assert not verdict.passed, verdict
        assert verdict.reason in reasons, verdict
        return verdict


@pytest.fixture(scope="module", params=["all layers", "without namespaces"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    without = [] if request.param == "all layers" else ["namespaces"]
    with Sandbox(LIMITS, without=without) as made:
        if not made.protection.enough:
            pytest.skip(made.protection.line)
        yield made


@pytest.fixture
def machine(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Afterwards: no file changed, no process left, and the parent as it was."""
    monkeypatch.setenv("LAMINA_SECRET", CANARY)
    in_memory = bytearray(CANARY.encode())
    folder = tmp_path / "open"
    (folder / "inner").mkdir(parents=True)
    for path in (tmp_path, folder, folder / "inner"):
        path.chmod(0o777)
    (folder / "secret").write_text(CANARY)
    (folder / "secret").chmod(0o666)
    before, pid = state(folder), sandbox._launcher._process.pid
    # In namespaces: the launcher, the supervisor that waits, and the first process it has made.
    apart = {"namespaces", "bubblewrap"} & {*sandbox.protection.layers}
    family = 3 if apart else 1
    ours = os.getpgid(0), os.getsid(0), Path.cwd(), os.umask(0o022)
    os.umask(ours[3])
    outputs: list[str] = []

    def kept(run: Callable[..., Verdict]) -> Callable[..., Verdict]:
        def called(*args: str) -> Verdict:
            verdict = run(*args)
            outputs.append(f"{verdict.output}{verdict.detail}{verdict.suspicious}")
            return verdict

        return called

    monkeypatch.setattr(sandbox, "run", kept(sandbox.run))
    monkeypatch.setattr(sandbox, "check", kept(sandbox.check))
    yield Machine(sandbox, folder)
    assert outputs, "nothing was tried"
    assert not any(CANARY in output for output in outputs)
    assert state(folder) == before
    assert settled(pid, family) == family
    assert ours[:3] == (os.getpgid(0), os.getsid(0), Path.cwd())
    assert in_memory == CANARY.encode()
    assert sandbox.run("answer = 42").passed, "the sandbox does not go on"
