"""What `lamina rank` cannot use is one clear error, exit code 2, and nothing is lost or in the way.

Every case goes through the command line in this process; none of them tunes.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_kit as ranks
import tune_kit as kit

from lamina.engine.load import quiet

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ranks.home_in(tmp_path_factory.mktemp("home")) as folder:
        write_adapter(folder / "adapter")
        yield folder


def write_adapter(folder: Path, base: str = "model", **changes: Any) -> Path:
    """A LoRA on the pico model with factors of seed 0."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    values = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    with quiet():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**values))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def spoilt(home: Path, tmp_path: Path) -> Path:
    """An adapter of one's own."""
    return Path(shutil.copytree(home / "adapter", tmp_path / "spoilt"))


def refused(out: Path, model: object, *flags: object, data: bool = True, **changes: Any) -> str:
    """The message of a ranking that is refused; what was there before is as it was."""
    rows = ranks.DATA if data else ()
    before = kit.files_of(Path.cwd())
    there = out.exists()
    told = ranks.rank(model, out, *rows, *flags, **changes)
    assert told.code == 2, told
    assert told.err.count("error: ") == 1, told.err
    assert "Traceback" not in told.err
    assert out.exists() == there, sorted(out.rglob("*"))
    assert kit.files_of(Path.cwd()) == before
    return told.err[told.err.index("error: ") :]


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(kit.json_of(file) | changes))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / ADAPTER)
    change(tensors)
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})


# ---- adapters ----------------------------------------------------------------------------------


def test_an_adapter_of_another_model(home: Path, spoilt: Path, tmp_path: Path) -> None:
    kit.write_pico(tmp_path / "wide", intermediate_size=96)
    told = refused(tmp_path / "out", spoilt, "--base", tmp_path / "wide")
    assert "does not fit the base" in told
    assert "mlp.up_proj" in told
    assert "[96, 32] in the base, the adapter's delta is [64, 32]" in told


def test_an_adapter_of_rank_0(home: Path, spoilt: Path, tmp_path: Path) -> None:
    def empty(tensors: dict[str, Any]) -> None:
        for name in tensors:
            tensors[name] = tensors[name][:0] if "lora_A" in name else tensors[name][:, :0]

    change_tensors(spoilt, empty)
    change_config(spoilt, r=0)
    told = refused(tmp_path / "out", spoilt)
    assert "[0, 32] and [64, 0] do not belong together" in told


def test_an_adapter_without_its_file_or_config(home: Path, spoilt: Path, tmp_path: Path) -> None:
    (spoilt / ADAPTER).rename(spoilt / "adapter_model.bin")
    assert "Pickled adapters (.bin) are not read" in refused(tmp_path / "out", spoilt)
    (spoilt / "adapter_config.json").unlink()
    assert "config.json" in refused(tmp_path / "out", spoilt)


