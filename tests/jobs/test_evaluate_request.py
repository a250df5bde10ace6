"""What `lamina eval` refuses before it looks at a model."""

from dataclasses import replace
from pathlib import Path

import pytest

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.jobs.evaluate_request import AUTO_BATCH_TOKENS, Request, check_request

PLAIN = Request(models=("m",), tasks=("mmlu",), texts={})


def refused(**changes: object) -> str:
    with pytest.raises((RecipeError, OutputError, DataError)) as caught:
        check_request(replace(PLAIN, **changes))
    return str(caught.value)


def test_a_plain_request_is_taken() -> None:
    check_request(PLAIN)
    assert PLAIN.batch_tokens == AUTO_BATCH_TOKENS["cpu"]
    assert replace(PLAIN, batch="512").batch_tokens == 512


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ()}, "Nothing to measure"),
        ({"models": ()}, "No model is named"),
        ({"dtype": "fp32"}, "--dtype fp32 is unknown"),
        ({"batch": "big"}, "write auto, or the tokens"),
        ({"batch": "0"}, "write auto, or the tokens"),
        ({"task_files": (Path("r\udcff.jsonl"),)}, "'r\\udcff.jsonl' has bytes that are not UTF-8"),
        ({"limit": 0}, "--limit is 0; it must be at least 1"),
        ({"few_shot": -1}, "--few-shot is -1; it must be at least 0"),
        ({"samples": 4}, "would all be the same"),
        ({"seed": 2**63}, "must be below 2**63"),
        ({"out": Path("a.json"), "compare": (Path("x/../a.json"),)}, "would be overwritten"),
        ({"temperature": 0.0}, "must be at least 0.01"),
        ({"top_p": 1.5}, "at most 1"),
        ({"few_shot_file": Path("x.jsonl")}, "gives examples to --task-file"),
        ({"harness": ("copa",)}, "stands alone"),
        ({"compare": ()}, "--compare needs two models or an earlier result"),
        ({"tasks": (), "compare": (Path("a.json"),)}, "nothing to measure"),
        ({"data": Path("nowhere")}, "is no folder"),
    ],
)
def test_what_cannot_be_followed_is_told(changes: dict[str, object], words: str) -> None:
    assert words in refused(**changes)


def test_all_problems_come_in_one_message() -> None:
    told = refused(limit=0, batch="x", samples=3)
    assert "3 arguments cannot be followed" in told
    assert all(word in told for word in ("--limit", "--batch", "--samples"))


def test_an_output_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    assert "is not a result of lamina eval" in refused(out=notes)
    assert notes.read_text() == '{"mine": 1}'
    notes.write_text('{"schema": "lamina.evaluation/1"}')
    check_request(replace(PLAIN, out=notes))


@pytest.mark.parametrize("name", ["", "missing/eval.json", "eval.txt"])
def test_an_output_that_could_not_be_written_is_told_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"is a folder|no folder|must end in \.json"):
        check_request(replace(PLAIN, out=tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_results_alone_can_be_compared() -> None:
    check_request(Request(models=(), texts={}, compare=(Path("a.json"), Path("b.json"))))
