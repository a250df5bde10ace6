"""Every message quoted in docs/errors.md is one that the code gives."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"


def texts_of_the_code() -> str:
    """All string constants of the package, one per line, `...` for what is filled in."""
    found = []
    for file in sorted((ROOT / "src" / "lamina").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(" ".join(text.split()) for text in found)


def quoted() -> list[str]:
    """The messages of the first column, as code spans; `...` cuts one into pieces."""
    column = re.findall(r"^\| (`.*?) \| ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    spans = [found for row in column for found in re.findall(r"``(.+?)``|`(.+?)`", row)]
    pieces = [piece for long, short in spans for piece in (long or short).split("...")]
    return [piece.strip() for piece in pieces if piece.strip()]


TUNING = ("data", "engine", "versatune", "jobs/tune.py", "jobs/claimed.py", "jobs/tuned.py",
          "jobs/detect.py", "jobs/order.py")  # fmt: skip
RANKING = (
    "core/agreement.py", "core/modules.py", "core/plan.py", "core/rules.py", "core/scores.py",
    "weights/linears.py", "ila", "jobs/rank.py", "jobs/rank_prepare.py", "jobs/rank_run.py",
    "jobs/rank_end.py", "jobs/rank_files.py", "jobs/plan.py", "jobs/plan_file.py",
    "jobs/planning.py", "jobs/compare.py", "jobs/export.py", "jobs/shift.py",
    "jobs/shift_prompts.py", "jobs/cut.py", "jobs/cut_config.py", "jobs/layerwise.py",
    "jobs/prefix.py", "jobs/scores_file.py", "jobs/given.py", "jobs/tune_run.py",
)  # fmt: skip
EVALUATION = (
    "evaluate/tasks", "evaluate/choose.py", "evaluate/encode.py", "evaluate/rolling.py",
    "evaluate/write.py", "evaluate/write_alone.py", "evaluate/write_batch.py",
    "evaluate/write_fit.py", "evaluate/write_pick.py", "evaluate/write_prompts.py",
    "evaluate/write_slots.py", "evaluate/shared_prefix.py", "evaluate/programs.py",
    "evaluate/portions.py", "evaluate/results.py", "evaluate/result_files.py",
    "evaluate/result_compare.py", "evaluate/plain.py", "evaluate/outputs.py",
    "evaluate/stems.py", "evaluate/stops.py", "evaluate/sandbox/bubblewrap.py",
    "evaluate/sandbox/check.py", "evaluate/sandbox/check_bundle.py",
    "evaluate/sandbox/check_names.py", "evaluate/sandbox/codec.py", "evaluate/sandbox/host.py",
    "evaluate/sandbox/remote.py", "evaluate/sandbox/remote_program.py",
    "evaluate/sandbox/remote_tests.py", "evaluate/sandbox/running.py", "jobs/evaluate.py",
    "jobs/evaluate_find.py", "jobs/evaluate_harness.py", "jobs/evaluate_journal.py",
    "jobs/evaluate_model.py", "jobs/evaluate_parts.py", "jobs/evaluate_request.py",
    "cli/evaluating.py", "cli/sandboxing.py",
)  # fmt: skip
INSIDE = ("Malformed", "Gone", "ProgramFailed", "NameError", "SystemExit")
"""What the sandbox's processes say to each other: a verdict's `detail`, never an error."""
OURS = ("AssertionError", "KeyboardInterrupt", "Unfit", "NotHere", "_NotAnAnswer", "_Interrupted",
        *INSIDE)  # fmt: skip
UNSEEN = (
    "have no token to learn from", "A batch has no token", "There is no held-out example",
    "has no trainable parameter", "trainable tensors are not float32",
)  # fmt: skip
"""Guards that the command line does not reach: what would lead there is refused before."""


def raised(path: Path) -> list[str]:
    """The texts of the errors that a file or folder raises, those that are written there.

    Also those of a measurement's arguments, which are first gathered in a list.
    """
    found = []
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else node
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func)
            gathered = name == "problems.append" and file.stem == "evaluate_request"
            if gathered or (isinstance(node, ast.Raise) and name not in OURS):
                parts = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant)]
                found.append(" ... ".join(str(part) for part in parts))
    return [" ".join(text.split()) for text in found]


@pytest.mark.parametrize(("files", "at_least"), [(TUNING, 150), (RANKING, 110), (EVALUATION, 70)])
def test_every_error_of_a_tuning_ranking_or_measurement_stands_on_the_page(
    files: tuple[str, ...], at_least: int
) -> None:
    home = ROOT / "src" / "lamina"
    assert [name for name in files if not (home / name).exists()] == []
    texts = [text for name in files for text in raised(home / name)]
    assert len(texts) > at_least
    # Short texts are joints of messages that are put together elsewhere.
    known = [*(piece for piece in quoted() if len(piece) > 8), *UNSEEN]
    told = [text for text in texts if len(text) > 40]
    assert [text for text in told if not any(piece in text for piece in known)] == []


def test_every_message_exists() -> None:
    code, messages = texts_of_the_code(), quoted()
    assert len(messages) > 60
    # Two come from the library that reads the command line.
    messages = [m for m in messages if m not in ("Unknown command", "Unknown option")]
    assert [message for message in messages if message not in code] == []
