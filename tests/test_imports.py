"""Heavy libraries load late: `lamina --help` and `lamina check` must feel instant."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lamina

HEAVY = {"torch", "transformers", "peft", "accelerate", "numba", "numpy", "scipy", "pandas",
         "matplotlib", "safetensors", "tokenizers", "huggingface_hub", "datasets",
         "sklearn"}  # fmt: skip
CORE = sorted(
    f"lamina.core.{path.stem}"
    for path in (Path(lamina.__file__).parent / "core").glob("*.py")
    if path.stem != "__init__"
)


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after running some code."""
    names = "sorted({m.split('.')[0] for m in sys.modules})"
    told = f"{code}\nimport sys, json\nprint(json.dumps({names}))"
    run = subprocess.run(
        [sys.executable, "-c", told], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_the_core_was_found():
    assert len(CORE) == 11, CORE


LATE = [
    "lamina.data.recipe",
    "lamina.engine.recipe",
    "lamina.ila.recipe",
    "lamina.versatune.recipe",
    "lamina.jobs.tune",
    "lamina.jobs.detect",
    "lamina.jobs.order",
    "lamina.jobs.rank",
    "lamina.jobs.export",
    "lamina.jobs.compare",
    "lamina.merge.recipe",
    "lamina.evaluate.run",
    "lamina.cli.evaluating",
    "lamina.cli.sandboxing",
    "lamina.jobs.evaluate_request",
    "lamina.jobs.evaluate_find",
    "lamina.jobs.evaluate_harness",
    "lamina.jobs.evaluate_journal",
    "lamina.jobs.evaluate_model",
    "lamina.jobs.evaluate_parts",
    "lamina.evaluate.nouns",
    "lamina.evaluate.statistics",
    "lamina.evaluate.tasks",
    "lamina.evaluate.sandbox",
    "lamina.report.page",
    "lamina.weights.headers",
]


@pytest.mark.parametrize(
    "code",
    ["import lamina", *(f"import {name}" for name in [", ".join(CORE), *LATE])],
    ids=["lamina", "core", *LATE],
)
def test_import_loads_nothing_heavy(code):
    assert loaded_by(code) & HEAVY == set()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["eval", "--help"], 0),
        (["sandbox", "--help"], 0),
        (["eval"], 2),
        (["eval", "nowhere", "--tasks", "no_such_task"], 2),
        (["eval", "nowhere", "--tasks", "mmlu", "--limit", "0"], 2),
        (["eval", "nowhere", "--tasks", "humaneval"], 2),
        (["eval", "--compare", "nowhere.json", "no_other.json"], 2),
        (["sandbox", "nowhere.py"], 2),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else str(one),
)
def test_help_and_what_is_refused_by_its_arguments_load_neither_torch_nor_transformers(
    arguments, code
):
    run = f"""
import sys
from lamina.cli import main
sys.argv = ["lamina", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert (end.code or 0) == {code}, end.code
else:
    assert {code} == 0
"""
    heavy = {"torch", "transformers", "peft", "datasets", "accelerate", "sklearn", "scipy"}
    assert loaded_by(run) & heavy == set()


def test_import_lamina_loads_not_even_pydantic():
    assert loaded_by("import lamina") & {"pydantic", "yaml", "cyclopts", "rich"} == set()


def test_the_measure_sees_a_heavy_import():
    assert "numpy" in loaded_by("import lamina, numpy")
