"""The page is one file, whole, escaped, the same for the same input, and alone in the world."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lamina.core.errors import DataError, OutputError
from lamina.report.page import write_demo_page, write_report

HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}\x1b[31m\u202e"


def headings(page: Any) -> list[int]:
    return [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]


@pytest.mark.parametrize(
    "name",
    ["math-code-lata", "eight-blocks", "forty-two-blocks", "by-module", "forgotten", "plain"],
)
def test_a_page_is_well_formed_and_asks_nothing_of_the_network(
    runs: dict[str, Path], name: str, outline: Callable[[Path], Any]
) -> None:
    path = write_report(runs[name])
    assert path == runs[name] / "report.html"
    text = path.read_text("utf-8")
    page = outline(path)
    assert len(text.encode()) < 1_000_000
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import|<link|<iframe|<object|\son\w+=", text)
    assert not [attrs for _, attrs in page.tags if "src" in attrs or "srcset" in attrs]
    levels = headings(page)
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert pictures
    assert all(attrs["aria-label"] for attrs in pictures)


def test_the_page_says_what_was_measured(runs: dict[str, Path]) -> None:
    text = write_report(runs["math-code-lata"]).read_text("utf-8")
    for words in (
        "<h1>math + code into instruct, by LATA</h1>",
        "Did the ranking matter?",
        "models/code names no licence",
        "Mean loss per token",
        "weights permuted 3",
        "Values vanished",
        "apache-2.0",
        "merge_method: lata",
        "lamina merge recipe.yaml ../again",
        "numba 0.62.1",
        "c0ffee" * 10,
    ):
        assert words in text, words


def test_a_page_without_metrics_controls_and_plan_is_still_a_page(
    make: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    folder = make.make_lata(tmp_path / "run", measured=False)
    for name in ("plan.json", "recipe.yaml"):
        (folder / name).unlink()
    text = write_report(folder).read_text("utf-8")
    outline(folder / "report.html")
    assert "No held-out text was measured" in text
    assert 'id="losses"' not in text
    assert 'id="controls"' not in text


def test_a_page_of_scores_alone_says_that_the_run_is_not_finished(
    make: ModuleType, tmp_path: Path
) -> None:
    folder = make.make_lata(tmp_path / "run")
    (folder / "manifest.json").unlink()
    assert "Not finished" in write_report(folder).read_text("utf-8")


def test_the_same_run_gives_the_same_bytes(make: ModuleType, tmp_path: Path) -> None:
    pages = [write_report(make.make_lata(tmp_path / place / "run")) for place in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert str(tmp_path) not in pages[0].read_text("utf-8")


def _spoil(value: object) -> object:
    """Every text and key of a file made hostile; the keys that lamina reads stay."""
    known = {"lata", "same_norm", "reversed", "instruct", "linear_drop", "lata_cosine", "cosine"}
    if isinstance(value, dict):
        return {key: _spoil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spoil(inner) for inner in value]
    if isinstance(value, str) and value not in known and not value.startswith("lamina."):
        return value + HOSTILE
    return value


def test_what_stands_in_the_files_comes_out_as_text(
    make: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    names = ("ma" + HOSTILE, "</title></style>")
    folder = make.make_lata(tmp_path / "run", names=names)
    for name in ("manifest.json", "scores.json", "plan.json", "metrics.json"):
        data = json.loads((folder / name).read_text())
        data = _spoil(data)
        if name == "metrics.json":
            data["models"][HOSTILE] = data["models"].pop("LATA")
            data["domains"] = data["domains"][:1] + list(make.DOMAINS[1:])
            data["models"] |= {"<img src=x onerror=alert(1)>": data["models"]["math"]}
        if name == "manifest.json":
            data["versions"][HOSTILE] = HOSTILE
            data["inputs"]["<b>"] = {HOSTILE: HOSTILE, "path": HOSTILE}
        (folder / name).write_text(json.dumps(data))
    (folder / "recipe.yaml").write_text(f"merge_method: lata # </code></pre>{HOSTILE}\n")
    path = write_report(folder)
    text = path.read_text("utf-8")
    page = outline(path)
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags
    assert "img" not in tags
    assert "<script" not in text
    assert "{{ 7 * 7 }}" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "<script>alert('x')</script>" in "".join(page.words)


def test_a_page_that_cannot_be_written_leaves_nothing_behind(
    make: ModuleType, tmp_path: Path
) -> None:
    folder = make.make_lata(tmp_path / "run")
    (folder / "report.html").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(folder)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_demo_page_compares_on_top_and_has_a_section_for_each_merge(
    runs: dict[str, Path], outline: Callable[[Path], Any]
) -> None:
    sections = {"LATA": "lata", "Task arithmetic": "task_arithmetic", "Forgetting": "forget"}
    path = write_demo_page(runs["demo"], sections)
    page = outline(path)
    text = path.read_text("utf-8")
    assert [text.index(f"<h2>{title}</h2>") for title in sections] == sorted(
        text.index(f"<h2>{title}</h2>") for title in sections
    )
    assert text.index('id="losses"') < text.index("<h2>LATA</h2>")
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert len(links) == 6
    assert {str(link).lstrip("#") for link in links} <= set(page.ids)
    assert text.count("models/code names no licence") == 1
    assert "Where something was to be forgotten, higher is what was wanted." in text
    levels = headings(page)
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_demo_page_finds_its_sections_by_itself(runs: dict[str, Path]) -> None:
    text = write_demo_page(runs["demo"]).read_text("utf-8")
    assert [
        title for title in ("forget", "lata", "task arithmetic") if f"<h2>{title}<" in text
    ] == [
        "forget",
        "lata",
        "task arithmetic",
    ]


def test_a_demo_folder_without_runs_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder in it holds a manifest"):
        write_demo_page(tmp_path)


def test_a_page_made_while_the_run_is_written_has_the_final_name(
    make: ModuleType, tmp_path: Path
) -> None:
    whole = write_report(make.make_lata(tmp_path / "a" / "run")).read_bytes()
    partial = make.make_lata(tmp_path / "b" / ".run.lamina-part")
    manifest = json.loads((partial / "manifest.json").read_text())
    (partial / "manifest.json").unlink()
    (partial / "log.jsonl").write_text('{"seconds": 1.5}\n')
    assert write_report(partial, manifest).read_bytes() == whole


def test_costs_are_on_the_demo_page_and_not_on_a_page_whose_bytes_are_compared(
    make: ModuleType, tmp_path: Path
) -> None:
    make.make_demo(tmp_path)
    for name in ("lata", "forget"):
        data = json.loads((tmp_path / name / "manifest.json").read_text())
        for key in ("seconds", "cpu_seconds", "peak_rss_bytes"):
            del data["results"][key]
        (tmp_path / name / "manifest.json").write_text(json.dumps(data))
        (tmp_path / name / "log.jsonl").write_text('{"seconds": 61.25, "threads": 2}\n')
    assert "61\u00a0s" in write_demo_page(tmp_path).read_text("utf-8")
    assert "61\u00a0s" not in write_report(tmp_path / "lata").read_text("utf-8")
