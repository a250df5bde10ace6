"""Rows from files and from the hub, and each thing that can be wrong with them."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import DataError
from lamina.evaluate.nouns import ChoiceItem
from lamina.evaluate.tasks import TASKS, Chosen, build_items, check_files

Row = dict[str, Any]


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_packed_lines(path: Path, rows: Sequence[Row]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def write_list(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps(list(rows)), encoding="utf-8")


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def piqa(number: int) -> Row:
    return {"goal": f"goal {number}", "sol1": "one", "sol2": "two", "label": number % 2}


def golds(chosen: Chosen) -> list[tuple[int, ...]]:
    return [item.gold for item in chosen.items if isinstance(item, ChoiceItem)]


def mmlu(subject: str, number: int) -> Row:
    return {
        "subject": subject,
        "question": f"{subject} {number}?",
        "choices": ["1", "2", "3", "4"],
        "answer": number % 4,
    }


@pytest.mark.parametrize("folder", ["", "bench", "text"])
@pytest.mark.parametrize(
    ("ending", "write"),
    [
        (".jsonl.gz", write_packed_lines),
        (".jsonl", write_lines),
        (".json", write_list),
        (".parquet", write_parquet),
    ],
)
def test_a_file_is_found_in_each_folder_under_each_ending(
    folder: str, ending: str, write: Callable[[Path, Sequence[Row]], None], tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    write(tmp_path / folder / f"piqa_validation{ending}", [piqa(0), piqa(1)])
    chosen = build_items(TASKS["piqa"], data=tmp_path)
    assert golds(chosen) == [(0,), (1,)]
    assert chosen.source == f"{folder}/piqa_validation{ending}".lstrip("/")


LOCAL = {
    "arc_easy": {"id": "a", "question": "q", "choices": ["x", "y", "z"], "answer": 2},
    "openbookqa": {"id": "a", "question": "q", "choices": ["x", "y", "z"], "answer": 2},
    "boolq": {"passage": "p", "question": "q", "answer": True},
    "hellaswag": {
        "activity_label": "l",
        "ctx_a": "a",
        "ctx_b": "b",
        "endings": ["x", "y"],
        "label": 1,
    },
    "mmlu": {"subject": "s", "question": "q", "choices": list("wxyz"), "answer": 3},
}
HUB = {
    "arc_easy": {
        "id": "a",
        "question": "q",
        "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
    "openbookqa": {
        "id": "a",
        "question_stem": "q",
        "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]},
        "answerKey": " C",
    },
    "boolq": {"passage": "p", "question": "q", "label": 1, "idx": 3},
    "hellaswag": {**LOCAL["hellaswag"], "label": "1", "source_id": "activitynet"},
    "mmlu": {**LOCAL["mmlu"], "answer": "3"},
}
STEMS = {
    "arc_easy": "arc_easy_test",
    "openbookqa": "openbookqa_test",
    "boolq": "boolq_validation",
    "hellaswag": "hellaswag_validation",
    "mmlu": "mmlu_test",
}


@pytest.mark.parametrize("task", LOCAL)
def test_a_files_fields_and_the_hubs_fields_ask_the_same(task: str, tmp_path: Path) -> None:
    asked = []
    for row in (LOCAL[task], HUB[task]):
        write_lines(tmp_path / f"{STEMS[task]}.jsonl", [row])
        asked.append(build_items(TASKS[task], data=tmp_path))
    assert asked[0] == asked[1]


def test_without_a_folder_the_hub_is_asked_by_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls = []

    def load_dataset(name: str, configuration: str | None, *, split: str) -> Any:
        calls.append((name, configuration, split))
        first = 100 if split == "train" else 0
        return datasets.Dataset.from_list([piqa(first + number) for number in range(6)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    chosen = build_items(TASKS["piqa"], data=None, limit=2, few_shot=1)
    assert calls == [("baber/piqa", None, "validation"), ("baber/piqa", None, "train")]
    assert golds(chosen) == [(0,), (1,)]
    assert chosen.source == "baber/piqa, validation, baber/piqa, train"


def test_the_hub_has_the_split_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    row = {"question": "2?", "answer": "#### 2"}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: datasets.Dataset.from_list([row])
    )
    chosen = build_items(TASKS["gsm8k"], data=None, few_shot=0)
    assert chosen.source == "openai/gsm8k, main, test"
    assert chosen.warnings == ()


def test_a_hub_that_cannot_be_reached_says_which_file_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no way to the hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        build_items(TASKS["gsm8k"], data=None)
    assert str(caught.value) == (
        "openai/gsm8k, main, test could not be loaded from the hub: no way to the hub. Connect to "
        "the network, or give --data with a folder that has gsm8k_test.jsonl."
    )


def test_all_missing_files_of_all_tasks_are_told_at_once(tmp_path: Path) -> None:
    write_lines(tmp_path / "piqa_validation.jsonl", [piqa(0)])
    with pytest.raises(DataError) as caught:
        check_files([TASKS["gsm8k"], TASKS["piqa"], TASKS["winogrande"]], data=tmp_path)
    message = str(caught.value)
    assert "3 files are missing" in message
    assert "gsm8k_test  (on the hub: openai/gsm8k, main, test)" in message
    assert "gsm8k_train" in message
    assert "winogrande_xl_validation or winogrande_validation" in message
    assert "piqa" not in message
    with pytest.raises(DataError, match="1 file is missing"):
        build_items(TASKS["piqa"], data=tmp_path, few_shot=2)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match="is a file, not a folder"):
        build_items(TASKS["piqa"], data=file)
    with pytest.raises(DataError, match="is not there"):
        build_items(TASKS["piqa"], data=tmp_path / "none")


def refused(task: str, stem: str, rows: Sequence[Any], folder: Path) -> str:
    write_lines(folder / f"{stem}.jsonl", rows)
    with pytest.raises(DataError) as caught:
        build_items(TASKS[task], data=folder)
    return str(caught.value)


def test_rows_with_other_fields_are_told_by_line_with_the_fields_seen(tmp_path: Path) -> None:
    rows = [piqa(0), {"question": "q", "answer": "a"}, piqa(1), [1], {**piqa(2), "sol2": None}]
    message = refused("piqa", "piqa_validation", rows, tmp_path)
    assert "3 rows of 5 are not a row of piqa" in message
    assert "piqa_validation.jsonl:2: no field `sol1`; seen: question, answer" in message
    assert "piqa_validation.jsonl:4: a JSON object is needed, this is a list" in message
    assert "piqa_validation.jsonl:5: `sol2` must be a text, this is null" in message


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "piqa_validation.jsonl").write_text(content)
    with pytest.raises(DataError, match=r"piqa_validation\.jsonl is empty"):
        build_items(TASKS["piqa"], data=tmp_path)


def test_a_broken_line_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "piqa_validation.jsonl"
    write_lines(path, [piqa(0), piqa(1)])
    path.write_text(path.read_text() + '{"goal": \n')
    with pytest.raises(DataError, match="line 3"):
        build_items(TASKS["piqa"], data=tmp_path)


def test_all_answers_that_are_no_choice_are_told_in_one_message(tmp_path: Path) -> None:
    rows = [{**piqa(0), "label": label} for label in (0, 2, -1, 1, "7")]
    message = refused("piqa", "piqa_validation", rows, tmp_path)
    assert "3 rows of 5 are without a right answer among the choices" in message
    assert "piqa_validation.jsonl:2: `label` is 2, but the choices are 0 to 1" in message
    assert "piqa_validation.jsonl:5: `label` is 7" in message


@pytest.mark.parametrize("label", [True, "", None, 0.0, "x", "²"])
def test_an_answer_that_is_no_index_is_told(label: Any, tmp_path: Path) -> None:
    message = refused("piqa", "piqa_validation", [{**piqa(0), "label": label}], tmp_path)
    assert "`label` must be a number from 0 to 1" in message


def test_a_key_that_is_none_of_the_labels_is_told(tmp_path: Path) -> None:
    row = {**HUB["arc_easy"], "answerKey": "E"}
    message = refused("arc_easy", "arc_easy_test", [row], tmp_path)
    assert "`answerKey` is 'E', but the choices are 1, 2, 3" in message


def test_two_rows_with_one_id_are_told(tmp_path: Path) -> None:
    row = LOCAL["arc_easy"]
    message = refused("arc_easy", "arc_easy_test", [row, {**row, "id": "b"}, row], tmp_path)
    assert "1 row of 3 is of an id that another row has" in message
    assert "rows 1 and 3: a" in message


def test_ids_are_the_sets_own_or_numbers_in_the_subject(tmp_path: Path) -> None:
    write_lines(tmp_path / "piqa_validation.jsonl", [piqa(0), piqa(1)])
    rows = [mmlu("law", 0), mmlu("law", 1), mmlu("art", 2), mmlu("law", 3)]
    write_lines(tmp_path / "mmlu_test.jsonl", rows)
    write_lines(tmp_path / "arc_easy_test.jsonl", [LOCAL["arc_easy"]])
    ids = {
        task: [item.id for item in build_items(TASKS[task], data=tmp_path).items]
        for task in ("piqa", "mmlu", "arc_easy")
    }
    assert ids == {
        "piqa": ["0", "1"],
        "mmlu": ["law/0", "law/1", "art/0", "law/2"],
        "arc_easy": ["a"],
    }


def test_half_a_character_is_told(tmp_path: Path) -> None:
    path = tmp_path / "piqa_validation.jsonl"
    path.write_text('{"goal": "a\\ud83d", "sol1": "x", "sol2": "y", "label": 0}\n')
    with pytest.raises(DataError, match="`goal` has half a character"):
        build_items(TASKS["piqa"], data=tmp_path)


@pytest.mark.parametrize(
    ("task", "stem", "change", "told"),
    [
        ("mmlu", "mmlu_test", {"choices": list("abc")}, "must have 4 texts, this has 3"),
        ("mmlu", "mmlu_test", {"choices": "abcd"}, "must be a list of texts, this is a text"),
        ("mmlu", "mmlu_test", {"choices": []}, "is an empty list"),
        ("mmlu", "mmlu_test", {"choices": ["a", "b", "c", 4]}, "must be a text, this is a number"),
        ("winogrande", "winogrande_xl_validation", {"sentence": "none"}, "no `_` to be filled"),
        ("winogrande", "winogrande_xl_validation", {"answer": "0"}, "the choices are 1 to 2"),
        (
            "truthfulqa",
            "truthfulqa_mc",
            {"mc2_targets": {"choices": ["a", "b"], "labels": [1]}},
            "one label for each of its 2 choices",
        ),
        (
            "truthfulqa",
            "truthfulqa_mc",
            {"mc2_targets": {"choices": ["a"], "labels": [2]}},
            "neither 0 nor 1",
        ),
        (
            "truthfulqa",
            "truthfulqa_mc",
            {"mc2_targets": {"choices": ["a"], "labels": [0]}},
            "no choice that is right",
        ),
        ("arc_easy", "arc_easy_test", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "2 texts"),
    ],
)
def test_what_is_wrong_with_a_row_is_told(
    task: str, stem: str, change: Row, told: str, tmp_path: Path
) -> None:
    rows = {
        "mmlu": mmlu("law", 0),
        "winogrande": {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "1"},
        "truthfulqa": {
            "question": "q",
            "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["a", "b"], "labels": [1, 0]},
        },
        "arc_easy": LOCAL["arc_easy"],
    }
    write_lines(tmp_path / f"{stem}.jsonl", [rows[task]])
    assert len(build_items(TASKS[task], data=tmp_path).items) == 1
    assert told in refused(task, stem, [{**rows[task], **change}], tmp_path)
