"""A program that was started, until its verdict is here."""

import json
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from lamina.evaluate.sandbox.nouns import Verdict


class Running:
    """A program that was started, and the socket on which its supervisor answers."""

    def __init__(self, answers: socket.socket, seconds: float) -> None:
        self._socket = answers
        self._began = time.monotonic()
        self._problem: str | None = None
        answers.settimeout(seconds)

    def send(self, action: Callable[[], object]) -> None:
        """Do a part of the asking; what goes wrong is the verdict's reason."""
        try:
            if self._problem is None:
                action()
        except OSError as error:
            self._problem = f"the sandbox does not answer: {error}"

    def verdict(self, *, within: float | None = None) -> Verdict:
        """What became of it; it is ended if that takes longer than `within` seconds."""
        with self._socket:
            told = self._answer(within)
        if "failed" in told:
            seconds = time.monotonic() - self._began
            return Verdict(False, "sandbox", told["failed"], seconds, (), "")
        return Verdict(
            passed=told["passed"] is True,
            reason=told["reason"],
            detail=told["detail"],
            seconds=told["seconds"],
            suspicious=tuple(told["suspicious"]),
            output=told["output"],
        )

    def _answer(self, within: float | None) -> dict[str, Any]:
        if self._problem is not None:
            return {"failed": self._problem}
        try:
            with self._socket.makefile("rb") as stream:
                if within is not None and not select.select([self._socket], [], [], within)[0]:
                    self._socket.shutdown(socket.SHUT_WR)
                return json.loads(stream.read() or b'{"failed": "the supervisor is gone"}')
        except (OSError, ValueError) as error:
            return {"failed": f"the sandbox does not answer: {error}"}
