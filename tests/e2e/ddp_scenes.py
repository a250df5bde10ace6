"""What every process of `torchrun` does in tests/e2e/test_tune_ddp.py: several runs, one start.

Each process writes `told-RANK.json`: how each run ended here.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from lamina.core.errors import LaminaError
from lamina.jobs.tune import run_tune
from lamina.jobs.watch import Watcher

RANK = int(os.environ["RANK"])


class StopHere(Watcher):
    """A SIGTERM to the second process alone, when step 5 is done."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.done == 5 and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main(home: Path) -> None:
    told: dict[str, Any] = {}
    told["whole"] = run_tune(home / "two.yaml", home / "two")["status"]
    told["stopped"] = run_tune(home / "two.yaml", home / "again", watch=StopHere())["results"]
    told["resumed"] = run_tune(home / "two.yaml", home / "again", resume=True)["status"]
    for name in ("bad", "lost"):
        try:
            run_tune(home / f"{name}.yaml", home / name)
        except LaminaError as error:
            told[name] = f"{type(error).__name__}: {error}"
    (home / f"told-{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
