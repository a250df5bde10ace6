"""What every process of `torchrun` does in tests/e2e/test_rank_ddp.py: several rankings, one start.

Each process writes `told-RANK.json`: how each ended here, and how often it wrote something.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from lamina.core import manifest
from lamina.core.errors import LaminaError
from lamina.jobs.rank import run_rank

RANK = int(os.environ["RANK"])


def main(home: Path) -> None:
    told: dict[str, Any] = {}
    written: list[str] = []
    write = os.replace

    def counted(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        write(source, target)

    manifest.os.replace = counted  # type: ignore[attr-defined]
    told["two"] = run_rank(str(home / "two.yaml"), home / "two")["status"]
    told["given"] = run_rank(str(home / "given.yaml"), home / "given")["results"]
    told["written"] = sorted(written)
    told["again"] = run_rank(str(home / "two.yaml"), home / "two", resume=True)["status"]
    for name in ("bad", "lost"):
        try:
            run_rank(str(home / f"{name}.yaml"), home / name)
        except LaminaError as error:
            told[name] = f"{type(error).__name__}: {error}"
    (home / f"told-{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
