"""The page of a tuning or a detection: whole, alone in the world, escaped, the same twice."""

import gzip
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lamina.report.page import write_demo_page, write_report

KINDS = ["foster", "two-stages", "long", "one", "unclear", "detected", "as-judged"]
HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}\x1b[31m\u202e"
_KEPT = re.compile(r"lamina\.|[-\w./ ]*\.(jsonl|parquet)$|nats per|tokens$|classifier$|tuned$")


@pytest.mark.parametrize("name", KINDS)
def test_a_page_is_well_formed_and_asks_nothing_of_the_network(
    tuned: dict[str, Path], name: str, outline: Callable[[Path], Any]
) -> None:
    path = write_report(tuned[name])
    text = path.read_text("utf-8")
    page = outline(path)
    assert len(text.encode()) < 1_000_000
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\((?!#)|@import|<link|<iframe|<object|\son\w+=", text)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert drawings
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in drawings)
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {str(link).removeprefix("#") for link in links} <= set(page.ids)
    fills = set(re.findall(r"url\(#([\w-]+)\)", text))
    assert fills <= set(page.ids)


def test_the_page_says_what_the_run_did(tuned: dict[str, Path]) -> None:
    text = write_report(tuned["two-stages"]).read_text("utf-8")
    for words in (
        "<h1>demo-base tuned on 6 domains, weights by foster and expand</h1>",
        "lamina · tuning · two-stages",
        "What was forgotten",
        "expand (for law)",
        "lost since its best",
        "general text",
        "Backward transfer",
        "the cap",
        "Asked and achieved",
        "Why these weights",
        "most left to learn",
        "degenerate",
        "What the judge confuses",
        "What the model knew before",
        "no valid judgement",
        "law.jsonl:17",
        "no end mark",
        "medicine: more.parquet:7 repeats the held-out held.jsonl:3",
        "<mark>The court held",
        "lamina tune recipe.yaml --out ../again",
        "model: models/demo-base",
        "torch 2.13.0",
    ):
        assert words in text, words


def test_the_page_of_a_detection_has_its_part_alone(tuned: dict[str, Path]) -> None:
    text = write_report(tuned["detected"]).read_text("utf-8")
    assert "<h1>What demo-base knows, by domain</h1>" in text
    assert "ring: as judged, before the correction" in text
    assert "lamina detect models/demo-base --domains FILE --out ../again" in text
    for absent in (
        "Held-out losses",
        "Why these weights",
        'id="weights"',
        "before the correction.",
    ):
        assert absent not in text
    assert "before the correction" not in write_report(tuned["as-judged"]).read_text("utf-8")


def test_the_same_run_gives_the_same_bytes(make_tuned: ModuleType, tmp_path: Path) -> None:
    pages = [write_report(make_tuned.make_tune(tmp_path / p / "run")) for p in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert str(tmp_path) not in pages[0].read_text("utf-8")


def test_a_page_made_while_the_run_is_written_is_the_final_one(
    make_tuned: ModuleType, tmp_path: Path
) -> None:
    whole = write_report(make_tuned.make_tune(tmp_path / "a" / "run")).read_bytes()
    partial = make_tuned.make_tune(tmp_path / "b" / "run")
    manifest = json.loads((partial / "manifest.json").read_text())
    (partial / "manifest.json").unlink()
    (partial / "log.jsonl").write_text('{"seconds": 1.5}\n')
    assert write_report(partial, manifest).read_bytes() == whole
    assert "Not finished" in write_report(partial).read_text("utf-8")


def test_a_run_without_a_single_window_is_still_a_page(
    make_tuned: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    folder = make_tuned.make_tune(tmp_path)
    for name in ("manifest.json", "domains.jsonl", "ledger.json", "reference.json", "recipe.yaml"):
        (folder / name).unlink()
    text = write_report(folder).read_text("utf-8")
    outline(folder / "report.html")
    assert "No window is finished" in text
    assert "There is no ledger yet" in text
    assert "Samples of what is trained on" in text


def _spoil(value: object) -> object:
    if isinstance(value, dict):
        return {key: _spoil(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_spoil(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) and not _KEPT.match(value) else value


def test_what_stands_in_the_files_comes_out_as_text(
    make_tuned: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    odd = ("law" + HOSTILE, "</title></style>", "<img src=x onerror=alert(1)>")
    folder = make_tuned.make_tune(tmp_path / "run", domains=odd, stages=(("foster", 3),))
    for name in ("ledger.json", "data.json", "reference.json", "detect/shares.json"):
        data = json.loads((folder / name).read_text())
        spoilt: Any = _spoil(data)
        if isinstance(data.get("domains"), list):  # names stay, as they are keys elsewhere
            spoilt["domains"] = data["domains"]
        (folder / name).write_text(json.dumps(spoilt))
    manifest = json.loads((folder / "manifest.json").read_text())
    spoilt = _spoil(manifest)
    spoilt |= {"kind": "tune", "versions": {HOSTILE: HOSTILE}}
    (folder / "manifest.json").write_text(json.dumps(spoilt))
    lines = (folder / "domains.jsonl").read_text().splitlines()
    told = [json.loads(line) | {"reason": HOSTILE, "stage": HOSTILE} for line in lines]
    make_tuned.write_lines(folder / "domains.jsonl", told)
    text = {"text": HOSTILE, "judged": {odd[0]: 1.0}}
    body = gzip.compress(json.dumps(text).encode(), mtime=0)
    (folder / "detect" / "texts.jsonl.gz").write_bytes(body)
    (folder / "recipe.yaml").write_text(f"model: x # </code></pre>{HOSTILE}\n")
    path = write_report(folder)
    html = path.read_text("utf-8")
    page = outline(path)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert "<script" not in html
    assert "{{ 7 * 7 }}" in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert "<script>alert('x')</script>" in "".join(page.words)


def test_a_demo_page_takes_tunings_and_detections_beside_merges(
    make: ModuleType, make_tuned: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    make.make_demo(tmp_path)
    make_tuned.make_detect(tmp_path / "detect")
    make_tuned.make_tune(tmp_path / "tune")
    write_report(tmp_path / "tune")
    sections = {"LATA": "lata", "What it knows": "detect", "Moving weights": "tune"}
    path = write_demo_page(tmp_path, sections)
    page, text = outline(path), path.read_text("utf-8")
    assert "<h1>One family, merged, detected, tuned and measured</h1>" in text
    places = [text.index(f"<h2>{title}</h2>") for title in sections]
    assert places == sorted(places)
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert "tune/report.html" in links
    assert "detect/report.html" not in links
    assert "Moving weights: The cap on repeats" in text
    assert "The held-out loss fell on" in text
    everything = write_demo_page(tmp_path).read_text("utf-8")
    assert "<h2>tune</h2>" in everything


def test_a_demo_page_of_tunings_alone_is_a_page(
    make_tuned: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    make_tuned.make_tune(tmp_path / "tune")
    path = write_demo_page(tmp_path)
    outline(path)
    assert "<h1>One family, tuned and measured</h1>" in path.read_text("utf-8")
