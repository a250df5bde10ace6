"""`log.jsonl`: times and memory, which no other file holds, so that those are reproducible."""

import json
import resource
import time
from pathlib import Path


class Log:
    """Appends lines with the time; the first process alone writes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **entry: object) -> None:
        from lamina.engine import parallel

        if parallel.is_main():
            stamped = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **entry}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(stamped) + "\n")


def peak_memory() -> float:
    """The largest resident memory of this process, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
