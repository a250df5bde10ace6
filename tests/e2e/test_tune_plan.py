"""`lamina tune` with a plan: what is trained, what is as it was, and that a stopped run goes on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.core.errors import CheckpointError, LaminaError, LayerError, RecipeError
from lamina.core.plan import LayerPlan
from lamina.engine.load import quiet
from lamina.jobs.verify import verify_folder
from lamina.jobs.watch import Watcher

LORA = {"method": "lora", "rank": 4, "save_every": 2, "keep_checkpoints": 99}
FULL = {"method": "full"}
CHOSEN = ("0.mlp.down_proj", "1.self_attn.q_proj", "1.mlp.up_proj")
WHOLE = ("norm", "1.input_layernorm")
MODULES = tuple(
    f"{block}.{module}"
    for block in (0, 1)
    for module in (
        *(f"self_attn.{name}_proj" for name in "kqvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = kit.write_home(tmp_path_factory.mktemp("home"))
    write_plan(folder / "plan.json", folder / "model", *CHOSEN)
    write_plan(folder / "other.json", folder / "model", CHOSEN[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE", str(folder / "cache"))
        yield folder


def write_plan(path: Path, model: Path, *chosen: str, **fields: Any) -> None:
    from lamina.weights.checkpoint import open_checkpoint

    given: dict[str, Any] = {
        "granularity": "module",
        "coefficients": {unit: float(unit in chosen) for unit in MODULES},
        "others": 0.0,
        "rule": "hand",
        "from_scores": "",
        "inputs": {"model": open_checkpoint(model).fingerprint},
    }
    path.write_text(LayerPlan(**(given | fields)).to_json())


def write_scores(path: Path, model: Path, **changes: Any) -> None:
    from lamina.weights.checkpoint import open_checkpoint

    told = {
        "schema": "lamina.scores/1",
        "method": "integrate",
        "unit": "nats",
        "granularity": "module",
        "higher_means": "the loss rises more without it",
        "values": {unit: float(n) for n, unit in enumerate(MODULES)},
        "model": str(model),
        "inputs": {"model": open_checkpoint(model).fingerprint},
        "prefix": "model.layers",
    }
    path.write_text(json.dumps(told | changes))


def tensors(file: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    return load_file(file)


def factors(*units: str) -> set[str]:
    return {
        f"base_model.model.model.layers.{unit}.lora_{letter}.weight"
        for unit in units
        for letter in "AB"
    }


def refused(home: Path, kind: type[LaminaError], **changes: Any) -> str:
    with pytest.raises(kind) as error:
        kit.tune(home, "refused", **changes)
    assert not (home / "refused").exists()
    return str(error.value)


# ---- what is trained ---------------------------------------------------------------------------


def test_the_command_line_tunes_the_planned_modules_alone(home: Path) -> None:
    recipe = kit.write_recipe(home, "cli.yaml", train=LORA, plan="plan.json")
    command = [sys.executable, "-m", "lamina", "tune", recipe, "--out", home / "cli"]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=os.environ | {"LAMINA_CACHE": str(home / "cache of the command")},
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 14 linear modules; the lowest stands in block 0 of 2" in done.stderr + done.stdout
    out = home / "cli"
    assert set(tensors(out / "model" / "adapter_model.safetensors")) == factors(*CHOSEN)
    config = kit.json_of(out / "model" / "adapter_config.json")
    assert config["target_modules"] == sorted(f"model.layers.{unit}" for unit in CHOSEN)
    plan = LayerPlan.from_json((out / "plan.json").read_text())
    assert plan.chosen == tuple(unit for unit in plan.coefficients if unit in CHOSEN)
    assert plan.price["lowest_block"] == 0
    results = kit.json_of(out / "manifest.json")["results"]
    assert results["trained_parameters"] == 4 * (96 + 64 + 96)
    assert (results["planned_modules"], results["lowest_planned_block"]) == (3, 0)
    assert "plan.json" in kit.json_of(out / "manifest.json")["outputs"]
    assert verify_folder(out) == []


def test_scores_and_a_rule_are_a_plan(home: Path) -> None:
    write_scores(home / "scores.json", home / "model")
    section = {"scores": "scores.json", "rule": "top", "share": 0.2}
    out, manifest = kit.tune(home, "top", train=LORA, plan=section)
    best = ("1.mlp.down_proj", "1.mlp.up_proj", "1.mlp.gate_proj")  # the last of MODULES
    assert set(tensors(out / "model" / "adapter_model.safetensors")) == factors(*best)
    assert manifest["results"]["lowest_planned_block"] == 1
    assert kit.json_of(out / "plan.json")["from_scores"] == "scores.json"
    again = {"recipe": (out / "recipe.yaml").read_text()}
    assert "scores: ../scores.json" in again["recipe"]
    assert "share: 0.2" in again["recipe"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_tuning_leaves_what_is_not_planned_to_the_bit(home: Path, dtype: str) -> None:
    section = {"file": "plan.json", "unfreeze": "norm"}
    out, manifest = kit.tune(home, f"full {dtype}", train=FULL | {"dtype": dtype}, plan=section)
    before = tensors(home / "model" / "model.safetensors")
    after = tensors(out / "model" / "model.safetensors")
    moved = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert set(after) == set(before)
    assert moved == {f"model.layers.{unit}.weight" for unit in CHOSEN} | {"model.norm.weight"}
    assert {str(tensor.dtype) for tensor in after.values()} == {"torch.float32"}
    results = manifest["results"]
    assert results["trained_parameters"] == 32 * 64 + 32 * 32 + 32 * 64 + 32
    assert results["planned_modules"] == 4
    assert sum(results["end"].values()) < sum(results["start"].values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_tensors_keep_the_dtype_that_they_have_in_the_file(
    home: Path, tmp_path: Path, dtype: str
) -> None:
    import torch
    from safetensors.torch import save_file

    mixed = kit.write_pico(tmp_path / "mixed")
    config = kit.json_of(mixed / "config.json") | {"dtype": "bfloat16"}
    (mixed / "config.json").write_text(json.dumps(config))
    before = {
        name: tensor * 1.001 if "norm" in name else tensor.to(torch.bfloat16)
        for name, tensor in tensors(mixed / "model.safetensors").items()
    }
    save_file(before, mixed / "model.safetensors", {"format": "pt"})
    section = {"file": "plan.json", "check_base": False}
    train = {"method": "full", "dtype": dtype, "windows": 1}
    out, _ = kit.tune(home, f"mixed {dtype}", model=str(mixed), train=train, plan=section)
    after = tensors(out / "model" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in after.items()} == {
        name: tensor.dtype for name, tensor in before.items()
    }
    moved = {name for name, tensor in after.items() if not tensor.equal(before[name])}
    assert moved == {f"model.layers.{unit}.weight" for unit in CHOSEN}


def test_whole_modules_are_saved_beside_the_adapters_and_load_with_them(home: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    section = {"file": "plan.json", "unfreeze": list(WHOLE)}
    out, manifest = kit.tune(home, "both", train=LORA, plan=section, general=None)
    names = {"base_model.model.model.norm.weight"}
    names |= {"base_model.model.model.layers.1.input_layernorm.weight"}
    kept = tensors(out / "model" / "adapter_model.safetensors")
    assert set(kept) == factors(*CHOSEN) | names
    before = tensors(home / "model" / "model.safetensors")
    for name in names:
        assert not kept[name].equal(before[name.removeprefix("base_model.model.")])
    assert manifest["results"]["trained_parameters"] == 4 * (96 + 64 + 96) + 64
    bare = AutoModelForCausalLM.from_pretrained(home / "model")
    tokens = torch.arange(40, 60)[None]
    start = bare(tokens).logits
    with quiet():
        tuned = PeftModel.from_pretrained(bare, str(out / "model")).eval()
    assert not torch.allclose(tuned(tokens).logits, start)
    for name in names:
        inner = name.removeprefix("base_model.model.").removesuffix(".weight")
        module: Any = tuned.get_base_model().get_submodule(inner)
        assert module.modules_to_save["default"].weight.equal(kept[name])


def test_adapters_begin_with_those_of_another_run(home: Path) -> None:
    import torch

    kit.tune(home, "first", train=LORA, plan={"rule": "all"})
    still = LORA | {"windows": 1, "window_steps": 1, "learning_rate": 1e-12}
    section = {"file": "plan.json", "start": "first/model"}
    out, _ = kit.tune(home, "second", train=still, plan=section)
    first = tensors(home / "first" / "model" / "adapter_model.safetensors")
    second = tensors(out / "model" / "adapter_model.safetensors")
    assert set(second) == factors(*CHOSEN)
    for name, tensor in second.items():
        assert torch.allclose(tensor, first[name], rtol=0, atol=1e-9)
        assert tensor.abs().max() > 0


# ---- going on ----------------------------------------------------------------------------------


class StopAt(Watcher):
    """A SIGTERM when a step is done."""

    def __init__(self, step: int) -> None:
        self.left = step

    def advance(self, num_bytes: int) -> None:
        self.left -= num_bytes
        if self.left == 0:
            os.kill(os.getpid(), 15)


@pytest.mark.parametrize(
    ("name", "train"),
    [("lora", LORA), ("full", FULL), ("lora bf16", LORA | {"dtype": "bfloat16"})],
)
def test_a_stopped_run_with_a_plan_goes_on_to_the_same_bytes(
    home: Path, name: str, train: dict[str, Any]
) -> None:
    plan = {"file": "plan.json", "unfreeze": list(WHOLE)}
    whole, _ = kit.tune(home, f"whole {name}", train=train, plan=plan)
    half = f"half {name}"
    out, told = kit.tune(home, half, train=train, plan=plan, options={"watch": StopAt(4)})
    assert told["results"]["status"] == "interrupted"
    out, told = kit.tune(home, half, train=train, plan=plan, options={"resume": True})
    assert told["results"]["status"] == "done"
    assert kit.files_of(out) == kit.files_of(whole)


def test_another_plan_does_not_go_on_from_a_checkpoint(home: Path) -> None:
    kit.tune(home, "torn", train=LORA, plan="plan.json", options={"watch": StopAt(4)})
    with pytest.raises(RecipeError, match=r"the recipe was changed.*--allow-changed recipe"):
        kit.tune(home, "torn", train=LORA, plan="other.json", options={"resume": True})
    written = (home / "plan.json").read_text()
    (home / "plan.json").write_text((home / "other.json").read_text())
    try:
        with pytest.raises(RecipeError, match="the recipe was changed"):
            kit.tune(home, "torn", train=LORA, plan="plan.json", options={"resume": True})
        allowed = {"resume": True, "allowed": ("recipe",)}
        with pytest.raises(RecipeError, match="trained tensors are others"):
            kit.tune(home, "torn", train=LORA, plan="plan.json", options=allowed)
    finally:
        (home / "plan.json").write_text(written)


def test_another_plan_does_not_go_on_from_a_reference_either(home: Path) -> None:
    tuned = {"policy": "foster", "reference": {"way": "tuned", "windows": 2, "window_steps": 2}}
    keys: dict[str, Any] = {"train": LORA, "mixture": tuned}
    kit.tune(home, "alone", plan="plan.json", options={"watch": StopAt(3)}, **keys)
    assert not list((home / "alone" / "checkpoints").glob("checkpoint-*"))
    allowed = {"resume": True, "allowed": ("recipe",)}
    with pytest.raises(RecipeError, match="trained tensors are others"):
        kit.tune(home, "alone", plan="other.json", options=allowed, **keys)


def test_two_processes_follow_a_plan_as_one_does_with_twice_the_accumulation(home: Path) -> None:
    plan = {"file": "plan.json", "unfreeze": list(WHOLE)}
    recipe = kit.write_recipe(home, "two.yaml", train=LORA, plan=plan)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"),
        *("--nproc-per-node", "2", "-m", "lamina", "tune", str(recipe), "--out", str(home / "two")),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "LAMINA_CACHE": str(home / "cache of two")},
    )
    assert done.returncode == 0, done.stderr
    out, _ = kit.tune(home, "one", train=LORA | {"accumulate": 2}, plan=plan)
    one, two = (tensors(f / "model" / "adapter_model.safetensors") for f in (out, home / "two"))
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert float((two[name] - tensor).abs().max()) < 1e-5, name
    assert (home / "two" / "plan.json").read_bytes() == (out / "plan.json").read_bytes()


# ---- what is refused ---------------------------------------------------------------------------


def test_a_plan_that_leaves_nothing_to_tune(home: Path) -> None:
    write_plan(home / "nothing.json", home / "model")
    assert "leaves nothing to tune" in refused(home, LayerError, train=LORA, plan="nothing.json")


def test_a_plan_of_another_architecture(home: Path) -> None:
    units = {**dict.fromkeys(MODULES, 0.0), "2.mlp.up_proj": 1.0, "3.mlp.up_proj": 1.0}
    write_plan(home / "deep.json", home / "model", coefficients=units)
    told = refused(home, LayerError, train=LORA, plan="deep.json")
    assert "2.mlp.up_proj, 3.mlp.up_proj" in told


def test_a_plan_of_another_base(home: Path) -> None:
    write_plan(home / "strange.json", home / "model", *CHOSEN, inputs={"model": "0" * 32})
    told = refused(home, LayerError, train=LORA, plan="strange.json")
    assert "on another model" in told
    section = {"file": "strange.json", "check_base": False}
    _, manifest = kit.tune(home, "strange", train=LORA, plan=section)
    assert manifest["results"]["planned_modules"] == 3


def test_unknown_modules_to_unfreeze(home: Path) -> None:
    section = {"file": "plan.json", "unfreeze": ["nrom", "lm_head"]}
    told = refused(home, RecipeError, train=LORA, plan=section)
    assert "`nrom`: did you mean `norm`?" in told
    assert "`lm_head`: shares its weights with the input embedding" in told


def test_a_tied_embedding_is_not_trained_whole_beside_an_adapter(home: Path) -> None:
    section = {"file": "plan.json", "unfreeze": "embed_tokens"}
    told = refused(home, RecipeError, train=LORA, plan=section)
    assert "`embed_tokens` with lm_head.weight" in told
    out, _ = kit.tune(home, "embedding", train=FULL, plan=section)
    assert "lm_head.weight" not in tensors(out / "model" / "model.safetensors")


def test_an_adapter_to_start_from_that_is_not_there(home: Path) -> None:
    section = {"file": "plan.json", "start": "nowhere"}
    assert "nowhere" in refused(home, CheckpointError, train=LORA, plan=section)
