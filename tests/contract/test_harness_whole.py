"""`lamina eval` against lm-evaluation-harness 0.4.13, both as a whole, item by item.

A few rows of every kind of task go through both, as text, with examples and through a chat
template, on the demo's chat model. It is done by `bench/eval_contract.py`, which does the same on
the published rows. Then that comparison is shown answers that are not the same, and must say so.
"""

import argparse
import json
import math
import sys
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lm_eval")
sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))

import eval_contract
from contract_harness import Answer

DEMO = Path(str(resources.files("lamina"))) / "demo" / "models" / "instruct"
Row = dict[str, Any]


def arc(number: int) -> Row:
    return {
        "id": f"arc-{number}",
        "question": f"What has {number} legs and a red house?",
        "choices": ["a dog", f"the number {number}", " a table ", "nothing"],
        "answer": number % 4,
    }


def mmlu(subject: str, number: int) -> Row:
    return {
        "subject": subject,
        "question": f"Which letter is number {number}?",
        "choices": [f"the {number}th", "none", "B", "the sun"],
        "answer": (number + len(subject)) % 4,
    }


def gsm8k(number: int) -> Row:
    return {
        "question": f"Tom has {number} apples and buys {number + 2} more. How many has he?",
        "answer": f"He has {number}+{number + 2}={2 * number + 2}.\n#### {2 * number + 2}",
    }


