"""`lamina shift` through the command line: a folder, an adapter, scores, and what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tune_kit import json_of, rows_of, write_pico, write_rows

Lamina = Callable[..., Any]
SMALL = ("--prompts", 6, "--tokens", 8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, `aligned` (all its weights moved), `adapter` on the base, and rows of two kinds."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lamina.engine.load import quiet

    home = tmp_path_factory.mktemp("place")
    write_pico(home / "base", initializer_range=0.3)
    shutil.copytree(home / "base", home / "aligned")
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(home / "base")
        torch.manual_seed(1)
        config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted.save_pretrained(home / "adapter")
        model = AutoModelForCausalLM.from_pretrained(home / "base")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(home / "aligned")
    write_rows(home / "rows.jsonl", rows_of("law", 12) + rows_of("law", 2))
    write_rows(home / "texts.jsonl", [{"text": "running text asks nothing"}] * 3)
    return home


def modules() -> list[str]:
    roles = [f"self_attn.{x}_proj" for x in "qkvo"] + [
        f"mlp.{x}_proj" for x in ("gate", "up", "down")
    ]
    return [f"{block}.{role}" for block in range(2) for role in roles]


def write_scores(path: Path, **changes: Any) -> Path:
    values = {module: float(place) for place, module in enumerate(modules())}
    told = {
        "schema": "lamina.scores/1",
        "method": "integrate",
        "unit": "nats",
        "granularity": "module",
        "higher_means": "more important",
        "values": values,
        "model": "base",
        "inputs": {},
        **changes,
    }
    path.write_text(json.dumps(told))
    return path


def test_a_model_and_its_base_give_a_folder_and_a_table(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    asked = ("shift", place / "aligned", "--base", place / "base", "--data", place / "rows.jsonl")
    out = tmp_path / "out"
    told = lamina(*asked, "--out", out, *SMALL)
    assert told.code == 0, told.err
    assert sorted(p.name for p in out.iterdir()) == [
        "answers.jsonl",
        "manifest.json",
        "shift.json",
    ]
    shift = json_of(out / "shift.json")
    assert shift["schema"] == "lamina.shift/1"
    names = [one["name"] for one in shift["sets"]]
    assert (names[0], names[-1], len(names)) == ("base", "all linear", 9)
    for one in shift["sets"]:
        assert one["tokens"] == shift["tokens"] == sum(one["counts"].values())
        assert sum(one["fractions"].values()) == pytest.approx(1)
        assert sum(part["tokens"] for part in one["by_position"]) == one["tokens"]
    assert shift["sets"][0]["fractions"]["shifted"] > 0.3, "the models must differ"
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == shift["prompts"] == 6
    moved = sum(rank > 3 for one in answers for rank in one["ranks"])
    assert moved == shift["sets"][0]["counts"]["shifted"]
    assert sum(one["shifted"] for one in shift["most_shifted"]) <= moved
    manifest = json_of(out / "manifest.json")
    assert manifest["kind"] == "shift"
    assert set(manifest["outputs"]) == {"answers.jsonl", "shift.json"}
    assert manifest["results"]["shifted"]["base"] == shift["sets"][0]["fractions"]["shifted"]
    assert "nothing (base alone)" in told.out
    assert "most shifted" in told.out
    before = {name: (out / name).read_bytes() for name in manifest["outputs"]}
    again = lamina(*asked, "--out", out, *SMALL, "--overwrite")
    assert again.code == 0, again.err
    assert {name: (out / name).read_bytes() for name in before} == before


def test_an_adapter_brings_its_base_and_its_deltas_are_all_of_it(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    scores = write_scores(tmp_path / "scores.json")
    told = lamina(
        "shift", place / "adapter", "--data", place / "rows.jsonl", "--out", tmp_path / "out",
        "--scores", scores, "--share", 0.3, "--prompts", 40, "--tokens", 6,
    )  # fmt: skip
    assert told.code == 0, told.err
    shift = json_of(tmp_path / "out" / "shift.json")
    by_name = {one["name"]: one for one in shift["sets"]}
    assert [by_name[f"{which} 30 %"]["modules"] for which in ("top", "lowest", "random")] == [5] * 3
    assert by_name["all linear"]["fractions"]["unshifted"] == 1.0
    assert by_name["base"]["fractions"]["unshifted"] < 0.9
    assert shift["prompts"] == 12, "equal prompts count once"
    assert "rows.jsonl has 12 prompts that differ" in told.out


def other_tokens(place: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    shutil.copytree(place / "base", folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|user|>", "<|human|>"))
    return folder


def without_template(place: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "plain"
    shutil.copytree(place / "aligned", folder)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        file = folder / name
        if file.is_file() and name.endswith(".json"):
            config = json_of(file)
            config.pop("chat_template", None)
            file.write_text(json.dumps(config))
        elif file.is_file():
            file.unlink()
    return folder


def narrow(place: Path, tmp_path: Path) -> Path:
    return write_pico(tmp_path / "narrow", intermediate_size=48)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no base": ({"--base": None}, "say with --base which model it was aligned from"),
    "itself": ({"--base": "aligned"}, "are one model, so no token can be shifted"),
    "adapter as base": ({"--base": "adapter"}, "is an adapter; give a whole model"),
    "other tokens": ({"--base": other_tokens}, r"differ in \d+ tokens \(.*Give the base"),
    "other shapes": ({"--base": narrow}, "differ in 6 linear modules"),
    "no template": ({"model": without_template}, "has no chat template.*--chat-template"),
    "bad numbers": (
        {"--share": 0, "--prompts": 0, "--tokens": -1, "--dtype": "float23"},
        "--dtype float23 is unknown; did you mean.*--share 0 is no share.*--prompts 0.*--tokens -1",
    ),
    "share above 1": ({"--share": 1.5}, r"--share 1\.5 is no share"),
    "no data": ({"--data": "nowhere.jsonl"}, r"nowhere\.jsonl"),
    "empty data": ({"--data": lambda place, tmp_path: ""}, "--data"),
    "running text": ({"--data": "texts.jsonl"}, "none of 3 rows asks anything"),
    "no room": ({"--tokens": 127}, "leave no room for 127 tokens in the 128"),
    "scores of nothing": ({"--scores": "rows.jsonl"}, r"rows\.jsonl"),
    "no model": ({"model": "nowhere"}, "nowhere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_and_nothing_is_written(
    name: str, place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    changes, message = REFUSED[name]
    asked: dict[str, Any] = {"model": "aligned", "--base": "base", "--data": "rows.jsonl"}
    asked |= {key: v(place, tmp_path) if callable(v) else v for key, v in changes.items()}
    for key in ("model", "--base", "--data", "--scores"):
        if isinstance(asked.get(key), str) and asked[key]:
            asked[key] = place / asked[key]
    model = asked.pop("model")
    flags = [part for key, value in asked.items() if value is not None for part in (key, value)]
    out = tmp_path / "out"
    told = lamina("shift", model, *flags, "--out", out)
    assert told.code == 2, told.out
    assert told.err.startswith("error: ")
    assert re.search(message, told.err, re.DOTALL), told.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": {"0.mlp.up_proj": 1.0}}, "no value for"),
        ({"inputs": {"model": "another"}}, "was measured on another model"),
        ({"values": {**dict.fromkeys(modules(), 1.0), "1.mlp.up_proj": None}}, "no finite score"),
    ],
)
def test_scores_of_something_else_are_refused(
    changes: dict[str, Any], message: str, place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    scores = write_scores(tmp_path / "scores.json", **changes)
    told = lamina(
        "shift", place / "adapter", "--data", place / "rows.jsonl", "--out", tmp_path / "out",
        "--scores", scores,
    )  # fmt: skip
    assert told.code == 2, told.out
    assert message in told.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_left_alone(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    asked = ("shift", place / "adapter", "--data", place / "rows.jsonl", "--out", tmp_path)
    told = lamina(*asked)
    assert (told.code, "is not empty" in told.err) == (2, True)
    assert lamina(*asked, "--overwrite").code == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
