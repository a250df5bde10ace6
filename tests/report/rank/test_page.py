"""The page of a ranking: whole, alone in the world, escaped, the same twice."""

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lamina.report.page import write_demo_page, write_report

KINDS = ["whole", "noisy", "one-seed", "blocks", "sublayers", "large", "experts", "all", "single"]
HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}\x1b[31m\u202e"


@pytest.mark.parametrize("name", KINDS)
def test_a_page_is_well_formed_and_asks_nothing_of_the_network(
    ranked: dict[str, Path], name: str, outline: Callable[[Path], Any]
) -> None:
    assert set(ranked) == set(KINDS)
    path = write_report(ranked[name])
    text = path.read_text("utf-8")
    page = outline(path)
    assert len(text.encode()) < 1_000_000
    assert "script" not in {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\((?!#)|@import|<link|<iframe|<object|\son\w+=", text)
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b(?! is within)", " ".join(page.words))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert drawings
    assert all(attrs.get("aria-label") or attrs.get("aria-hidden") for attrs in drawings)
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert {str(link).removeprefix("#") for link in links} <= set(page.ids)
    assert set(re.findall(r"url\(#([\w-]+)\)", text)) <= set(page.ids)


def test_the_page_says_what_was_found(ranked: dict[str, Path]) -> None:
    text = write_report(ranked["whole"]).read_text("utf-8").replace("\u00a0", " ")
    for words in (
        "<h1>Which modules of demo-base matter, by integrate</h1>",
        "lamina · ranking · whole",
        "The top 30 % (17 of 56 modules)",
        "down_proj (7 of 8; 2.4 by chance)",
        "Between 2 seeds, Spearman 0.99",
        "on 64 rows, Spearman 0.97",
        "corrected 0.92",
        "By chance: 30 %",
        "Hardly any time",
        "the rule `prefix_friendly`",
        "place 1 of 56, in the top 30 %",
        "within one spread of the cut",
        "48 forward and backward batches",
        "Counted, not measured",
        "Where the rows come from",
        "lamina rank recipe.yaml --out ../again",
    ):
        assert words in text, words
    assert "warning" not in re.sub(r"<style>.*</style>", "", text, flags=re.S)


def test_each_chosen_module_is_outlined_once_a_map(ranked: dict[str, Path]) -> None:
    text = write_report(ranked["large"]).read_text("utf-8")
    maps = re.findall(r"<svg [^>]*Value, nats a token.*?</svg>", text, flags=re.S)
    assert len(maps) == 1
    assert maps[0].count('class="chosen"') == 89
    assert maps[0].count('class="cell"') == 294 + 9  # and the key
    assert maps[0].count('class="unsure"') > 0


def test_values_below_zero_have_the_other_colour_and_zero_stands_in_the_middle(
    ranked: dict[str, Path],
) -> None:
    text = write_report(ranked["noisy"]).read_text("utf-8")
    (drawn,) = re.findall(r"<svg [^>]*Value, nats a token.*?</svg>", text, flags=re.S)
    assert drawn.count('class="low"') > 4
    ends = re.findall(r"(\u2212?0\.\d+)</text>", drawn)
    assert ends == ["\u2212" + ends[1], ends[1]]


def test_what_is_wrong_is_warned_of(ranked: dict[str, Path]) -> None:
    noisy = write_report(ranked["noisy"]).read_text("utf-8").replace("\u00a0", " ")
    assert "The seeds disagree" in noisy
    assert "The ranking and leave-one-out correlate by 0.52 only" in noisy
    assert "off by 21 %" in noisy
    bare = write_report(ranked["one-seed"]).read_text("utf-8")
    assert "agreement.json is missing or empty" in bare
    assert "One seed only" in bare
    assert "No leave-one-out check" in bare
    assert "The adapter does not lower the loss" in bare


def test_what_the_run_warned_of_is_not_told_twice(make_rank: ModuleType, tmp_path: Path) -> None:
    folder = make_rank.make_rank(tmp_path, noise=1.6, error=0.21)
    facts = json.loads((folder / "manifest.json").read_text())
    facts["warnings"] = ["two seeds' rankings agree by 0.344 only", "the integral's sum misses"]
    make_rank.write(folder / "manifest.json", facts)
    text = write_report(folder).read_text("utf-8")
    assert "The seeds disagree" not in text
    assert "do not add up" not in text
    assert "The ranking and leave-one-out correlate" in text


def test_the_same_run_gives_the_same_bytes(make_rank: ModuleType, tmp_path: Path) -> None:
    pages = [write_report(make_rank.make_rank(tmp_path / one / "run")) for one in ("a", "b")]
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert str(tmp_path) not in pages[0].read_text("utf-8")


def test_a_page_made_while_the_run_is_written_is_the_final_one(
    make_rank: ModuleType, tmp_path: Path
) -> None:
    whole = write_report(make_rank.make_rank(tmp_path / "a" / "run")).read_bytes()
    partial = make_rank.make_rank(tmp_path / "b" / "run")
    manifest = json.loads((partial / "manifest.json").read_text())
    (partial / "manifest.json").unlink()
    (partial / "log.jsonl").write_text('{"seconds": 1.5}\n')
    assert write_report(partial, manifest).read_bytes() == whole
    assert "Not finished" in write_report(partial).read_text("utf-8")


def _spoil(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _spoil(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_spoil(inner, key) for inner in value]
    return value + HOSTILE if isinstance(value, str) and key not in ("schema", "kind") else value


def test_what_stands_in_the_files_comes_out_as_text(
    make_rank: ModuleType, tmp_path: Path, outline: Callable[[Path], Any]
) -> None:
    folder = make_rank.make_rank(tmp_path / "run", plan=True, types=("a.<b>", "</svg></style>"))
    for path in [*folder.glob("*.json"), *folder.glob("scores/*.json")]:
        path.write_text(json.dumps(_spoil(json.loads(path.read_text()))))
    (folder / "scores" / "delta_norm.json").rename(
        folder / "scores" / "<img src=x onerror=alert(1)>.json"
    )
    page = outline(write_report(folder))
    text = (folder / "report.html").read_text("utf-8")
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert "<script" not in text
    assert "<img" not in text
    assert "{{ 7 * 7 }}" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_demo_page_has_the_map_in_short_and_a_link(
    make: ModuleType, make_rank: ModuleType, make_tuned: ModuleType, tmp_path: Path,
    outline: Callable[[Path], Any],
) -> None:  # fmt: skip
    make.make_demo(tmp_path)
    write_report(make_rank.make_rank(tmp_path / "rank"))
    make_rank.add_plan(make_tuned.make_tune(tmp_path / "tune"))
    path = write_demo_page(tmp_path, {"LATA": "lata", "Ranking": "rank", "Few": "tune"})
    page, text = outline(path), path.read_text("utf-8")
    assert "<h1>One family, merged, ranked, tuned and measured</h1>" in text
    assert "rank/report.html" in [attrs.get("href") for tag, attrs in page.tags if tag == "a"]
    assert text.index("<dt>Ranking</dt>") < text.index("<dt>Few</dt>")
    assert "Value, nats a token" in text
    assert "18 of 56 linear modules were tuned with LoRA" in text


@pytest.mark.parametrize(("method", "how"), [("lora", "with LoRA"), ("full", "in full")])
def test_the_page_of_a_tuning_by_a_plan_shows_it(
    make_rank: ModuleType, make_tuned: ModuleType, tmp_path: Path, method: str, how: str
) -> None:
    folder = make_tuned.make_tune(tmp_path, domains=("law", "code"), detected=False)
    make_rank.add_plan(folder, layerwise="prilora" if method == "lora" else None, method=method)
    text = write_report(folder).read_text("utf-8").replace("\u00a0", " ")
    assert f"18 of 56 linear modules were tuned {how}, in the blocks 5 to 7." in text
    assert "Trained whole, without an adapter: 7.input_layernorm and norm." in text
    assert "the rule top (share 0.321) from scores.json" in text
    assert "the backward pass can stop at block 5" in text
    assert ("PRILoRA" in text) == (method == "lora")
    assert 'id="plan"' in text
    (folder / "manifest.json").unlink()
    assert 'id="plan"' in write_report(folder).read_text("utf-8")


def test_a_layerwise_tuning_without_a_plan_says_how(
    make_rank: ModuleType, make_tuned: ModuleType, tmp_path: Path
) -> None:
    folder = make_rank.add_plan(make_tuned.make_tune(tmp_path), layerwise="lisa")
    (folder / "plan.json").unlink()
    text = write_report(folder).read_text("utf-8")
    assert "LISA: a few blocks drawn at random" in text
    assert 'id="plan"' not in text


def test_a_ranking_of_files_alone_has_no_matrices_and_no_batches(
    make_rank: ModuleType, tmp_path: Path
) -> None:
    folder = make_rank.make_rank(tmp_path, seeds=1, beside=(), error=None)
    for name in ("agreement.json", "manifest.json", "scores.json"):
        found = json.loads((folder / name).read_text())
        found |= {"way": "snr"} if name == "agreement.json" else {}
        found |= {"method": "snr"} if name == "scores.json" else {}
        if name == "agreement.json":
            found["cost"] = {"batches": 0, "tokens": 0, "stage_one_steps": 0, "stable_at": None}
        if name == "manifest.json":
            found["results"] = {"way": "snr", "batches": 0, "stage_one_steps": 0}
        make_rank.write(folder / name, found)
    text = write_report(folder).read_text("utf-8")
    assert "No rows are drawn for it: every seed gives the same." in text
    assert "no batches, as it looks at no rows" in text
    assert "No leave-one-out check" in text
    for absent in ("measures it", "One seed only", "Stage 1", "Spearman's", 'id="agreement"'):
        assert absent not in text, absent
