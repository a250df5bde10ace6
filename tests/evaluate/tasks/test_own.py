"""A user's own rows: what may be in a file, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import DataError, RecipeError
from lamina.evaluate.nouns import ChoiceItem, Pair, TextItem, WriteItem
from lamina.evaluate.tasks import Chosen, read_task_file
from lamina.evaluate.tasks.own import STOPS, judge_words, words

Row = dict[str, Any]


def put(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def choice(answer: Any, *choices: str) -> Row:
    return {
        "question": "Which?",
        "choices": list(choices or ("red", "blue", "7")),
        "answer": answer,
    }


def qa(number: int) -> Row:
    return {"question": f"What is {number}?", "answer": number}


def golds(chosen: Chosen) -> list[int]:
    return [item.gold[0] for item in chosen.items if isinstance(item, ChoiceItem)]


def test_an_answer_is_an_index_a_letter_or_the_choice(tmp_path: Path) -> None:
    answers = (0, 1, "1", "A", "c", " b ", "blue", "7")
    chosen = read_task_file(put(tmp_path / "mine.jsonl", *map(choice, answers)))
    assert golds(chosen) == [0, 1, 1, 0, 2, 1, 1, 2]
    assert chosen.task.name == "mine"
    assert chosen.task.kind == "choices"
    assert chosen.task.chance == pytest.approx(1 / 3)
    assert [metric.name for metric in chosen.task.metrics] == ["acc", "acc_norm"]
    assert chosen.few_shot == 0
    item = chosen.items[0]
    assert isinstance(item, ChoiceItem)
    assert item.pairs[1] == Pair("Question: Which?\nAnswer:", " blue")
    assert item.lengths == (3, 4, 1)


def test_chance_is_not_told_where_the_numbers_of_choices_differ(tmp_path: Path) -> None:
    rows = (choice(0, "a", "b"), choice(0, "a", "b", "c"))
    assert read_task_file(put(tmp_path / "x.jsonl", *rows)).task.chance is None


def test_all_answers_that_are_no_choice_are_told(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", choice(0), choice(3), choice("green"), choice("D"), choice(-1))
    with pytest.raises(DataError) as caught:
        read_task_file(path)
    message = str(caught.value)
    assert "4 rows of 5 are without a right answer" in message
    assert "x.jsonl:2: `answer` is 3, but the choices are 0 to 2" in message
    assert "x.jsonl:3: `answer` is 'green': no text of a choice, and no letter" in message


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (choice("a", "a", "a"), "is the text of 2 choices; give its index"),
        (choice(0, "a"), "needs two texts at least"),
        (choice(0, "a", " "), "has an empty text"),
        (choice(True), "must be a number from 0 to 2"),
        ({"question": "q", "choices": ["a", "b"]}, "no field `answer`"),
    ],
)
def test_what_is_wrong_with_a_choice_is_told(row: Row, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_task_file(put(tmp_path / "x.jsonl", row))
    assert told in str(caught.value)


def test_questions_and_prompts_are_answered_in_writing(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", qa(3), {"prompt": "Say: ", "answer": "Hi", "id": "hi"})
    chosen = read_task_file(path)
    assert chosen.items == (
        WriteItem("0", "Question: What is 3?\nAnswer:", STOPS, 256, "3"),
        WriteItem("hi", "Say: ", STOPS, 256, "Hi"),
    )
    assert [metric.name for metric in chosen.task.metrics] == ["exact_match", "contains"]
    (first, _) = read_task_file(path, chat=lambda messages: messages[-1]["content"]).items
    assert isinstance(first, WriteItem)
    assert first.stops == (), "a model with a template ends its turn itself"


def test_an_answer_without_a_word_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", {"question": "q", "answer": "..."})
    with pytest.raises(DataError, match="no letter and no digit to be compared"):
        read_task_file(path)


def test_texts_are_scored_as_they_are(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", {"text": "3 @.@ 5", "subject": "law"})
    chosen = read_task_file(path, few_shot=2)
    (item,) = chosen.items
    assert isinstance(item, TextItem)
    assert (item.document.text, item.document.measured) == ("3 @.@ 5", "3 @.@ 5")
    assert item.group == "law"
    assert chosen.warnings == ("x.jsonl: texts are read without few-shot examples",)
    with pytest.raises(DataError, match="`text` is empty"):
        read_task_file(put(tmp_path / "y.jsonl", {"text": " "}))


def test_a_file_has_rows_of_one_form(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", qa(1), choice(0), {"text": "t"}, {"other": 1})
    with pytest.raises(DataError) as caught:
        read_task_file(path)
    message = str(caught.value)
    assert "3 rows of 4 are not a row that can be asked" in message
    assert "x.jsonl:2: this is a row of the form `choices`, the first one of the form" in message
    assert "x.jsonl:4: no field `answer`; seen: other" in message


@pytest.mark.parametrize("row", [{"other": 1}, [1], "text", {}])
def test_rows_of_no_form_are_told_with_the_forms(row: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_task_file(put(tmp_path / "x.jsonl", row))
    assert "x.jsonl:1 is no row that can be asked" in str(caught.value)
    assert "multiple choice; answer: index from 0, letter, or the choice" in str(caught.value)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_task_file(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_task_file(tmp_path)


def test_examples_come_from_another_file_at_random(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", *map(qa, range(4)))
    shots = put(tmp_path / "shots.jsonl", *map(qa, range(10, 18)))
    chosen = read_task_file(path, few_shot_file=shots, few_shot=2)
    assert chosen.few_shot == 2
    assert chosen.source == "x.jsonl, shots.jsonl"
    prompts = [item.prompt for item in chosen.items if isinstance(item, WriteItem)]
    assert all(prompt.count("Question: ") == 3 for prompt in prompts)
    assert len({prompt.rpartition("Question")[0] for prompt in prompts}) > 1
    assert read_task_file(path, few_shot_file=shots).few_shot == 5
    assert read_task_file(path, few_shot_file=shots, few_shot=0).few_shot == 0
    limited = read_task_file(path, few_shot_file=shots, few_shot=2, limit=2)
    assert limited.items == chosen.items[:2]
    other = read_task_file(path, few_shot_file=shots, few_shot=2, seed=5)
    assert other.fingerprint != chosen.fingerprint


def test_examples_without_a_file_of_them_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", qa(1))
    with pytest.raises(RecipeError, match="Name it with --few-shot-file"):
        read_task_file(path, few_shot=2)


def test_an_example_that_is_also_asked_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", *map(qa, range(300)))
    shots = put(tmp_path / "shots.jsonl", *map(qa, range(299, 306)))
    with pytest.raises(DataError, match=r"x\.jsonl: 1 of 300 test rows are also few-shot rows"):
        read_task_file(path, few_shot_file=shots)


def test_a_limit_and_examples_take_no_heed_of_groups(tmp_path: Path) -> None:
    rows = [{**qa(number), "group": f"g{number % 2}"} for number in range(6)]
    path = put(tmp_path / "x.jsonl", *rows)
    shots = put(tmp_path / "shots.jsonl", *map(qa, range(10, 13)))
    chosen = read_task_file(path, few_shot_file=shots, limit=3)
    assert [(item.id, item.group) for item in chosen.items] == [
        ("0", "g0"),
        ("1", "g1"),
        ("2", "g0"),
    ]


def judged(answer: str, writing: str) -> tuple[float, float]:
    values = judge_words(WriteItem("", "", (), 9, answer), {"texts": [writing]})
    assert {count for _, count in values.values()} == {1.0}
    return values["exact_match"][0], values["contains"][0]


@pytest.mark.parametrize(
    ("answer", "writing", "exact", "inside"),
    [
        ("Paris", ' "paris." ', 1, 1),
        ("Paris", "It is Paris, France.", 0, 1),
        ("Paris", "Parisian", 0, 0),
        ("New York", "new\nYORK", 1, 1),
        ("New York", "York New", 0, 0),
        ("1,000", "$1000", 1, 1),
        ("5", "-5", 0, 0),
        ("-5", "It is -$5.", 0, 1),
        ("3.5", "3.5.", 1, 1),
        ("3.5", "35", 0, 0),
        ("1,2", "12", 0, 0),
        ("STRASSE", "straße", 1, 1),
        ("x", "", 0, 0),
    ],
)
def test_words_are_compared(answer: str, writing: str, exact: int, inside: int) -> None:
    assert judged(answer, writing) == (exact, inside)


@given(st.text(), st.text(), st.text())
def test_a_writing_with_the_answer_between_blanks_contains_it(
    before: str, answer: str, after: str
) -> None:
    if words(answer):
        assert judged(answer, answer) == (1.0, 1.0)
        assert judged(answer, f"{before} {answer} {after}")[1] == 1.0
