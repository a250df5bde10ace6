"""`lamina export` as a command: printed or in a file, refusals with code 2, nothing heavy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARTS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
CHOSEN = ("1.mlp.up_proj", "10.self_attn.q_proj")


def a_plan(**update: Any) -> dict[str, Any]:
    names = [f"{n}.{part}" for n in range(12) for part in PARTS]
    return {
        "schema": "lamina.layer_plan/1",
        "granularity": "module",
        "coefficients": {name: float(name in CHOSEN) for name in names},
        "others": 0.0,
        "rule": "top",
        "from_scores": "scores.json",
        "prefix": "model.layers",
        "model": "base",
        **update,
    }


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(a_plan()))
    return file


def refused(lamina: Any, *arguments: object, says: tuple[str, ...]) -> None:
    told = lamina("export", *arguments)
    assert told.code == 2, told
    assert told.err.startswith("error: "), told.err
    assert told.err.count("error: ") == 1, told.err
    assert "Traceback" not in told.err, told.err
    assert told.out == ""
    for word in says:
        assert word in told.err, (word, told.err)


def test_without_out_it_prints(lamina, plan):
    told = lamina("export", plan, "--to", "peft", "--rank", 8, "--alpha", 8)
    assert (told.code, told.err) == (0, "")
    read = json.loads(told.out)
    assert read["target_modules"] == [f"model.layers.{one}" for one in CHOSEN]
    assert (read["r"], read["lora_alpha"]) == (8, 8)


@pytest.mark.parametrize("tool", ["peft", "axolotl", "llamafactory", "ms-swift", "mergekit"])
def test_a_file_is_what_is_printed_and_is_replaced_by_the_next(lamina, plan, tmp_path, tool):
    tuned = ["--tuned", "tuned"] if tool == "mergekit" else []
    out = tmp_path / "out.file"
    printed = lamina("export", plan, "--to", tool, *tuned).out
    for _ in range(2):
        told = lamina("export", plan, "--to", tool, "--out", out, *tuned)
        assert (told.code, told.out) == (0, ""), told
        assert str(out) in told.err
        assert out.read_text() == printed
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == [
        "out.file", "plan.json",
    ]  # fmt: skip


def test_a_folder_with_a_plan_is_enough(lamina, plan):
    assert lamina("export", plan.parent, "--to", "axolotl").out == (
        lamina("export", plan, "--to", "axolotl").out
    )


def test_somebody_elses_file_stays(lamina, plan, tmp_path):
    for name, text in (("notes.txt", "mine"), ("adapter_config.json", '{"peft_type": "LORA"}')):
        other = tmp_path / name
        other.write_text(text)
        refused(lamina, plan, "--to", "peft", "--out", other, says=(name, "another --out"))
        assert other.read_text() == text
    before = plan.read_bytes()
    refused(lamina, plan, "--to", "peft", "--out", plan, says=("plan.json", "not overwritten"))
    assert plan.read_bytes() == before
    refused(lamina, plan, "--to", "peft", "--out", tmp_path, says=("is a folder",))
    missing = tmp_path / "none" / "x.json"
    refused(lamina, plan, "--to", "peft", "--out", missing, says=("does not exist",))
    assert not missing.parent.exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, ("plan.json",)),
        ("{", ("not JSON",)),
        ("[]", ("schema",)),
        ('{"schema": "lamina.scores/1"}', ("lamina.scores/1",)),
        ('{"schema": "lamina.plan/1", "experts": {}}', ("merge",)),
        (json.dumps(a_plan(others=float("nan"))), ("finite", "others")),
        (json.dumps(a_plan(rank=3)), ("rank",)),
        (json.dumps(a_plan(prefix="")), ("prefix",)),
        (json.dumps(a_plan(coefficients={"0.mlp.up_proj": 0.0})), ("none of 1",)),
        (json.dumps(a_plan(coefficients={"0.mlp.up_proj": 0.5})), ("0.mlp.up_proj: 0.5",)),
    ],
    ids=["missing", "not-json", "list", "scores", "merge", "nan", "strange-key", "no-prefix",
         "nothing", "half"],
)  # fmt: skip
def test_what_is_no_plan_to_export(lamina, plan, tmp_path, text, says):
    plan.unlink() if text is None else plan.write_text(text)
    out = tmp_path / "out.yaml"
    refused(lamina, plan, "--to", "axolotl", "--out", out, says=says)
    assert not out.exists()


def test_a_misspelt_tool(lamina, plan):
    refused(lamina, plan, "--to", "lamafactory", says=("`lamafactory`", "`llamafactory`"))
    refused(lamina, plan, "--to", "peft", "--method", "fulll", says=("`fulll`", "`full`"))
    refused(lamina, plan, "--to", "mergekit", says=("--tuned MODEL",))


def test_it_loads_nothing_heavy(plan):
    code = (
        "import sys; from lamina.cli import main\n"
        f"main(['export', {str(plan)!r}, '--to', 'axolotl'])\n"
        "print(sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))
    assert not loaded & {"torch", "transformers", "peft", "numpy", "safetensors", "accelerate"}
