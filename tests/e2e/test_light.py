"""`lamina --help` and `lamina check` import nothing heavy; merging needs no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_family as tf

HEAVY = ("numpy", "numba", "llvmlite", "torch", "transformers", "peft", "safetensors", "matplotlib")

PROGRAM = """
import json, sys
from lamina.cli import main
try:
    main(sys.argv[2:])
except SystemExit as end:
    assert not end.code, end.code
json.dump(sorted({name.partition(".")[0] for name in sys.modules}), open(sys.argv[1], "w"))
"""


def imported(tmp_path: Path, *arguments: object) -> set[str]:
    """The top-level modules that a command of lamina ends with."""
    subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "modules.json", *map(str, arguments)],
        check=True,
        capture_output=True,
        env=os.environ,
    )
    return set(json.loads((tmp_path / "modules.json").read_text()))


@pytest.mark.e2e
def test_help_and_check_import_nothing_heavy(home: Path, tmp_path: Path) -> None:
    tune = Path(__file__).parents[2] / "recipes" / "foster.yaml"
    recipes = [("check", home / "lata.yaml"), ("check", home / "math"), ("check", tune)]
    for arguments in (("--help",), *recipes):
        found = imported(tmp_path, *arguments)
        assert "lamina" in found
        assert not found & set(HEAVY), (arguments, found & set(HEAVY))


@pytest.mark.e2e
def test_merging_needs_no_torch(home: Path, tmp_path: Path) -> None:
    found = imported(tmp_path, "merge", home / "lata.yaml", tmp_path / "out")
    assert "numpy" in found
    assert not found & {"torch", "transformers", "peft", "safetensors", "accelerate"}
    assert tf.read_raw(tmp_path / "out")


@pytest.mark.e2e
def test_importing_lamina_is_cheap() -> None:
    program = "import lamina, sys; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert not set(done.stdout.split()) & {*HEAVY, "pydantic", "yaml", "rich", "cyclopts"}


@pytest.mark.e2e
def test_help_names_every_verb(process: Any) -> None:
    told = process("--help")
    assert told.code == 0
    for verb in ("merge", "forget", "check", "eval", "show", "verify", "demo"):
        assert f" {verb} " in told.out, verb
        assert process(verb, "--help").code == 0
    assert process("--version").out.strip()


def test_check_as_json(lamina: Any, home: Path) -> None:
    """What `check --json` tells of a recipe and of a folder is JSON; paths as they were typed."""
    told = lamina("check", home / "lata.yaml", home / "out", "--json")
    assert told.code == 0, told.err
    found = json.loads(told.out)
    assert found["method"] == "lata"
    assert found["blocks"] == 3
    assert found["bytes_to_write"] > 0
    assert found["warnings"] == []
    assert set(found["inputs"]) == {"target", "reference", "base", "math", "code"}
    folder = json.loads(lamina("check", home / "math", "--json").out)
    assert folder["kind"] == "model"
    assert folder["tensors"] == 30
    assert sum(folder["parameters_by_role"].values()) == folder["parameters"]
