"""Rows become items: limits, numbers of examples, and what is refused or told."""

import json
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import DataError, RecipeError
from lamina.evaluate.nouns import ChoiceItem, WriteItem
from lamina.evaluate.tasks import TASKS, Chosen, build_items

Row = dict[str, Any]


def gsm8k(number: int) -> Row:
    return {"question": f"What is {number}?", "answer": f"It is.\n#### {number}"}


def mmlu(subject: str, number: int) -> Row:
    return {
        "subject": subject,
        "question": f"{number}?",
        "choices": ["1", "2", "3", "4"],
        "answer": number % 4,
    }


def put(folder: Path, stem: str, rows: list[Row]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{stem}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    put(tmp_path, "gsm8k_test", [gsm8k(number) for number in range(6)])
    put(tmp_path, "gsm8k_train", [gsm8k(number) for number in range(10, 18)])
    rows = [mmlu(subject, n) for subject in ("us_law", "art") for n in range(4)]
    put(tmp_path, "mmlu_test", rows)
    dev = [mmlu(subject, n) for subject in ("art", "us_law", "other") for n in range(10, 13)]
    return put(tmp_path, "mmlu_dev", dev)


def gsm(data: Path, **how: Any) -> Chosen:
    return build_items(TASKS["gsm8k"], data=data, **how)


def test_gsm8k_has_five_examples_by_default(data: Path) -> None:
    chosen = gsm(data)
    assert chosen.few_shot == 5
    assert chosen.source == "gsm8k_test.jsonl, gsm8k_train.jsonl"
    assert chosen.warnings == ()
    for item in chosen.items:
        assert isinstance(item, WriteItem)
        assert item.prompt.count("Question:") == 6


def test_the_same_arguments_ask_the_same_and_others_do_not(data: Path) -> None:
    assert gsm(data) == gsm(data)
    prints = {
        gsm(data, **how).fingerprint
        for how in (
            {},
            {"seed": 1},
            {"few_shot": 4},
            {"limit": 5},
            {"chat": lambda messages: json.dumps(messages)},
        )
    }
    assert len(prints) == 5


def test_a_limit_above_the_rows_takes_them_all(data: Path) -> None:
    assert gsm(data, limit=99).items == gsm(data).items


def test_a_limit_is_for_each_subject_of_mmlu(data: Path) -> None:
    chosen = build_items(TASKS["mmlu"], data=data, limit=1)
    assert [item.id for item in chosen.items] == ["us_law/0", "art/0"]
    assert [item.group for item in chosen.items] == ["us_law", "art"]


def test_examples_of_mmlu_are_the_first_ones_of_the_subject(data: Path) -> None:
    (item, *_) = build_items(TASKS["mmlu"], data=data, few_shot=2).items
    assert isinstance(item, ChoiceItem)
    lines = item.pairs[0].context.split("\n")
    assert lines[0] == ("The following are multiple choice questions (with answers) about us law.")
    assert [line for line in lines if line.endswith("?")] == ["10?", "11?", "0?"]
    assert [line for line in lines if line.startswith("Answer")] == [
        "Answer: C",
        "Answer: D",
        "Answer:",
    ]


def test_numbers_that_cannot_be_are_refused(data: Path) -> None:
    with pytest.raises(RecipeError, match=r"--limit is 0\. It must be at least 1"):
        gsm(data, limit=0)
    with pytest.raises(RecipeError, match="--few-shot is -1"):
        gsm(data, few_shot=-1)


def test_more_examples_than_there_are_rows_are_refused(data: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        gsm(data, few_shot=9)
    assert str(caught.value) == (
        "gsm8k: --few-shot 9 needs 9 rows of gsm8k_train.jsonl, which has 8. Ask for fewer."
    )
    assert gsm(data, few_shot=8).few_shot == 8
    with pytest.raises(RecipeError, match="which has us_law: 3, art: 3"):
        build_items(TASKS["mmlu"], data=data, few_shot=4)


def test_a_task_that_draws_one_to_spare_needs_it(tmp_path: Path) -> None:
    rows = [{"goal": str(n), "sol1": "x", "sol2": "y", "label": 0} for n in range(9)]
    put(tmp_path, "piqa_validation", rows[:4])
    put(tmp_path, "piqa_train", rows[4:])
    assert len(build_items(TASKS["piqa"], data=tmp_path, few_shot=4).items) == 4
    with pytest.raises(RecipeError, match=r"6 rows \(one is drawn to spare\) of piqa_train"):
        build_items(TASKS["piqa"], data=tmp_path, few_shot=5)


def test_rows_that_are_examples_and_test_rows_are_refused_together(data: Path) -> None:
    put(data, "gsm8k_train", [gsm8k(number) for number in range(4, 12)])
    with pytest.raises(DataError) as caught:
        gsm(data)
    message = str(caught.value)
    assert "2 of 6 test rows are also few-shot rows: rows 5 (example 1), 6 (example 2)" in message
    assert gsm(data, few_shot=0).warnings == ()


def test_the_few_such_rows_of_a_published_set_are_told(data: Path) -> None:
    put(data, "gsm8k_test", [gsm8k(number) for number in range(10, 1010)])
    put(data, "gsm8k_train", [gsm8k(number) for number in range(10)] + [gsm8k(15)])
    assert gsm(data).warnings == (
        "gsm8k: 1 of 1000 test rows are also few-shot rows, as published: rows 6 (example 11)",
    )


def test_examples_asked_in_vain_are_told(tmp_path: Path) -> None:
    put(tmp_path, "wikitext2_raw_test", [{"page": "a b c"}])
    chosen = build_items(TASKS["wikitext2"], data=tmp_path, few_shot=3)
    assert chosen.few_shot == 0
    assert chosen.warnings == (
        "wikitext2: asked without few-shot examples, since a text is read from its beginning",
    )
    assert build_items(TASKS["wikitext2"], data=tmp_path, few_shot=0).warnings == ()


def test_a_task_whose_only_rows_are_asked_has_no_examples(tmp_path: Path) -> None:
    put(tmp_path, "lambada_openai_test", [{"text": "a b"}])
    assert len(build_items(TASKS["lambada"], data=tmp_path).items) == 1
    with pytest.raises(RecipeError, match="lambada has no rows but its test rows"):
        build_items(TASKS["lambada"], data=tmp_path, few_shot=1)


def test_validation_rows_in_place_of_test_rows_are_told(tmp_path: Path) -> None:
    row = {"id": "a", "question": "q", "choices": ["x", "y"], "answer": 0}
    put(tmp_path, "arc_challenge_validation", [row])
    chosen = build_items(TASKS["arc_challenge"], data=tmp_path)
    assert chosen.source == "arc_challenge_validation.jsonl"
    assert len(chosen.warnings) == 1
    assert "there is no arc_challenge_test; the validation rows are asked" in chosen.warnings[0]
    put(tmp_path, "arc_challenge_test", [row])
    assert build_items(TASKS["arc_challenge"], data=tmp_path).warnings == ()
