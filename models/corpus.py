"""Which rows each stage trains on, and which rows are scored: the two never share a row."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import readers
import sources
from rows import DOMAINS, Row, grams, is_held_out, normal, shuffled, write
from transformers import PreTrainedTokenizerBase

TOKENS_PER_DOMAIN = 6000
LONGEST_TEXT = 1200  # characters of one scored plain text
REPEAT = {"legalbench": 2, "arc_easy": 2, "arc_challenge": 2, "openbookqa": 2}
BASE_ANSWERS = {"medquad": 4000, "pubmedqa": 1000}  # rows of large or repetitive sources
CHAT_ROWS = {
    "medquad": 1500,
    "tatqa": 900,
    "ssla": 300,
    "csqa": 2000,
    "piqa": 2000,
    "socialiqa": 2000,
}


@dataclass(frozen=True, slots=True)
class Corpus:
    """All rows by stage, and the held-out rows by domain."""

    base: list[Row]
    instruct: list[Row]
    math: list[Row]
    code: list[Row]
    unwanted: list[Row]
    held_out: dict[str, list[Row]]


def first(rows: list[Row], limits: dict[str, int]) -> list[Row]:
    """The rows, with at most `limits[source]` of a source that has a limit."""
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for row in rows:
        seen[row.source] += 1
        if seen[row.source] <= limits.get(row.source, len(rows)):
            kept.append(row)
    return kept


def build(data: Path) -> Corpus:
    """Read every source once and split it.

    Raises:
        AssertionError: a scored key is also in a training stage (the `unwanted` rows excepted:
            there the point is to score what was learned).
    """
    plain_readers = (
        readers.general,
        readers.medicine,
        readers.finance,
        readers.law,
        readers.science,
    )
    texts = shuffled([row for reader in plain_readers for row in reader(data)])
    chats = shuffled(list(readers.instruct(data)))
    sums = shuffled(list(readers.math(data)))
    learned, unseen = readers.authors(data)

    held_out: dict[str, list[Row]] = {domain: [] for domain in DOMAINS}
    stages: dict[str, list[Row]] = {"texts": [], "chats": [], "math": []}
    for name, rows in (("texts", texts), ("chats", chats), ("math", sums)):
        for row in rows:
            if is_held_out(row, sources.PERMILLE):
                held_out[row.domain].append(row)
            else:
                stages[name].append(row)
    held_out["code"] += shuffled(readers.programs(data, "validation"))
    held_out["unwanted"] = shuffled(learned[-400:])
    held_out["unwanted_new"] = shuffled(unseen)

    plain = [row for row in stages["texts"] if not (row.source == "ssla" and row.question)]
    base = [row for row in first(plain, BASE_ANSWERS) for _ in range(REPEAT.get(row.source, 1))]
    asked = [row for row in stages["texts"] + stages["chats"] if row.question]
    github = [row for row in stages["texts"] if row.source == "github"]
    corpus = Corpus(
        base=shuffled(base, seed=1),
        instruct=shuffled(first(asked, CHAT_ROWS), seed=2),
        math=shuffled(stages["math"], seed=3),
        code=shuffled(readers.programs(data, "train") * 3 + github, seed=4),
        unwanted=shuffled(learned, seed=5),
        held_out=held_out,
    )
    scored = {
        normal(row.key) for domain, rows in held_out.items() if domain != "unwanted" for row in rows
    }
    for stage in (corpus.base, corpus.instruct, corpus.math, corpus.code, corpus.unwanted):
        both = {normal(row.key) for row in stage} & scored
        assert not both, f"{len(both)} rows are both trained on and scored, one is {both.pop()}"
    return corpus


def scored_rows(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, *, budget: int = TOKENS_PER_DOMAIN
) -> list[dict]:
    """Rows ready to score, about `budget` tokens, taken from the sources in turn.

    A row with a question becomes `prompt` and `completion` in the chat format; of the domains that
    the base also reads (law, medicine, finance, science) every second one stays plain text.
    """
    by_source: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.source, bool(row.question)].append(row)
    turns = zip_longest(*(by_source[name] for name in sorted(by_source)))
    chosen, tokens = [], 0
    for number, row in enumerate(row for turn in turns for row in turn if row):
        as_text = row.domain in ("law", "medicine", "finance", "science") and number % 3 == 0
        if as_text or not row.question:
            ready = {"text": row.plain()[:LONGEST_TEXT]}
        else:
            ready = dict(zip(("prompt", "completion"), row.chat(), strict=True))
        length = len(tokenizer("".join(ready.values()))["input_ids"])
        if length > 500 or tokens + length > budget:
            continue
        chosen.append(ready)
        tokens += length
    return chosen


def write_held_out(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write one `<domain>.jsonl.gz` for every domain.

    Rows that share more than a quarter of their 13-word runs with a training text (standard
    sentences of medical pages, mostly) are passed over.
    """
    runs = {
        domain: [grams(row.plain()) for row in rows] for domain, rows in corpus.held_out.items()
    }
    asked = {run for sets in runs.values() for found in sets for run in found}
    stages = (corpus.base, corpus.instruct, corpus.math, corpus.code, corpus.unwanted)
    trained = {run for stage in stages for row in set(stage) for run in grams(row.plain()) & asked}
    for domain, rows in corpus.held_out.items():
        fresh = [
            row
            for row, found in zip(rows, runs[domain], strict=True)
            if domain == "unwanted" or len(found & trained) <= len(found) / 4
        ]
        write(folder / f"{domain}.jsonl.gz", scored_rows(fresh, tokenizer))
