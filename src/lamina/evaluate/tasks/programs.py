"""HumanEval and MBPP: written programs, judged by running them (`lm_eval/tasks/humaneval`, `mbpp`).

Prompts, stop strings, lengths and MBPP's three examples are the harness's. Three things differ in
how a program is judged, all of them where the harness's one file gives a wrong answer or is easily
fooled:

* MBPP's `test_setup_code` runs before the tests, after the program. The harness leaves it out, so
  task 367, whose tests use a variable of it, can never pass there.
* Functions of HumanEval's prompt that its tests call (`poly` in HumanEval/32, `encode_cyclic` in
  38, `encode_shift` in 50) are part of the tests, so a program cannot pass by defining them anew.
* The tests do not share a process with the program (`lamina.evaluate.sandbox`).

A writing is what the model said up to the first stop string, nothing taken out of it.
"""

import ast
import builtins
from collections.abc import Iterable, Sequence

from lamina.evaluate.nouns import Item, Metric, Program, Raw, Row, Values, WriteItem
from lamina.evaluate.sandbox.check_names import free_names
from lamina.evaluate.statistics import pass_at_k
from lamina.evaluate.tasks.definition import Asked
from lamina.evaluate.tasks.fields import Unfit, text_of, texts_of

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
HUMANEVAL_MAX_TOKENS = 1024
MBPP_STOPS = ("[DONE]",)
MBPP_MAX_TOKENS = 256
"""The harness's default where a task names none."""
MBPP_SHOTS = (2, 3, 4)
"""Tasks of the `prompt` split that the harness's own list of examples is made of."""
MBPP_TESTS = 3
KS = (1, 10, 100)
PROGRAM_METRICS = (
    *(Metric(f"pass@{k}", higher_is_better=True) for k in KS),
    Metric("passed_suspicious", higher_is_better=False),
)


def read_humaneval(row: Row) -> Asked:
    prompt, entry = text_of(row, "prompt"), text_of(row, "entry_point")
    tests = f"{text_of(row, 'test')}\ncheck({entry})"
    helpers = _helpers(prompt, set(_free(tests, "test")) - {entry})
    answer = text_of(row, "canonical_solution")
    item = WriteItem(
        "",
        prompt,
        HUMANEVAL_STOPS,
        HUMANEVAL_MAX_TOKENS,
        answer,
        Program(before=prompt, tests=helpers + tests, entry=entry),
    )
    return Asked(prompt, answer, item)


def read_mbpp(row: Row) -> Asked:
    tests = texts_of(row, "test_list")
    if len(tests) < MBPP_TESTS:
        raise Unfit(f"`test_list` has {len(tests)} tests, the prompt shows {MBPP_TESTS}")
    shown = "\n".join(tests[:MBPP_TESTS])
    question = (
        f"You are an expert Python programmer, and here is your task: {text_of(row, 'text')} "
        f"Your code should pass these tests:\n\n{shown}\n[BEGIN]\n"
    )
    setup, code = text_of(row, "test_setup_code"), text_of(row, "code")
    run = f"{setup}\n{shown}" if setup else shown
    program = Program(before="", tests=run, entry=_entry(tests[:MBPP_TESTS]))
    item = WriteItem("", question, MBPP_STOPS, MBPP_MAX_TOKENS, code, program)
    return Asked(question, f"{code}\n[DONE]", item)


def asked_of_mbpp(row: Row) -> bool:
    """The test split: in one file with the others, a row names its own."""
    return row.get("split", "test") == "test"


def shown_of_mbpp(row: Row) -> bool:
    return row.get("task_id") in MBPP_SHOTS


def judge_programs(item: Item, raw: Raw) -> Values:
    """pass@k without bias from the verdicts; nothing is counted for a k above the samples.

    `passed_suspicious` is the part of the samples that passed and hold something that honest
    solutions do not (`Verdict.suspicious`); they are passes in pass@k, as in the harness.
    """
    assert isinstance(item, WriteItem), item
    verdicts: Sequence[dict[str, object]] = raw["verdicts"]
    samples, passed = len(verdicts), [verdict for verdict in verdicts if verdict["passed"]]
    values = {
        f"pass@{k}": (pass_at_k(samples, len(passed), k), 1.0) if k <= samples else (0.0, 0.0)
        for k in KS
    }
    suspicious = sum(bool(verdict["suspicious"]) for verdict in passed)
    return {**values, "passed_suspicious": (suspicious / samples, 1.0)}


def _free(tests: str, field: str) -> tuple[str, ...]:
    try:
        return free_names(tests)
    except (SyntaxError, ValueError) as error:
        raise Unfit(f"`{field}` is no Python: {error}") from None


def _helpers(prompt: str, names: set[str]) -> str:
    """What the prompt defines before the function asked for, if the tests use one of it."""
    if not names:
        return ""
    try:
        statements = ast.parse(prompt).body
    except (SyntaxError, ValueError):
        return ""
    return ast.unparse(ast.Module(statements[:-1], [])) + "\n\n"


def _entry(tests: Iterable[str]) -> str | None:
    """The one function that all tests call; a built-in's name only if there is no other."""
    called = [
        {
            node.func.id
            for node in ast.walk(_parsed(test))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        for test in tests
    ]
    common = set.intersection(*called)
    own = {name for name in common if name not in vars(builtins)} or common
    return own.pop() if len(own) == 1 else None


def _parsed(test: str) -> ast.AST:
    try:
        return ast.parse(test.strip())
    except (SyntaxError, ValueError) as error:
        raise Unfit(f"a test of `test_list` is no Python: {error}") from None
