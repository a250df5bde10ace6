"""Rows of data sets and of a user, written by hand, and the demo's models by name."""

import gzip
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

DEMO = Path(str(resources.files("lamina"))) / "demo" / "models"
BASE, INSTRUCT = DEMO / "base", DEMO / "instruct"

ARC = [
    {
        "id": f"q{number}",
        "question": f"What is {number} and {number}?",
        "choices": [str(2 * number), "a tree", "blue", "nothing at all"],
        "answer": 0,
    }
    for number in range(1, 9)
]
GSM8K = [
    {
        "question": f"Ann has {number} apples and buys {number + 1} more. How many has she?",
        "answer": f"She has {number}+{number + 1}={2 * number + 1}.\n#### {2 * number + 1}",
    }
    for number in range(2, 10)
]
PAGES = [
    {"page": f" \n = River {number} = \n \n The river is {number} @.@ 5 km long . \n"}
    for number in range(1, 5)
]
HUMANEVAL = [
    {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def add{number}(a, b):\n    """The sum of a and b, and {number}."""\n',
        "canonical_solution": f"    return a + b + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1, 2) == {3 + number}\n",
        "entry_point": f"add{number}",
    }
    for number in range(2)
]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)
    return path


def write_data(folder: Path) -> Path:
    """A data folder with a few rows of four tasks."""
    write_rows(folder / "bench" / "arc_easy_test.jsonl.gz", ARC)
    others = [{**row, "question": f"{row['question']} Say it."} for row in ARC]
    write_rows(folder / "bench" / "arc_easy_train.jsonl", others)
    write_rows(folder / "gsm8k_test.jsonl", GSM8K[:3])
    write_rows(folder / "gsm8k_train.jsonl", GSM8K[3:])
    write_rows(folder / "text" / "wikitext2_raw_test.jsonl", PAGES)
    write_rows(folder / "humaneval.jsonl", HUMANEVAL)
    return folder


def read_samples(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
