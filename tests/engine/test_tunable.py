"""What is trained, what is frozen, and that a saved model is an ordinary one."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.core.errors import RecipeError
from lamina.engine.load import Source, find_model, fingerprint, quiet
from lamina.engine.recipe import TrainSection
from lamina.engine.tunable import load_tunable, num_embeddings, save_model, trained_parameters

sys.path.append(str(Path(__file__).parents[1] / "e2e"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    import tune_kit

    return find_model(tune_kit.write_pico(tmp_path_factory.mktemp("pico")))


def train(**keys: Any) -> TrainSection:
    return TrainSection.model_validate(keys)


def dtypes(model: Any, *, trained: bool) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if p.requires_grad == trained}


def test_full_tuning_trains_every_weight_in_float32(source: Source) -> None:
    model = load_tunable(source, train(method="full", dtype="bfloat16"))
    assert dtypes(model, trained=True) == {torch.float32}
    assert dtypes(model, trained=False) == set()
    assert trained_parameters(model) == sum(p.numel() for p in model.parameters())
    assert model.training
    assert num_embeddings(model) == 4096


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_float32_on_frozen_weights_of_the_asked_dtype(
    source: Source, dtype: str
) -> None:
    model = load_tunable(source, train(dtype=dtype, rank=4))
    assert dtypes(model, trained=True) == {torch.float32}
    assert dtypes(model, trained=False) == {getattr(torch, dtype)}
    shapes = {"q": 32 + 32, "k": 32 + 16, "v": 32 + 16, "o": 64, "gate": 96, "up": 96, "down": 96}
    assert trained_parameters(model) == 2 * 4 * sum(shapes.values())


def test_an_adapter_stands_on_the_named_modules_only(source: Source) -> None:
    model = load_tunable(source, train(targets=["q_proj", "v_proj"], rank=2))
    trained = [name.split(".") for name, p in model.named_parameters() if p.requires_grad]
    assert {part for parts in trained for part in parts if part.endswith("_proj")} == {
        "q_proj",
        "v_proj",
    }
    assert model.peft_config["default"].target_modules == ["q_proj", "v_proj"]


def test_modules_that_are_not_there_are_told_with_those_that_are(source: Source) -> None:
    with pytest.raises(RecipeError) as told:
        load_tunable(source, train(targets=["q_prj", "zz"]))
    assert "`q_prj`, `zz`" in str(told.value)
    assert "down_proj, gate_proj, k_proj" in str(told.value)


def test_an_adapters_beginning_is_a_function_of_the_seed(source: Source) -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        model = load_tunable(source, train(seed=seed, rank=2))
        return [p.detach() for p in model.parameters() if p.requires_grad]

    assert all(a.equal(b) for a, b in zip(drawn(3), drawn(3), strict=True))
    assert not all(a.equal(b) for a, b in zip(drawn(3), drawn(4), strict=True))


def test_an_attention_that_is_not_installed_is_named(source: Source) -> None:
    if torch.cuda.is_available():
        pytest.skip("flash attention may be there")
    with pytest.raises(RecipeError, match=r"train.attention is `flash_attention_2`"):
        load_tunable(source, train(attention="flash_attention_2"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_full_weights_are_saved_in_the_asked_dtype_and_load(
    source: Source, tmp_path: Path, dtype: torch.dtype
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = load_tunable(source, train(method="full"))
    save_model(model, tmp_path, dtype=dtype)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        assert again.get_parameter(name).float().equal(parameter.to(dtype).float()), name


def test_an_adapter_is_saved_as_one_and_the_same_bytes_every_time(
    source: Source, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        save_model(load_tunable(source, train(rank=2)), tmp_path / name, dtype=None)
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert "model.safetensors" not in files
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_adapter_can_be_tuned_on_whole_but_not_by_another(
    source: Source, tmp_path: Path
) -> None:
    model = load_tunable(source, train(rank=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    save_model(model, tmp_path / "adapter", dtype=None)
    both = find_model(tmp_path / "adapter", base=source.folder)
    with pytest.raises(RecipeError, match="Merge the adapter into its base first"):
        load_tunable(both, train())
    with quiet():
        merged = model.merge_and_unload()
    found = load_tunable(both, train(method="full"))
    for ours, theirs in zip(found.parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert fingerprint(both).startswith(fingerprint(source) + "+")
