"""A tuning in plain words, and that they say no more than was shown."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from lamina.report.tune.nouns import Detection, Estimate, Judge, Ledger, Stage
from lamina.report.tune.read import read_tuned
from lamina.report.tune.words import (
    forgotten_words,
    judge_words,
    learnt_words,
    reading,
    sentence,
    shares_words,
    sure_words,
    title_of,
    warnings_of,
)


def estimate(value: float, se: float = 0.01) -> Estimate:
    return Estimate(value, se, value - 1.96 * se, value + 1.96 * se)


def ledger(total: dict[str, Estimate], **more: object) -> Ledger:
    given: dict = {
        "domains": tuple(total), "unit": "nats per token", "stages": (), "losses": {},
        "changes": {}, "total": total, "forgetting": {}, "bwt": None, "nbwt": None, "why": "",
        "general": None, "gate": None,
    }  # fmt: skip
    return Ledger(**(given | more))


def test_a_fall_is_told_only_where_the_interval_leaves_zero_out() -> None:
    words = learnt_words(ledger({"law": estimate(-0.3), "code": estimate(-0.015)}))
    assert words == (
        "The held-out loss fell on law −0.300 [−0.320, −0.280], in nats per token with 95 % "
        "intervals. No difference shown on code −0.015 [−0.035, +0.005]."
    )


def test_without_any_clear_change_no_difference_is_shown() -> None:
    words = learnt_words(ledger({"law": estimate(-0.3, se=1.0)}))
    assert words.startswith("No difference shown: no domain's held-out loss fell")


def test_a_change_without_an_interval_is_no_difference() -> None:
    assert "No difference shown" in learnt_words(ledger({"law": Estimate(-3.0)}))


def test_a_rise_is_told_and_so_is_one_that_the_whole_run_hides(tuned: dict[str, Path]) -> None:
    read = read_tuned(tuned["foster"])
    rose = forgotten_words(read, ledger({"law": estimate(0.2), "code": estimate(-0.1)}))
    assert rose.startswith("The held-out loss rose on law +0.200 [+0.180, +0.220].")
    hidden = ledger(
        {"law": estimate(-0.2), "code": estimate(-0.1)},
        stages=(Stage("start", "", 0, None), Stage("a", "", 1, None), Stage("b", "", 2, None)),
        changes={
            "law": (estimate(-0.1), estimate(-0.1)),
            "code": (estimate(-0.4), estimate(0.3)),
        },
    )
    words = forgotten_words(read, hidden)
    assert "Over the whole run no domain's held-out loss rose beyond its error." in words
    assert "In the stage b it rose on code +0.300 [+0.280, +0.320]." in words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((-0.3,), "The change's 95 % interval leaves zero out. It covers"),
        ((0.001,), "The change's 95 % interval holds zero."),
        ((-0.3, 0.001), "1 of the 2 changes has a 95 % interval"),
        ((-0.3, -0.3), "All of the 2 changes have"),
        ((0.0, 0.001), "None of the 2 changes have"),
        ((-0.3,) * 5, "With 5 intervals, one in twenty misses by chance alone. They cover"),
    ],
)
def test_how_sure_the_run_is_says_what_the_intervals_hold(
    values: tuple[float, ...], words: str
) -> None:
    total = {str(place): estimate(value) for place, value in enumerate(values)}
    assert words in sure_words(ledger(total))


def detection(shares: dict[str, float], se: float = 0.01, **more: object) -> Detection:
    given: dict = {
        "domains": tuple(shares), "shares": shares, "se": dict.fromkeys(shares, se), "raw": {},
        "repeats": (), "texts": 1000.0, "tokens": None, "invalid": 0.0,
        "judge": Judge("classifier", 0.9, 0.01, 500.0, {}), "corrected": False, "stopped": "",
        "finished": None, "warnings": (), "settings": {}, "sampled": (),
    }  # fmt: skip
    return Detection(**(given | more))


def test_shares_within_their_errors_are_not_put_in_order() -> None:
    far = shares_words(detection({"law": 0.6, "code": 0.4}))
    assert "No difference" not in far
    near = shares_words(detection({"law": 0.36, "code": 0.34, "science": 0.1}))
    assert "No difference is shown between law and code." in near


def test_shares_from_losses_are_not_said_to_be_written_by_the_model() -> None:
    found = detection({"law": 0.6, "code": 0.4}, judge=Judge("losses", None, None, None, {}))
    assert shares_words(found).startswith("By the model's losses on their rows")
    assert judge_words(found).startswith("No texts were judged")


def test_the_judge_is_told_with_its_own_accuracy() -> None:
    assert "right on 90\u00a0% ± 1.0\u00a0% of 500 labelled rows" in judge_words(
        detection({"law": 1.0})
    )
    corrected = detection({"law": 0.7, "code": 0.3}, raw={"law": 0.6, "code": 0.4}, corrected=True)
    assert "law moved most" in judge_words(corrected) or "code moved most" in judge_words(corrected)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("the cap holds", "The cap holds."),
        ("data.json is missing: x.", "data.json is missing: x."),
        ("", ""),
    ],
)
def test_a_warning_becomes_a_sentence_but_a_file_keeps_its_name(text: str, told: str) -> None:
    assert sentence(text) == told


def test_the_gate_and_an_odd_status_are_warned_of(make_tuned: ModuleType, tmp_path: Path) -> None:
    folder = make_tuned.make_tune(tmp_path / "run", crossed=True)
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(data | {"status": "stopped", "warnings": []}))
    told = warnings_of(read_tuned(folder))
    assert told[0] == "The run did not come to its end: its status is `stopped`."
    assert told[1].startswith("The gate: Crossed in window 7: the loss of medicine rose by")


def test_headings_and_parts_of_each_kind(tuned: dict[str, Path]) -> None:
    assert title_of(read_tuned(tuned["two-stages"])) == (
        "demo-base tuned on 6 domains, weights by foster and expand"
    )
    assert title_of(read_tuned(tuned["detected"])) == "What demo-base knows, by domain"
    assert [part.heading for part in reading(read_tuned(tuned["foster"]))] == [
        "What was done",
        "How the weights moved",
        "What was learnt",
        "What was forgotten",
        "The gate",
        "How sure that is",
    ]
    still = reading(read_tuned(tuned["unclear"]))[1].text
    assert still.startswith("They stayed where they began, as this policy wants it.")
