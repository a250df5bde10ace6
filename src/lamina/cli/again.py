"""How a run that was stopped is gone on with, and who of several processes says so."""

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

FIRST_WORD_SECONDS = 20.0
"""A process other than the first waits so long before it tells an error: if the first has the same
to tell, `torchrun` has ended this one by then."""


def is_first() -> bool:
    """Whether this is the first process, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_the_first() -> None:
    """Lets the first of several processes speak first."""
    if not is_first():
        time.sleep(FIRST_WORD_SECONDS)


def command(recipe: Path, out: Path, overrides: Sequence[str]) -> str:
    """The command line that goes on with a run.

    What was allowed to change by `--allow-changed` is left out: the newest checkpoint has it.
    """
    return line("tune", str(recipe), "--out", str(out), "--resume", overrides=overrides)


def line(*words: str, overrides: Sequence[str]) -> str:
    """A verb of lamina with its words and overrides, for as many processes as there are now."""
    processes = os.environ.get("WORLD_SIZE", "1")
    begin = ["torchrun", "--nproc-per-node", processes, "-m"] if processes != "1" else []
    ends = [word for override in overrides for word in ("-s", override)]
    return shlex.join([*begin, "lamina", *words, *ends])
