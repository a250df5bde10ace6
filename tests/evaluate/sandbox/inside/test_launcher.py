"""The launcher goes on where no process can be made for the moment."""

import os

import pytest

from lamina.evaluate.sandbox.inside import launcher


class Ended(Exception):
    """In the place of `os._exit`."""


def test_a_supervisor_that_cannot_prepare_says_so_and_leaves_the_request(monkeypatch) -> None:
    def refused(plan: object) -> None:
        raise BlockingIOError(11, "fork")

    def ended(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(launcher.supervise, "first_process", refused)
    monkeypatch.setattr(launcher, "prctl", lambda *_: None)
    monkeypatch.setattr(launcher.time, "sleep", lambda _: None)
    monkeypatch.setattr(launcher.os, "_exit", ended)
    told, tell = os.pipe()
    with pytest.raises(Ended):
        launcher._await(None, 1, None, tell)  # pyrefly: ignore - neither is used
    assert os.read(told, 1) == b"t"
    for end in (told, tell):
        os.close(end)
