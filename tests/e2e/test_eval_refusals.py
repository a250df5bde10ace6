"""What `lamina eval` cannot use is one clear error, exit code 2, and nothing is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_kit as kit
import pytest

Lamina = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return kit.write_data(tmp_path / "data")


@pytest.fixture
def refused(lamina: Lamina, tmp_path: Path) -> Callable[..., str]:
    """The message of a refused command; no file is new, none is changed."""

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    def run(*arguments: object) -> str:
        before = files()
        told = lamina("eval", *arguments, "--out", tmp_path / "out.json")
        assert told.code == 2, told
        assert told.err.count("error: ") == 1, told.err
        assert "Traceback" not in told.err
        assert files() == before
        return told.err[told.err.index("error: ") :]

    return run


def test_unknown_tasks_are_told_together_with_the_nearest_names(
    refused: Callable[..., str],
) -> None:
    told = refused(kit.BASE, "--tasks", "gsm8,helaswag,mmlu")
    assert "gsm8k" in told
    assert "hellaswag" in told


def test_files_that_are_missing_are_told_together(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    told = refused(kit.BASE, "--tasks", "mmlu,piqa", "--data", tmp_path / "empty")
    assert "mmlu_test" in told
    assert "piqa" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ("empty",)),
        ('{"question": "a", "choices": ["b"], "answer": 0}\n{"question": \n', ("line 2",)),
        ('{"frage": "a", "antwort": 0}\n', ("frage",)),
        ('{"question": "a", "choices": ["b", "c"], "answer": 2}\n' * 2, ("2", "answer")),
    ],
    ids=["empty", "broken line", "other fields", "index out of range"],
)
def test_rows_that_cannot_be_used(
    refused: Callable[..., str], tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    for kind in ("own", "data"):
        folder = tmp_path / kind
        folder.mkdir()
        file = folder / "arc_easy_test.jsonl"
        file.write_text(content)
        told = refused(
            kit.BASE,
            *(
                ("--task-file", file)
                if kind == "own"
                else ("--tasks", "arc_easy", "--data", folder)
            ),
        )
        assert str(file.name) in told
        for word in words:
            assert word in told, (word, told)


def test_few_shot_rows_that_are_test_rows(refused: Callable[..., str], data: Path) -> None:
    shutil.copy(data / "gsm8k_test.jsonl", data / "gsm8k_train.jsonl")
    told = refused(kit.BASE, "--tasks", "gsm8k", "--few-shot", 1, "--data", data)
    assert "also few-shot rows" in told


def test_contexts_longer_than_the_model_reads(refused: Callable[..., str], data: Path) -> None:
    long = {**kit.ARC[0], "question": "word " * 3000}
    kit.write_rows(data / "bench" / "arc_easy_test.jsonl.gz", [*kit.ARC[1:3], long])
    told = refused(kit.BASE, "--tasks", "arc_easy", "--data", data)
    assert "1 of 3 items" in told
    assert "tokens from their beginning" in told
    assert "--cut" in told


def test_a_model_without_a_tokenizer(
    refused: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(kit.INSTRUCT, bare)
    for path in bare.glob("*token*"):
        path.unlink()
    told = refused(bare, "--tasks", "arc_easy", "--data", data)
    assert "tokenizer" in told


def test_an_adapter_without_its_base(
    refused: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(kit.DEMO / "code", lost)
    config = json.loads((lost / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "nowhere/at-all"
    (lost / "adapter_config.json").write_text(json.dumps(config))
    told = refused(lost, "--tasks", "arc_easy", "--data", data)
    assert "nowhere/at-all" in told
    assert "--base" in told or "base" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"schema": "lamina.evaluation/9"}, "another version"),
        ({"schema": "lamina.metrics/1"}, "losses on texts alone"),
        ({"a": 1}, "no result of lamina eval"),
    ],
)
def test_a_result_file_of_another_version(
    refused: Callable[..., str], data: Path, tmp_path: Path, content: object, words: str
) -> None:
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content))
    told = refused(kit.BASE, "--tasks", "arc_easy", "--data", data, "--compare", old)
    assert words in told


def test_unknown_harness_tasks(refused: Callable[..., str]) -> None:
    pytest.importorskip("lm_eval")
    assert "No such task file" in refused(kit.BASE, "--harness", "missing.yaml")


def test_nothing_to_do(lamina: Lamina) -> None:
    told = lamina("eval", kit.BASE)
    assert told.code == 2
    assert "Nothing to measure" in told.err


@pytest.mark.parametrize("name", ["out.html", "out.samples.jsonl.gz"])
def test_a_page_or_answers_of_something_else(
    refused: Callable[..., str], data: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    assert "would be replaced" in refused(kit.BASE, "--tasks", "arc_easy", "--data", data)


def test_a_place_where_nothing_can_be_written(
    refused: Callable[..., str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.jobs.evaluate_request.os.access", lambda *_: False)
    assert "no right to write" in refused(kit.BASE, "--tasks", "arc_easy", "--data", data)


@pytest.mark.parametrize("answer", ["NaN", "1e400", "0.5"])
def test_an_answer_that_is_no_index(
    refused: Callable[..., str], tmp_path: Path, answer: str
) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(f'{{"question": "a", "choices": ["b", "c"], "answer": {answer}}}\n')
    told = refused(kit.BASE, "--task-file", file)
    assert f"must be a number from 0 to 1, not {float(answer):g}" in told


def test_numbers_that_cannot_be(refused: Callable[..., str]) -> None:
    told = refused(kit.BASE, "--tasks", "arc_easy", "--temperature", "200", "--limit", "0")
    assert "must be at least 0.01 and below 100" in told
    assert "--limit is 0" in told
    assert "--temperature is 1e-300" in refused(
        kit.BASE, "--tasks", "arc_easy", "--temperature", "1e-300"
    )


def test_a_harness_task_that_breaks(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    file = tmp_path / "bad.yaml"
    file.write_text("a: [")
    assert "stopped at ParserError" in refused(kit.BASE, "--harness", file)


@pytest.mark.parametrize(
    ("limit", "value"), [("--seconds", "inf"), ("--memory", 10**20), ("--cpu-seconds", 10**22)]
)
def test_limits_of_a_sandbox_larger_than_any_machine(
    lamina: Lamina, tmp_path: Path, limit: str, value: object
) -> None:
    program = tmp_path / "program.py"
    program.write_text("")
    told = lamina("sandbox", program, limit, value)
    assert told.code == 2
    assert f"larger than any machine: {limit} {float(value):g}" in told.err  # type: ignore[arg-type]


def test_the_reference_by_the_name_in_the_tables(
    lamina: Lamina, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    told = lamina(
        "eval", kit.BASE, kit.INSTRUCT, "--tasks", "arc_easy", "--data", data, "--limit", 1,
        "--reference", "instruct", "--out", out,
    )  # fmt: skip
    assert told.code == 0, told
    assert json.loads(out.read_text())["settings"]["reference"] == "instruct"
