"""Tables of the LATA study from its results."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "lata.jsonl"


def read_lines(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The results so far."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def tables() -> str:
    return ""