SAYS_NOTHING = (
    "def add(a, b):\n    return a + b\n# tom and mia went to the river. mia said: thank you."
)
"""After these words the model ends its answer, so that the program is this one, and runs."""
WRITES = 'def add(a, b):\n    """The sum of a and b, and 2."""\n'
SUBJECTS = ("anatomy", "astronomy")
ROWS: dict[str, list[Row]] = {
    "arc_easy_test": [arc(number) for number in range(4)],
    "arc_easy_train": [arc(number) for number in range(10, 14)],
    "mmlu_test": [mmlu(subject, number) for subject in SUBJECTS for number in range(3)],
    "mmlu_dev": [mmlu(subject, number) for subject in SUBJECTS for number in range(10, 15)],
    "gsm8k_test": [gsm8k(number) for number in range(2, 5)],
    "gsm8k_train": [gsm8k(number) for number in range(12, 18)],
    "wikitext2_raw_test": [
        {"page": ' = The lamp = \n \n It burns at 20 @.@ 5 ° , " they " said . \n' * many}
        for many in (1, 40)
    ],
    "lambada_openai_test": [
        {"text": "The lamp was lit, and the dog went to the lamp"},
        {"text": "One, two, three, four, five"},
    ],
    "truthfulqa_mc": [
        {
            "question": f"Do {number} cats fly?",
            "mc1_targets": {"choices": ["No.", "Yes.", "At night."], "labels": [1, 0, 0]},
            "mc2_targets": {"choices": ["No.", "Never.", "Yes."], "labels": [1, 1, 0]},
        }
        for number in (1, 2)
    ],
    "winogrande_xl_validation": [
        {
            "sentence": "Ann met Bea as _ was late",
            "option1": "Ann",
            "option2": "Bea",
            "answer": answer,
        }
        for answer in "12"
    ],
    "humaneval": [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": prompt,
            "canonical_solution": f"    return a + b + {number}\n",
            "test": f"def check(candidate):\n    assert candidate(1, 2) == {3 + number}\n",
            "entry_point": "add",
        }
        for number, prompt in enumerate((SAYS_NOTHING, SAYS_NOTHING, WRITES))
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def network() -> Any:
    return eval_contract.load(str(DEMO), 1)


def asked(data: Path, *, few_shot: int | None = None, chat: bool = False) -> argparse.Namespace:
    return argparse.Namespace(data=data, limit=None, limits={}, few_shot=few_shot, chat=chat)


CASES = [
    ("wikitext2", 2, None, False),
    ("gsm8k", 3, None, False),
    ("gsm8k", 3, 2, True),
    ("humaneval", 3, None, False),
    ("mmlu", 6, 5, False),
    ("arc_easy", 4, None, False),
    ("arc_easy", 4, 2, True),
    ("winogrande", 2, None, False),
    ("truthfulqa", 2, None, False),
    ("lambada", 2, None, False),
]


@pytest.mark.parametrize(("task", "items", "few_shot", "chat"), CASES)
def test_every_item_is_as_the_harness_has_it(
    task: str, items: int, few_shot: int | None, chat: bool, data: Path, network: Any
) -> None:
    told = eval_contract.one_task(
        str(DEMO), task, network, asked(data, few_shot=few_shot, chat=chat)
    )
    assert told.skipped is None
    assert told.items == items
    assert told.differ == []
    assert told.ties == []
    if task == "lambada":  # two words: their last bits do not make up for each other
        assert told.relative == pytest.approx(0, abs=1e-5)
    else:
        assert told.held
    for name, (value, error) in told.theirs.items():
        assert told.ours[name][0] == pytest.approx(value, rel=1e-5)
        if task not in ("mmlu", "wikitext2", "lambada"):  # others than by the formula, or none
            assert told.ours[name][1] == pytest.approx(error, rel=1e-4, abs=1e-9)


def test_programs_pass_and_fail_on_both_sides(
    data: Path, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    compare = eval_contract.compare
    monkeypatch.setattr(
        eval_contract, "compare", lambda *given: (seen.append(given[1:3]), compare(*given))
    )
    told = eval_contract.one_task(str(DEMO), "humaneval", network, asked(data))
    ((lines, answers),) = seen
    assert [line["values"]["pass@1"] for line in lines] == [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    assert [answer.values["pass@1"] for answer in answers] == [1.0, 0.0, 0.0]
    assert [answer.text == "" for answer in answers] == [True, True, False]
    assert told.ours["pass@1"] == pytest.approx(told.theirs["pass@1"]) == (1 / 3, 1 / 3)


# The comparison itself: answers that are not the same are told.

PAIRS = (("q", " x"), ("q", " yes"))
LINE = {
    "id": "a",
    "pairs": [list(pair) for pair in PAIRS],
    "raw": {"logprobs": [-1.0, -2.0]},
    "values": {"acc": [1.0, 1.0]},
}
WRITTEN = {"id": "a", "prompt": "q", "raw": {"texts": ["a 1"]}, "values": {"exact": [0.0, 1.0]}}
PAGE = {
    "id": "a",
    "prompt": None,
    "text": "t",
    "raw": {"loss": 1e4},
    "values": {"bits_per_byte": [1e4, 9.0]},
}


def answer(*, pairs: Any = PAIRS, logprobs: Any = (-1.0, -2.0), acc: float = 1.0) -> Answer:
    return Answer((tuple(pairs),), (tuple(logprobs),), None, {"acc": acc})


def written(text: str, exact: float = 0.0) -> Answer:
    return Answer(((("q", ""),),), ((),), text, {"exact": exact})


def page(logprob: float) -> Answer:
    return Answer(((("t", ""),),), ((logprob,),), None, {"bits_per_byte": logprob})


def compared(line: Any, theirs: Answer, network: Any = None) -> eval_contract.Compared:
    told = eval_contract.Compared("model", "task")
    eval_contract.compare(told, [line], [theirs], network)
    assert told.items == 1
    return told


@pytest.mark.parametrize(
    ("line", "theirs"),
    [
        (LINE, answer(logprobs=(-1.0005, -2.0))),
        (WRITTEN, written("a 1")),
        (PAGE, page(-1e4 - 1e-3)),
    ],
)
def test_the_same_answers_are_the_same(line: Any, theirs: Answer) -> None:
    told = compared(line, theirs)
    assert told.held
    assert told.ties == []


@pytest.mark.parametrize(
    ("line", "theirs", "why"),
    [
        (LINE, answer(pairs=(("q", " x"), ("q", " no"))), "a: asked in other words"),
        (LINE, answer(logprobs=(-1.01, -2.0)), "a: log-likelihoods 1.0e-02 apart"),
        (LINE, answer(logprobs=(math.nan, -2.0)), "a: log-likelihoods nan apart"),
        (LINE, answer(acc=0.0), "a: acc 1 here, 0 in the harness"),
        (WRITTEN, written("a 1", exact=1.0), "a: exact 0 here, 1 in the harness"),
        (PAGE, page(-1e4 - 2e-2), "a: log-likelihoods 2.0e-06 apart"),
    ],
)
def test_an_answer_that_is_not_the_same_is_told(line: Any, theirs: Answer, why: str) -> None:
    told = compared(line, theirs)
    assert told.differ == [why]
    assert told.ties == []
    assert not told.held


def test_items_that_are_missing_are_told() -> None:
    told = eval_contract.Compared("model", "task")
    eval_contract.compare(told, [LINE, LINE], [answer()], None)
    assert told.differ == ["2 items here, 1 in the harness"]


@pytest.mark.parametrize(("apart", "tie"), [(2e-5, True), (3e-4, False)])
def test_another_choice_is_a_tie_only_where_rounding_decides(apart: float, tie: bool) -> None:
    line = {**LINE, "raw": {"logprobs": [-1.0, -1.0 - apart]}}
    told = compared(line, answer(logprobs=(-1.0 - apart, -1.0), acc=0.0))
    wanted = ["a: another choice, acc 1 here, 0 in the harness"]
    assert (told.ties, told.differ) == ((wanted, []) if tie else ([], wanted))


@pytest.mark.parametrize(("apart", "tie"), [(2e-5, True), (3e-4, False)])
def test_another_text_is_a_tie_only_where_rounding_decides(apart: float, tie: bool) -> None:
    import torch

    def model(tokens: torch.Tensor) -> SimpleNamespace:
        logits = torch.zeros(1, tokens.shape[1], 128)
        if tokens[0].tolist() == list(b"qa "):
            logits[0, -1, ord("1")] = apart
        return SimpleNamespace(logits=logits)

    network = SimpleNamespace(
        tok_encode=lambda text: list(text.encode()), eot_token_id=0, max_length=99, model=model
    )
    told = compared(WRITTEN, written("a 2"), network)
    wanted = [f"a: another text (tokens {apart:.1e} nats apart)"]
    assert (told.ties, told.differ) == ((wanted, []) if tie else ([], wanted))


def test_a_perplexity_may_differ_by_a_millionth() -> None:
    for ratio, held in ((1 + 5e-7, True), (1 + 2e-6, False)):
        told = eval_contract.Compared("model", "task")
        told.ours, told.theirs = {"perplexity": (20.0, 1.0)}, {"perplexity": (20.0 * ratio, None)}
        assert told.held is held
