"""Landlock by itself, in a child: files by an allow-list, no signals and no TCP to the outside."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.evaluate.sandbox.inside import landlock
from lamina.evaluate.sandbox.inside.probing import works
from lamina.evaluate.sandbox.inside.system import PR_SET_NO_NEW_PRIVS, prctl

ABI = landlock.version()
pytestmark = pytest.mark.skipif(ABI == 0, reason="this kernel has no Landlock")


def inside(folder: Path, action: Callable[[], object]) -> str:
    """What became of an action in a child that may use one folder: empty if it worked."""

    def confined() -> None:
        rules = [(os.open(folder, os.O_PATH), landlock.FOLDER)]
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(landlock.ruleset(rules, abi=ABI))
        action()

    return works(confined)


def test_the_allowed_folder_is_all_there_is(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    for path in (mine, other):
        path.mkdir()
        (path / "file").write_text("text")
    assert inside(mine, (mine / "file").read_text) == ""
    assert inside(mine, lambda: (mine / "new").write_text("x")) == ""
    assert inside(mine, (other / "file").read_text).startswith("PermissionError")
    assert inside(mine, lambda: (other / "new").touch()).startswith("PermissionError")
    assert inside(mine, lambda: list(other.iterdir())).startswith("PermissionError")
    assert inside(mine, (other / "file").unlink).startswith("PermissionError")
    assert inside(mine, lambda: (mine / ".." / "other" / "file").read_text()) != ""
    assert inside(mine, lambda: (mine / "link").symlink_to(other)) == ""
    assert inside(mine, (mine / "link" / "file").read_text).startswith("PermissionError")


def test_nothing_is_executed(tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert inside(tmp_path, lambda: os.execv(script, ["script"])).startswith("PermissionError")


@pytest.mark.skipif(ABI < 6, reason="signals are kept in since Landlock's ABI 6")
def test_no_signal_leaves():
    assert inside(Path("/"), lambda: os.kill(os.getppid(), 0)).startswith("PermissionError")


@pytest.mark.skipif(ABI < 4, reason="TCP is kept in since Landlock's ABI 4")
def test_no_tcp_leaves():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        told = inside(Path("/"), lambda: socket.create_connection(address, 1))
    assert told.startswith("PermissionError")


@pytest.mark.parametrize("abi", range(1, ABI + 1))
def test_every_abi_up_to_ours_gives_a_ruleset(abi, tmp_path):
    folder = os.open(tmp_path, os.O_PATH)
    made = landlock.ruleset([(folder, landlock.FOLDER | landlock.EXECUTE)], abi=abi)
    os.close(made)
    os.close(folder)
