"""What `lamina tune` cannot use is one clear error, exit code 2, and nothing is lost or in the way.

Every case goes through the command line in this process; none of them trains.
"""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_home(tmp_path_factory.mktemp("original"))


@pytest.fixture
def home(original: Path, tmp_path: Path) -> Path:
    """Rows of its own; the model is copied by who changes it."""
    folder = tmp_path / "home"
    shutil.copytree(original / "rows", folder / "rows")
    (folder / "model").symlink_to(original / "model")
    return folder


def own_model(home: Path) -> Path:
    source = (home / "model").resolve()
    (home / "model").unlink()
    shutil.copytree(source, home / "model")
    return home / "model"


def refused(lamina: Any, home: Path, *flags: object, **changes: Any) -> str:
    """The message of a run that is refused; whatever was there before is as it was."""
    path = kit.write_recipe(home, **changes)
    before = kit.files_of(home)
    told = lamina("tune", path, "--out", home / "out", *flags)
    assert told.code == 2, told
    assert told.err.count("error: ") == 1, told.err
    assert "Traceback" not in told.err
    assert kit.files_of(home) == before
    return told.err[told.err.index("error: ") :]


# ---- rows --------------------------------------------------------------------------------------


def lines(*texts: str) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


GOOD = [json.dumps(row) for row in kit.rows_of("law", 20)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("law.jsonl", b"", ["law", "empty"]),
        ("law.jsonl", lines(*GOOD[:4], '{"prompt": "x", "comp'), ["rows/law.jsonl", "line 5"]),
        ("law.jsonl", lines(*GOOD[:4], '{"prompt": "x"}'), ["law.jsonl:5", "completion"]),
        ("law.jsonl", lines(*GOOD[:4]) + b'{"prompt": "\xff"}\n', ["law", "UTF-8"]),
        ("law.jsonl", lines('{"colour": "red"}', '{"colour": "blue"}'), ["law.jsonl", "colour"]),
        ("law.jsonl.gz", gzip.compress(lines(*GOOD), mtime=0)[:-40], ["law", "file ended"]),
        ("law.docx", b"PK", ["law", ".docx"]),
        ("law.jsonl", lines(*(f'{{"prompt": "q{n}", "completion": ""}}' for n in range(9))),
         ["law", "completion"]),
        ("law.jsonl", lines(GOOD[0]), ["law", "held"]),
    ],
    ids=["empty", "broken line", "field", "utf8", "format", "gzip", "ending", "answers", "one row"],
)  # fmt: skip
def test_rows_that_cannot_be_used(
    lamina: Any, home: Path, name: str, content: bytes, words: list[str]
) -> None:
    (home / "rows" / name).write_bytes(content)
    told = refused(lamina, home, domains=kit.RECIPE["domains"] | {"law": f"rows/{name}"})
    for word in words:
        assert word in told, told
    assert not (home / "out").exists()


def test_a_domain_whose_rows_are_all_too_long(lamina: Any, home: Path) -> None:
    told = refused(lamina, home, data={"max_length": 8, "too_long": "drop"})
    assert "law" in told
    assert "max_length" in told


def test_rows_that_are_not_there(lamina: Any, home: Path) -> None:
    told = refused(lamina, home, domains={"law": "rows/low.jsonl", "code": "rows/code.jsonl"})
    assert "rows/low.jsonl" in told


def test_all_domains_that_are_wrong_are_told_at_once(lamina: Any, home: Path) -> None:
    (home / "rows" / "law.jsonl").write_bytes(b"")
    (home / "rows" / "maths.jsonl").write_bytes(b"{")
    told = refused(lamina, home)
    assert "law" in told
    assert "maths" in told


def test_the_text_that_is_only_watched_must_be_there(lamina: Any, home: Path) -> None:
    assert "nowhere.jsonl" in refused(lamina, home, general="nowhere.jsonl")


