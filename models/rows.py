"""Rows of text: what a source gives, and which rows are kept out of training.

A `Row` is either plain text (`question` is empty, `answer` is the text) or a question with its
answer. The split is by content: a row is held out if the hash of its key falls into the first
permille of its source. The key is what makes two rows the same to a reader (the answer of a medical
question, the report behind a finance question), so near copies land on the same side.
"""

import gzip
import hashlib
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

USER, ASSISTANT, END, STOP, PAD = (
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|endoftext|>",
    "<|pad|>",
)
DOMAINS = (
    "general",
    "law",
    "medicine",
    "finance",
    "science",
    "code",
    "math",
    "instruct",
    "unwanted",
    "unwanted_new",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of real text with the place it came from."""

    domain: str
    source: str
    question: str
    answer: str
    key: str

    def plain(self) -> str:
        """The row as plain text, as the base model reads it."""
        if not self.question:
            return self.answer
        return f"Question: {self.question}\nAnswer: {self.answer}"

    def chat(self) -> tuple[str, str]:
        """The row as (prompt, completion) in the chat format, special tokens included."""
        return f"{USER}\n{self.question}{END}\n{ASSISTANT}\n", f"{self.answer}{END}\n"


def text_row(domain: str, source: str, text: str) -> Row:
    """A plain row whose key is its own text."""
    return Row(domain, source, "", text, text)


def normal(text: str) -> str:
    """The text without case, punctuation and runs of blanks: what the split looks at."""
    return re.sub(r"[\W_]+", " ", text.lower()).strip()


def grams(text: str, *, words: int = 13) -> set[tuple[str, ...]]:
    """All runs of 13 words of a text: what two texts share if one was copied from the other."""
    found = normal(text).split()
    return {tuple(found[at : at + words]) for at in range(len(found) - words + 1)}


def fraction(key: str) -> float:
    """A number in [0, 1) that depends on the content only."""
    return int(hashlib.sha256(normal(key).encode()).hexdigest()[:12], 16) / 16**12


def is_held_out(row: Row, permille: dict[str, int]) -> bool:
    """Whether the row is kept out of all training; sources without an entry give none."""
    return fraction(row.key) * 1000 < permille.get(row.source, 0)


def read(path: Path) -> list[dict]:
    """All JSON objects of a `.jsonl.gz` file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: list[dict]) -> None:
    """Write a `.jsonl.gz` file whose bytes depend on the rows only (no time, no name inside)."""
    body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(body, compresslevel=9, mtime=0))


def shuffled(rows: list, seed: int = 0) -> list:
    """The rows in a fixed random order."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows
