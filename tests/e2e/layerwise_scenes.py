"""What every process of `torchrun` does in tests/e2e/test_layerwise.py: each way, whole and again.

Each process writes `told-RANK.json`: for each way its statuses and what it drew or pruned.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

from lamina.core.errors import LaminaError
from lamina.engine.layerwise import interface
from lamina.jobs.tune import run_tune
from lamina.jobs.watch import Watcher

RANK = int(os.environ["RANK"])


class StopHere(Watcher):
    """A SIGTERM to the second process alone, when step 4 is done."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.done == 4 and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Watched(interface.LayerwiseSteps):
    """Takes a hash of all trainable flags, and of what the tuner remembers, after every step."""

    seen: ClassVar[list[str]] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_optimizer_step(args, state, control, **kwargs)
        digest = hashlib.sha256()
        for name, parameter in kwargs["model"].named_parameters():
            digest.update(f"{name} {parameter.requires_grad}".encode())
            digest.update(parameter.detach().numpy().tobytes())
        for name, value in sorted(self._tuner.state().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        self.seen.append(digest.hexdigest())


def main(home: Path, ways: list[str]) -> None:
    from lamina.engine import parallel, trainer

    trainer.LayerwiseSteps = Watched  # type: ignore[misc]
    told: dict[str, Any] = {}
    for way in ways:
        try:
            recipe = home / f"{way}.yaml"
            whole = run_tune(recipe, home / f"{way} by two")["status"]
            stopped = run_tune(recipe, home / f"{way} by two again", watch=StopHere())["results"][
                "status"
            ]
            resumed = run_tune(recipe, home / f"{way} by two again", resume=True)["status"]
            told[way] = {"ends": [whole, stopped, resumed], "steps": list(Watched.seen)}
        except LaminaError as error:
            told[way] = {"ends": [f"{type(error).__name__}: {error}"], "steps": []}
        Watched.seen.clear()
    (home / f"told-{RANK}.json").write_text(json.dumps(told))
    parallel.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