# ---- weights, policies, keys -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ({"start": {"law": -0.2, "code": 0.6, "maths": 0.6}}, ["start", "-0.2"]),
        ({"start": {"law": 0.2, "code": 0.6, "maths": 0.6}}, ["sum to 1.4"]),
        ({"start": {"law": 0.4, "code": 0.6}}, ["no weight for maths"]),
        ({"start": {"law": 0.4, "code": 0.6, "math": 0}}, ["`math`", "did you mean `maths`?"]),
        ({"start": "detectd"}, ["did you mean `detected`?"]),
        ({"policy": "foste"}, ["did you mean `foster`?"]),
        ({"policy": "foster", "sigm": 1}, ["`sigm`", "did you mean `sigma`?"]),
        ({"policy": "foster", "sigma": -1}, ["sigma", "above 0"]),
        ({"policy": "foster", "growth": 0.5}, ["growth", "above 1"]),
        ({"policy": "constant", "sigma": 1}, ["does not use it", "foster"]),
        ({"policy": "expand"}, ["`target` is missing"]),
        ({"policy": "expand", "target": "lwa"}, ["target 'lwa'", "did you mean `law`?"]),
        ({"policy": "constant", "floor": 0.5}, ["floor 0.5", "0.333"]),
        ({"policy": "constant", "max_repeats": -1}, ["max_repeats"]),
        ({"policy": "foster", "reference": {"way": "given", "losses": {"law": 1.0}}},
         ["code", "maths"]),
        ({"policy": "foster", "reference": {"way": "given", "losses": {"lew": 1.0}}}, ["`lew`"]),
        ([{"policy": "uniform"}, {"policy": "uniform", "windows": 2}], ["needs `windows`"]),
    ],
    ids=lambda value: None if isinstance(value, list) else "mixture",
)  # fmt: skip
def test_mixtures_that_cannot_be(lamina: Any, home: Path, mixture: Any, words: list[str]) -> None:
    told = refused(lamina, home, mixture=mixture)
    for word in words:
        assert word in told, told
    assert not (home / "out").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mixtrue": {}}, ["did you mean `mixture`?"]),
        ({"train": {"learning_rat": 1}}, ["did you mean `learning_rate`?"]),
        ({"train": {"method": "lara"}}, ["did you mean `lora`?"]),
        ({"train": {"windows": 0}}, ["windows"]),
        ({"train": {"method": "full", "rank": 4}}, ["`rank`", "method is `full`"]),
        ({"train": {"method": "lora", "targets": ["q_prj"]}}, ["`q_prj`", "q_proj"]),
        ({"train": {"optimizer": "adamx"}}, ["adamx"]),
        ({"train": {"report_to": ["tensorbord"]}}, ["tensorbord"]),
        ({"domains": {}}, ["no domain"]),
        ({"self_distillation": {"weight": 1, "domains": ["lew"]}}, ["did you mean `law`?"]),
        ({"self_distillation": -1}, ["self_distillation"]),
        ({"max_forgetting": 0}, ["max_forgetting"]),
        ({"model": "modle"}, ["modle"]),
        ({"data": {"chat_template": "chatmel"}}, ["chatml"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_recipes_that_cannot_be(
    lamina: Any, home: Path, changes: dict[str, Any], words: list[str]
) -> None:
    told = refused(lamina, home, **changes)
    for word in words:
        assert word in told, told


def test_all_problems_of_a_recipe_are_told_at_once(lamina: Any, home: Path) -> None:
    told = refused(lamina, home, mixture={"policy": "expand", "floor": 0.6, "start": {"lew": 1.0}})
    assert all(word in told for word in ("`target` is missing", "floor 0.6", "`lew`"))


def test_a_recipe_for_merging_is_named(lamina: Any, home: Path) -> None:
    assert "lamina merge" in refused(lamina, home, merge_method="lata")


def test_detected_shares_must_be_those_of_the_domains(lamina: Any, home: Path) -> None:
    mixture = {"policy": "constant", "start": "detected", "detected": "known"}
    assert "lamina detect" in refused(lamina, home, mixture=mixture)
    (home / "known").mkdir()
    (home / "known" / "shares.json").write_text('{"shares": {"law": 0.5, "art": 0.5}}')
    told = refused(lamina, home, mixture=mixture)
    assert "law, art" in told
    assert "law, code, maths" in told
    (home / "known" / "shares.json").write_text('{"texts": 3}')
    assert "no `shares`" in refused(lamina, home, mixture=mixture)


def test_a_policy_that_divides_by_a_share_of_zero(lamina: Any, home: Path) -> None:
    start = {"law": 0.0, "code": 0.5, "maths": 0.5}
    path = kit.write_recipe(home, mixture={"policy": "inverse", "start": start})
    told = lamina("tune", path, "--out", home / "out")
    assert (told.code, "law is 0" in told.err) == (2, True), told.err
    good = lamina("tune", kit.write_recipe(home, train={"windows": 1}), "--out", home / "out")
    assert good.code == 0, good.err  # the same --out, without a word about the refused run


# ---- model and tokenizer -----------------------------------------------------------------------


def without(key: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / "tokenizer_config.json"
        values = kit.json_of(file)
        values.pop(key)
        file.write_text(json.dumps(values))

    return change


def small_embedding(model: Path) -> None:
    kit.write_pico(model, vocab_size=4000)


def nan_weights(model: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], float("nan"))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("eos_token"), ["EOS", "eos_token"]),
        (without("chat_template"), ["no chat template", "chatml"]),
        (small_embedding, ["4,096 tokens", "4,000 rows"]),
        (lambda model: (model / "tokenizer.json").unlink(), ["tokenizer"]),
        (lambda model: (model / "model.safetensors").write_bytes(b"x" * 40), ["model.safetensors"]),
    ],
    ids=["eos", "template", "embedding", "tokenizer", "weights"],
)
def test_models_that_cannot_be_tuned(
    lamina: Any, home: Path, change: Callable[[Path], None], words: list[str]
) -> None:
    change(own_model(home))
    told = refused(lamina, home)
    for word in words:
        assert word in told, told


