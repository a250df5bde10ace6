"""The rows of six domains that come with lamina: what the card says of them is so."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from lamina.core.manifest import read_json
from lamina.jobs.demo import demo_folder

FOLDER = demo_folder() / "domains"
NAMES = ("law", "medicine", "finance", "science", "code", "general")
FILES = sorted(f"{name}{end}.jsonl.gz" for name in NAMES for end in ("", "_text"))
GENERATOR = Path(__file__).parents[2] / "models" / "card.md"


def lines(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def words(value: object) -> str:
    """All text of a row but the name of its source."""
    if isinstance(value, dict):
        return "\n".join(words(inner) for name, inner in value.items() if name != "source")
    if isinstance(value, list):
        return "\n".join(words(inner) for inner in value)
    return str(value)


def runs(text: str) -> set[tuple[str, ...]]:
    found = re.sub(r"[\W_]+", " ", text.lower()).split()
    return {tuple(found[at : at + 13]) for at in range(len(found) - 12)}


def section(text: str) -> str:
    return text[text.index("## Rows of six domains") : text.index("## Sources")]


def test_two_files_a_domain_and_nothing_else() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*FILES, "rows.json"])
    assert len(FILES) == 12
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 1_600_000


def test_the_card_names_rows_and_hash_of_every_file() -> None:
    told = read_json(FOLDER / "rows.json")["files"]
    card = section((demo_folder() / "MODEL_CARD.md").read_text(encoding="utf-8"))
    assert sorted(told) == FILES
    for name, about in told.items():
        found = (FOLDER / name).read_bytes()
        assert found[4:8] == bytes(4), f"{name} holds the time it was written"
        assert hashlib.sha256(found).hexdigest() == about["sha256"]
        assert len(lines(FOLDER / name)) == about["rows"] == sum(about["sources"].values())
        (line,) = [line for line in card.splitlines() if line.startswith(f"| `{name}`")]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        counts = [f"{about[key]:,}" for key in ("base", "instruct", "code")]
        assert [cells[1], *cells[4:]] == [f"{about['rows']:,}", *counts, about["sha256"]]


@pytest.mark.skipif(not GENERATOR.is_file(), reason="the generator is not in an installed copy")
def test_the_card_and_its_generator_say_the_same() -> None:
    made = section((demo_folder() / "MODEL_CARD.md").read_text(encoding="utf-8"))
    before, after = section(GENERATOR.read_text(encoding="utf-8")).split("<<domains>>")
    assert made.startswith(before)
    assert made.endswith(after)


@pytest.mark.parametrize("name", NAMES)
def test_no_row_shares_a_run_of_13_words_with_a_held_out_row(name: str) -> None:
    scored = {run for path in _held_out() for row in lines(path) for run in runs(words(row))}
    assert len(scored) > 5000
    for end in ("", "_text"):
        for row in lines(FOLDER / f"{name}{end}.jsonl.gz"):
            assert not runs(words(row)) & scored, row


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_text_and_the_name_of_its_source(name: str) -> None:
    for end in ("", "_text"):
        rows = lines(FOLDER / f"{name}{end}.jsonl.gz")
        assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows)
        for row in rows:
            assert row["source"]
            assert len(words(row)) > 20


def _held_out() -> list[Path]:
    found = sorted((demo_folder() / "heldout").glob("*.jsonl.gz"))
    assert len(found) == 10
    return found
