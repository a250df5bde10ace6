"""Rows of six domains to tune on: two small files a domain, from the same sources as the models.

    python models/make.py --data DIR --only domains

`NAME.jsonl.gz` holds what is asked and answered (loss on the answer), `NAME_text.jsonl.gz` plain
text (loss on every token). A row is in none of the files that anybody scores with: not in the split
that the models were scored on, and without a run of 13 words in common with `heldout/` or with a
test or validation set of the data folder. Rows of one domain that share more than a quarter of
these runs with an earlier row are left out, too. The bytes depend on the data only.
"""

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import readers
import sources
from corpus import Corpus
from rows import Row, grams, is_held_out, normal, read, shuffled, write

CARD_HEADER = ["file", "rows", "type", "sources", "base", "instruct", "code", "SHA-256"]
NAMES = ("law", "medicine", "finance", "science", "code", "general")
LONGEST = 1200  # characters of a text, of an answer and of a prompt: under 512 tokens, mostly
SCIENCE = set(
    "atom atoms molecule molecules electron electrons proton cell cells protein proteins species "
    "planet planets orbit gravity oxygen hydrogen carbon chemical chemistry physics acid enzyme "
    "temperature velocity organism organisms bacteria membrane dna wavelength galaxy reaction ion "
    "ions evolution photosynthesis sediment magma mass force heat".split()
)
EVALUATED = (
    *("bench/" + name for name in (
        "arc_challenge_validation", "arc_easy_test", "arc_easy_validation", "boolq_validation",
        "copa_validation", "gsm8k_test", "hellaswag_validation", "humaneval",
        "lambada_openai_test", "mmlu_dev", "mmlu_test", "mmlu_validation", "openbookqa_test",
        "openbookqa_validation", "piqa_validation", "social_i_qa_validation", "truthfulqa_mc",
        "winogrande_xl_validation",
    )),
    "domains/medicine_medmcqa_validation",
    "instruct/mt_bench_questions",
    "instruct/vicuna_80",
    "text/wikitext2_raw_test",
    "text/wikitext2_v1_validation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """One row as it is written, with the row of the sources that it was made from."""

    origin: Row
    line: dict

    def words(self) -> str:
        """All text of the line."""
        return "\n".join(_strings({k: v for k, v in self.line.items() if k != "source"}))


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def cut(text: str, *, longest: int = LONGEST) -> str:
    """The text up to the last end of a line or sentence before `longest` characters."""
    text = text.strip()
    if len(text) <= longest:
        return text
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s)|\n", text[:longest])]
    return text[: ends[-1] if ends else longest].strip()


def parts(text: str, *, most: int, longest: int = LONGEST) -> list[str]:
    """The text in pieces of whole lines, each at most `longest` characters, the first `most`."""
    found, piece = [], ""
    for line in text.splitlines(keepends=True):
        if len(piece) + len(line) > longest and piece.strip():
            found.append(piece.strip("\n"))
            piece = ""
        piece += line[:longest]
    return [one for one in [*found, piece.strip("\n")] if len(one) > 200][:most]


def text_piece(row: Row, text: str) -> Piece:
    """A plain text."""
    return Piece(row, {"text": text, "source": row.source})


def asked(row: Row) -> Piece:
    """A prompt and its completion."""
    return Piece(row, {"prompt": row.question, "completion": row.answer, "source": row.source})


def alpaca(row: Row, question: str, given: str) -> Piece:
    """An instruction, what it is about, and the output."""
    line = {"instruction": question, "input": given, "output": row.answer, "source": row.source}
    return Piece(row, line)


def fits(row: Row) -> bool:
    """Whether neither side is too long to be read whole."""
    return 0 < len(row.question) <= LONGEST and 0 < len(row.answer.strip()) <= LONGEST


def alternate(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows to ask and rows to read: by their key, so no content is in both."""
    ask = [row for row in rows if int(hashlib.sha256(row.key.encode()).hexdigest(), 16) % 2]
    return ask, [row for row in rows if row not in set(ask)]


def law(data: Path, corpus: Corpus) -> tuple[list[Piece], list[Piece]]:
    """Clauses and holdings with a lawyer's label; complaints with the persons they name."""
    rows = shuffled(list(readers.law(data)))
    bench, holdings = alternate([row for row in rows if row.source == "legalbench" and fits(row)])
    named, complaints = alternate([row for row in rows if row.source == "ssla"])
    named = [row for row in named if row.question and row.answer != "none" and _spaced(row)]
    complaints = [row for row in complaints if not row.question and _spaced(row)]
    texts = [text_piece(row, cut(row.key)) for row in holdings if len(row.key) > 200]
    texts += [text_piece(row, cut(row.answer)) for row in complaints]
    return [asked(row) for row in bench + named[:220]], texts


def _spaced(row: Row) -> bool:
    """Whether a scanned text still has its blanks between the words."""
    text = row.question or row.answer
    return text.count(" ") > len(text) / 8


def medicine(data: Path, corpus: Corpus) -> tuple[list[Piece], list[Piece]]:
    """Patients' questions that no member has seen; abstracts of studies to read."""
    known = {row.key for row in corpus.base + corpus.instruct}
    rows = shuffled(list(readers.medicine(data)))
    fresh = [row for row in rows if row.source == "medquad" and row.key not in known and fits(row)]
    studies = [row for row in rows if row.source == "pubmedqa" and "\n" in row.question]
    texts = [text_piece(row, cut(row.question.rpartition("\n")[0])) for row in studies]
    return [asked(row) for row in fresh][:800], texts


def finance(data: Path, corpus: Corpus) -> tuple[list[Piece], list[Piece]]:
    """Company reports: half of them as a talk about their table, half of them to read."""
    ask, to_read = alternate(shuffled(list(readers.finance(data))))
    reports = [row for row in to_read if not row.question]
    texts = [text_piece(row, part) for row in reports for part in parts(row.answer, most=6)]
    talks: dict[str, list[Row]] = {}
    for row in ask:
        if row.question and len(row.question) <= LONGEST:
            talks.setdefault(row.key, []).append(row)
    # Three questions a talk: a longer one would be cut at 512 tokens.
    return [talk(rows[:3]) for rows in talks.values()], texts


def talk(rows: list[Row]) -> Piece:
    """Several questions about one table as one conversation; the table is shown once."""
    turns = []
    for number, row in enumerate(rows):
        question = row.question.rpartition("\n")[2] if number else row.question
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": row.answer})
    return Piece(rows[0], {"messages": turns, "source": rows[0].source})


def science(data: Path, corpus: Corpus) -> tuple[list[Piece], list[Piece]]:
    """School questions with their choices, answered or printed out; passages about nature."""
    rows, choices = [], {}
    for name in ("arc_easy", "arc_challenge", "openbookqa"):
        for raw in readers.load(data, name):
            answer = f"{chr(65 + raw['answer'])}. {raw['choices'][raw['answer']]}"
            row = Row("science", name, raw["question"], answer, raw["question"])
            lines = (f"{chr(65 + at)}. {choice}" for at, choice in enumerate(raw["choices"]))
            choices[row] = "\n".join(lines)
            rows.append(row)
    ask, printed = alternate(shuffled([row for row in rows if fits(row)]))
    texts = [
        text_piece(row, f"{row.question}\n{choices[row]}\nAnswer: {row.answer}")
        for row in printed[:900]
    ]
    for row in readers.general(data):
        if row.source == "boolq" and len(set(normal(row.answer).split()) & SCIENCE) > 2:
            texts.append(text_piece(row, cut(row.answer)))
    return [alpaca(row, row.question, choices[row]) for row in ask[:700]], texts


def code(data: Path, corpus: Corpus) -> tuple[list[Piece], list[Piece]]:
    """Tasks with a program; pieces of source files."""
    tasks = [asked(row) for row in shuffled(readers.programs(data, "train")) if fits(row)]
    files = [row for row in readers.general(data) if row.source == "github"]
    pieces = [(row, part) for row in files for part in parts(row.answer, most=5, longest=900)]
    return tasks, [text_piece(row, part) for row, part in pieces]


def general(data: Path, corpus: Corpus) -> tuple[list[Piece], list[Piece]]:
    """Everyday requests; web pages and encyclopedia."""
    requests = []
    for raw in readers.load(data, "self_instruct"):
        row = Row("general", "self_instruct", raw["instruction"], raw["output"], raw["instruction"])
        requests.append(alpaca(row, raw["instruction"], raw["input"]))
    for row in readers.instruct(data):
        if row.source == "dolly":
            requests.append(alpaca(row, row.question, ""))
    requests = [piece for piece in shuffled(requests) if fits(piece.origin)]
    pages = shuffled([row for row in readers.general(data) if row.source in ("c4", "wikitext")])
    texts = [text_piece(row, cut(row.answer)) for row in pages if len(row.answer) > 200][:700]
    return requests, texts


READERS: dict[str, Callable[[Path, Corpus], tuple[list[Piece], list[Piece]]]] = {
    "law": law,
    "medicine": medicine,
    "finance": finance,
    "science": science,
    "code": code,
    "general": general,
}


def scored(data: Path, held_out: Path) -> tuple[set[tuple[str, ...]], set[str]]:
    """Runs of 13 words, and whole short texts, of everything that anybody scores with."""
    lines = [row for path in sorted(held_out.glob("*.jsonl.gz")) for row in read(path)]
    lines += [row for name in EVALUATED for row in read(data / f"{name}.jsonl.gz")]
    lines += [row for row in readers.load(data, "mbpp") if row["split"] in ("test", "validation")]
    lines += [row for row in readers.load(data, "pubmedqa") if row["split"] == "test"]
    texts = [text for line in lines for text in _strings(line)]
    return {run for text in texts for run in grams(text)}, {normal(text) for text in texts}


def fresh(
    pieces: list[Piece],
    taken: set[tuple[str, ...]],
    *,
    runs: set[tuple[str, ...]],
    whole: set[str],
) -> list[Piece]:
    """The pieces that nobody scores with and that repeat no earlier piece; adds to `taken`."""
    kept = []
    for piece in pieces:
        mine = grams(piece.words())
        texts = {normal(text) for text in _strings(piece.line) if len(normal(text).split()) > 5}
        if is_held_out(piece.origin, sources.PERMILLE) or mine & runs or texts & whole:
            continue
        if len(mine & taken) * 4 > len(mine):
            continue
        taken |= mine
        kept.append(piece)
    return kept


def absent(data: Path) -> list[str]:
    """The files of `EVALUATED` that are not in the data folder."""
    return [f"{name}.jsonl.gz" for name in EVALUATED if not (data / f"{name}.jsonl.gz").is_file()]


def build(data: Path, corpus: Corpus, *, held_out: Path, out: Path) -> None:
    """Write the twelve files and `rows.json`, which says what is in them."""
    runs, whole = scored(data, held_out)
    told = {}
    for name in NAMES:
        taken: set[tuple[str, ...]] = set()
        for ending, pieces in zip(("", "_text"), READERS[name](data, corpus), strict=True):
            kept = shuffled(fresh(pieces, taken, runs=runs, whole=whole), seed=6)
            path = out / f"{name}{ending}.jsonl.gz"
            write(path, [piece.line for piece in kept])
            told[path.name] = {
                "rows": len(kept),
                "sources": dict(sorted(Counter(p.origin.source for p in kept).items())),
                **{
                    member: sum(p.origin.key in keys for p in kept)
                    for member, keys in known(corpus).items()
                },
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
    (out / "rows.json").write_text(json.dumps({"schema": 1, "files": told}, indent=1) + "\n")


def known(corpus: Corpus) -> dict[str, set[str]]:
    """The keys of the rows that a member was trained on."""
    stages = {"base": corpus.base, "instruct": corpus.instruct, "code": corpus.code}
    return {name: {row.key for row in rows} for name, rows in stages.items()}


def card_rows(folder: Path) -> list[list[str]]:
    """The lines of the card's table, from `rows.json`."""
    told = json.loads((folder / "rows.json").read_text())["files"]
    return [
        [
            f"`{name}`",
            f"{about['rows']:,}",
            kind(folder / name),
            ", ".join(f"{source} {rows:,}" for source, rows in about["sources"].items()),
            *(f"{about[member]:,}" for member in ("base", "instruct", "code")),
            about["sha256"],
        ]
        for name, about in told.items()
    ]


def kind(path: Path) -> str:
    """What type of row a file holds, by its first line."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        line = json.loads(next(lines))
    names = {"text": "text", "prompt": "prompt_completion", "instruction": "alpaca"}
    return next((name for field, name in names.items() if field in line), "messages")