def test_a_model_whose_losses_are_not_finite(lamina: Any, home: Path) -> None:
    nan_weights(own_model(home))
    told = lamina("tune", kit.write_recipe(home), "--out", home / "out")
    assert told.code == 2
    assert "not finite before any training" in told.err
    told = lamina("tune", kit.write_recipe(home, data={"packing": False}), "--out", home / "out")
    assert told.code == 2
    assert "the loss of law is not finite in 6 of 6 held-out examples at step 0" in told.err
    assert "rows/law.jsonl:" in told.err
    assert "before any training" in told.err


@pytest.mark.parametrize("key", ["bos_token", "pad_token"])
def test_a_tokenizer_without_bos_or_pad_is_no_hindrance(lamina: Any, home: Path, key: str) -> None:
    without(key)(own_model(home))
    path = kit.write_recipe(home, train={"windows": 1, "window_steps": 1})
    assert lamina("tune", path, "--out", home / "out").code == 0


def test_an_adapter_cannot_carry_an_adapter(lamina: Any, home: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from lamina.engine.load import quiet

    base = AutoModelForCausalLM.from_pretrained(own_model(home))
    with quiet():
        model = get_peft_model(base, LoraConfig(target_modules="all-linear"))
        model.save_pretrained(str(home / "adapter"))
    told = refused(lamina, home, model="model+adapter", train={"method": "lora"})
    assert "lamina merge" in told
    path = kit.write_recipe(home, model="model+adapter", train={"windows": 1, "window_steps": 1})
    assert lamina("tune", path, "--out", home / "out").code == 0  # method: full
    kept = kit.json_of(home / "out" / "manifest.json")["recipe"]["model"]
    assert kept == "model+adapter"
    assert "model: ../model+../adapter" in (home / "out" / "recipe.yaml").read_text()


# ---- --out, --resume, --overwrite, --allow-changed ---------------------------------------------


def test_out_must_be_a_folder_of_ours(lamina: Any, home: Path) -> None:
    (home / "out").write_text("mine")
    assert "is a file" in refused(lamina, home)
    (home / "out").unlink()
    (home / "out").mkdir()
    (home / "out" / "notes.txt").write_text("mine")
    for flags in ((), ("--resume",), ("--overwrite",)):
        assert "holds no tune run (notes.txt)" in refused(lamina, home, *flags)
    (home / "out" / "notes.txt").rename(home / "out" / "recipe.yaml")
    for flags in ((), ("--resume",), ("--overwrite",)):
        assert "no log.jsonl of a tune run" in refused(lamina, home, *flags)
    shutil.rmtree(home / "out")
    (home / "out").mkdir()
    (home / "out" / "manifest.json").write_text('{"kind": "merge"}')
    for flags in ((), ("--resume",), ("--overwrite",)):
        assert "of another kind: merge" in refused(lamina, home, *flags)


def test_inputs_are_never_written_into(lamina: Any, home: Path) -> None:
    path = kit.write_recipe(home)
    for place in (home / "rows", home / "rows" / "law.jsonl" / "x", home, own_model(home) / "x"):
        told = lamina("tune", path, "--out", place, "--overwrite")
        assert told.code == 2
        assert "Inputs are never" in told.err or "is a file" in told.err
    assert (home / "rows" / "law.jsonl").is_file()


def test_an_empty_folder_and_a_refused_run_are_no_hindrance(lamina: Any, home: Path) -> None:
    (home / "out").mkdir()
    path = kit.write_recipe(home, train={"windows": 1, "window_steps": 1})
    assert lamina("tune", path, "--out", home / "out", "-s", "general=nowhere").code == 2
    assert lamina("tune", path, "--out", home / "out").code == 0


def test_resume_and_overwrite_are_not_asked_at_once(lamina: Any, home: Path) -> None:
    assert "one of them" in refused(lamina, home, "--resume", "--overwrite")


def test_what_may_have_changed_is_spelled_right(lamina: Any, home: Path) -> None:
    told = refused(lamina, home, "--allow-changed", "dta")
    assert "`dta` (did you mean `data`?)" in told


def test_a_finished_run_is_kept_unless_overwritten(lamina: Any, home: Path) -> None:
    short = {"windows": 1, "window_steps": 1}
    path = kit.write_recipe(home, train=short)
    assert lamina("tune", path, "--out", home / "out").code == 0
    assert "holds a finished run" in refused(lamina, home, train=short)
    # A recipe that is refused deletes nothing, --overwrite or not.
    assert "nowhere" in refused(lamina, home, "--overwrite", train=short, general="nowhere")
    before = kit.files_of(home / "out")
    again = lamina("tune", path, "--out", home / "out", "--resume")
    assert again.code == 0
    assert "nothing is left to do" in again.err
    assert kit.files_of(home / "out") == before
    other = kit.write_recipe(home, train=short | {"learning_rate": 1e-3})
    assert lamina("tune", other, "--out", home / "out", "--overwrite").code == 0
    assert (
        kit.files_of(home / "out")["model/model.safetensors"] != before["model/model.safetensors"]
    )


# ---- sharding ----------------------------------------------------------------------------------


def test_sharding_that_cannot_take_effect(
    lamina: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("with a GPU sharding may take effect")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    told = refused(lamina, home)
    assert "sharding (FSDP) was asked for" in told
    assert "no GPU" in told
    assert not (home / "out").exists()