def test_an_adapter_with_half_a_file(home: Path, spoilt: Path, tmp_path: Path) -> None:
    raw = (spoilt / ADAPTER).read_bytes()
    (spoilt / ADAPTER).write_bytes(raw[: len(raw) // 2])
    assert ADAPTER in refused(tmp_path / "out", spoilt)
    (spoilt / ADAPTER).write_bytes(raw)
    (spoilt / "adapter_config.json").write_text("{")
    assert "adapter_config.json" in refused(tmp_path / "out", spoilt)


def test_an_adapter_on_modules_that_the_base_has_not(
    home: Path, spoilt: Path, tmp_path: Path
) -> None:
    def rename(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if "1.mlp.up_proj" in name]:
            tensors[name.replace("up_proj", "upper_proj")] = tensors.pop(name)

    change_tensors(spoilt, rename)
    told = refused(tmp_path / "out", spoilt)
    assert "model.layers.1.mlp.upper_proj: no such module in the base" in told


def test_an_adapter_on_the_head(home: Path, tmp_path: Path) -> None:
    kit.write_pico(tmp_path / "untied", tie_word_embeddings=False)
    adapter = write_adapter(
        tmp_path / "head", str(tmp_path / "untied"), target_modules=["q_proj", "lm_head"]
    )
    told = refused(tmp_path / "out", adapter)
    assert "1 of 3 adapted modules" in told
    assert "no linear module of an attention or a feed-forward inside the blocks: lm_head" in told


def test_dora_and_others(home: Path, tmp_path: Path) -> None:
    dora = write_adapter(tmp_path / "dora", use_dora=True)
    told = refused(tmp_path / "out", dora)
    assert "DoRA" in told
    assert "merge" in told.lower()
    whole = write_adapter(tmp_path / "ia3")
    change_config(whole, peft_type="IA3")
    assert "LORA is needed" in refused(tmp_path / "out", whole)


def test_factors_that_are_not_finite(home: Path, spoilt: Path, tmp_path: Path) -> None:
    def break_one(tensors: dict[str, Any]) -> None:
        tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][0, 0] = float("nan")

    change_tensors(spoilt, break_one)
    assert "not finite" in refused(tmp_path / "out", spoilt)
    told = refused(tmp_path / "out", spoilt, "--way", "delta_norm", data=False)
    assert "NaN or infinite in 1.mlp.up_proj" in told


def test_a_base_that_says_nothing_or_is_not_there(home: Path, spoilt: Path, tmp_path: Path) -> None:
    change_config(spoilt, base_model_name_or_path=str(tmp_path / "gone"))
    told = refused(tmp_path / "out", spoilt)
    assert "gone" in told
    change_config(spoilt, base_model_name_or_path=None)
    told = refused(tmp_path / "out", spoilt)
    assert "does not name its base" in told
    good = ranks.rank(spoilt, tmp_path / "good", "--way", "delta_norm", "--base", "model")
    assert good.code == 0, good.err


# ---- models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["taylor", "snr", "block_influence"])
def test_a_base_that_is_not_finite(home: Path, tmp_path: Path, way: str) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(home / "model", tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.weight"][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    told = refused(tmp_path / "out", tmp_path / "broken", "--way", way)
    assert "finite" in told or "NaN" in told


def test_a_model_without_linear_modules(home: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "odd"
    shutil.copytree(home / "model", folder)
    names = [f"model.layers.{n}.input_layernorm.weight" for n in (0, 1)]
    tensors = {name: torch.ones(32) for name in names}
    tensors["model.embed_tokens.weight"] = torch.zeros(4096, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for way in ("taylor", "snr"):
        told = refused(tmp_path / "out", folder, "--way", way)
        assert "no linear module that can be targeted" in told


def test_no_such_model(home: Path, tmp_path: Path) -> None:
    assert "modle" in refused(tmp_path / "out", "modle")
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path / "out", tmp_path / "empty")


def test_a_runs_folder(home: Path, tmp_path: Path) -> None:
    ranks.ranked("adapter", tmp_path / "run", "--way", "delta_norm")
    shutil.copytree(home / "adapter", tmp_path / "run" / "adapter")
    told = refused(tmp_path / "out", tmp_path / "run")
    assert f"what it made is {tmp_path}/run/adapter. Give that." in told


def test_a_base_for_a_whole_model(home: Path, tmp_path: Path) -> None:
    assert "is a whole model" in refused(tmp_path / "out", "model", "--base", "model")


# ---- rows --------------------------------------------------------------------------------------


def test_rows_without_completions(home: Path, tmp_path: Path) -> None:
    rows = kit.write_rows(tmp_path / "bad.jsonl", [{"prompt": "why?"}, {"prompt": "how?"}])
    told = refused(tmp_path / "out", "model", "--data", rows, data=False)
    assert "bad.jsonl" in told
    assert "completion" in told


def test_rows_that_are_not_there_or_too_few(home: Path, tmp_path: Path) -> None:
    told = refused(tmp_path / "out", "model", "--data", "rows/low.jsonl", data=False)
    assert "rows/low.jsonl" in told
    few = kit.write_rows(tmp_path / "few.jsonl", kit.rows_of("law", 1))
    assert "held" in refused(tmp_path / "out", "model", "--data", few, data=False)


def test_two_files_of_one_name(home: Path, tmp_path: Path) -> None:
    kit.write_rows(tmp_path / "law.jsonl", kit.rows_of("law", 20))
    told = refused(tmp_path / "out", "model", "--data", tmp_path / "law.jsonl")
    assert "two files of one name: law" in told
    assert "domains:" in told


@pytest.mark.parametrize(
    ("model", "flags", "words"),
    [
        ("model", (), "`taylor` needs rows; give --data FILE"),
        ("model", ("--way", "shapley"), "`shapley` needs rows"),
        ("model", ("--way", "block_influence"), "`block_influence` needs rows"),
        ("model", ("--way", "delta_norm"), "model is a model without an adapter, and `delta_norm`"),
        ("adapter", ("--way", "lora_drop"), "`lora_drop` needs rows"),
        ("adapter", ("--way", "snr", "--beside", "learn"), "`learn` needs rows"),
        ("model", ("--way", "snr", "--beside", "delta_norm"), "has to be tuned first"),
    ],
)
def test_ways_that_need_rows(
    home: Path, tmp_path: Path, model: str, flags: tuple[str, ...], words: str
) -> None:
    assert words in refused(tmp_path / "out", model, *flags, data=False)


# ---- flags and keys ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--share", "0"), ["share", "greater than 0"]),
        (("--share", "1.5"), ["share", "less than or equal to 1"]),
        (("--share", "nan"), ["share"]),
        (("--seeds", "0"), ["seeds"]),
        (("--way", "integrat"), ["did you mean `integrate`?"]),
        (("--beside", "leave-one-out"), ["did you mean `leave_one_out`?"]),
        (("-s", "train.method=full"), ["method is `full`", "method: lora"]),
        (("-s", "gates.batchs=3"), ["`batches`"]),
        (("-s", "wya=learn"), ["`way`"]),
        (("-s", "gates.points=0"), ["gates.points"]),
        (("-s", "gates.learning_rate=-1"), ["gates.learning_rate"]),
        (("-s", "stable.change=0"), ["stable.change"]),
        (("-s", "train.targets=[q_prj]"), ["`q_prj`", "did you mean `q_proj`?"]),
        (("-s", "train.targets=[lm_head]"), ["`lm_head`", "inside the blocks"]),
        (("-s", "train.optimizer=adamx"), ["adamx"]),
        (("-s", "train"), ["key=value"]),
        (("--way", "cosine"), ["`cosine`", "--base", "--instruct"]),
        (("--way", "cosine", "--base", "model"), ["instruct model that model was tuned from"]),
        (("--instruct", "model"), ["instruct is for the way `cosine`"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_flags_that_cannot_be(
    home: Path, tmp_path: Path, flags: tuple[str, ...], words: list[str]
) -> None:
    told = refused(tmp_path / "out", "model", *flags)
    for word in words:
        assert word in told, told


def test_all_problems_are_told_at_once(home: Path, tmp_path: Path) -> None:
    told = refused(tmp_path / "out", "model", "--share", 2, "--way", "lern", "--seeds", 0)
    assert all(word in told for word in ("share", "lern", "seeds"))


def test_a_recipe_of_something_else(home: Path, tmp_path: Path) -> None:
    recipe = kit.write_recipe(tmp_path)
    told = ranks.cli("rank", recipe, "--out", tmp_path / "out")
    assert told.code == 2
    assert "mixture: unknown key" in told.err
    assert ranks.cli("rank", tmp_path / "no.yaml", "--out", tmp_path / "out").code == 2


# ---- places ------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["model/ranked", "adapter/ranked", "adapter", "rows", "."])
def test_inputs_are_not_written_into(home: Path, out: str) -> None:
    model = "adapter" if out.startswith(("adapter", "model")) else "model"
    told = refused(home / out, model)
    assert "one folder or lie in one another" in told or "is not empty" in told


def test_an_out_that_is_a_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file", "model")


def test_an_earlier_ranking_outlives_a_refused_one(
    home: Path, spoilt: Path, tmp_path: Path
) -> None:
    out = tmp_path / "earlier"
    ranks.ranked("adapter", out, "--way", "delta_norm")
    before = kit.files_of(out)
    for flags in (("-s", "train.targets=[q_prj]"), ("--data", "rows/low.jsonl")):
        assert refused(out, "model", "--overwrite", *flags)
        assert kit.files_of(out) == before
    change_config(spoilt, use_dora=True)
    assert refused(out, spoilt, "--overwrite")
    assert kit.files_of(out) == before
