import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import CheckpointError, LaminaError, RecipeError
from lamina.evaluate.models import find_model, load_model, quiet
from lamina.evaluate.perplexity import measure, score
from lamina.evaluate.text import Document

DOCUMENTS = (Document(None, "the cat sat on the mat", "the cat sat on the mat"),)


@pytest.fixture
def copy(pico: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pico, tmp_path / "model"))


def _adapter(folder: Path, base: Path, named: str) -> Path:
    """A LoRA adapter with weights that do something, naming its base as asked."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    with quiet():
        network: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        network.save_pretrained(folder)
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": named}))
    return folder


def _refused(kind: type[LaminaError], model: Path | str, *words: str, **options: Any) -> None:
    with pytest.raises(kind) as refusal:
        load_model(find_model(model), **options)
    for word in words:
        assert word in str(refusal.value), (word, str(refusal.value))


def test_a_folder_is_loaded_in_float32_by_default(pico: Path) -> None:
    model = load_model(find_model(pico))
    assert {str(tensor.dtype) for tensor in model.network.parameters()} == {"torch.float32"}
    assert (model.max_length, model.start, model.bos, model.num_embeddings) == (24, 0, 0, 280)
    assert model.keeps_logits


def test_another_dtype_is_kept(pico: Path) -> None:
    model = load_model(find_model(pico), dtype="bfloat16")
    assert {str(tensor.dtype) for tensor in model.network.parameters()} == {"torch.bfloat16"}
    near = score(load_model(find_model(pico)), DOCUMENTS).loss
    assert score(model, DOCUMENTS).loss == pytest.approx(near, rel=0.05)


def test_an_unknown_dtype_is_refused(pico: Path) -> None:
    _refused(RecipeError, pico, "`floot32`", "float32", dtype="floot32")


def test_a_shorter_length_is_used_and_a_longer_one_refused(pico: Path) -> None:
    assert load_model(find_model(pico), max_length=5).max_length == 5
    _refused(RecipeError, pico, "25", "24 positions", max_length=25)
    _refused(RecipeError, pico, "at least 1", max_length=0)


def test_an_adapter_is_merged_into_the_base_beside_it(pico: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    shutil.copytree(pico, tmp_path / "base")
    adapter = _adapter(tmp_path / "lora", pico, "../base")
    merged = load_model(find_model(adapter))
    with quiet():
        plain: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico), adapter)
    network: Any = merged.network
    ids = torch.tensor([[0, 70, 71, 72]])
    with torch.no_grad():
        difference = network(input_ids=ids).logits - plain(input_ids=ids).logits
    assert float(difference.abs().max()) < 1e-4
    own = score(merged, DOCUMENTS).loss
    assert own != pytest.approx(score(load_model(find_model(pico)), DOCUMENTS).loss, rel=1e-3)
    assert own == measure(adapter, {"a": DOCUMENTS}, base=pico)["a"].loss


def test_a_base_and_an_adapter_may_be_written_as_one(pico: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "lora", pico, "../gone")
    source = find_model(f"{pico}+{adapter}")
    assert (source.folder, source.adapter) == (pico, adapter)


def test_an_adapter_without_its_base_says_how_to_name_it(pico: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "lora", pico, "../gone")
    _refused(CheckpointError, adapter, "`../gone`", "Say where the base is with `base`")
    assert find_model(adapter, base=pico).folder == pico


def test_an_adapter_on_the_wrong_base_is_refused(
    pico: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    wide = tmp_path / "wide"
    shutil.copytree(pico, wide)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=280, hidden_size=32, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=24,
        )
    ).save_pretrained(wide)  # fmt: skip
    adapter = _adapter(tmp_path / "lora", pico, str(wide))
    _refused(CheckpointError, adapter, "does not fit its base", "`base`")


def test_a_pickled_adapter_is_refused(pico: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "lora", pico, str(pico))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    _refused(CheckpointError, adapter, "no adapter_model.safetensors", "save_pretrained")


def test_a_missing_folder_is_told_with_the_nearest(copy: Path) -> None:
    _refused(CheckpointError, copy.parent / "modle", "does not exist", f"Did you mean {copy}?")
    _refused(CheckpointError, copy.parent / "no" / "model", "does not exist")


def test_a_relative_path_is_not_looked_up_on_the_hub(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy.parent.parent)
    _refused(CheckpointError, f"{copy.parent.name}/modle", "does not exist")


def test_a_hub_name_that_cannot_be_had_is_told() -> None:
    _refused(CheckpointError, "nobody-here/no-such-model", "no folder here", "the hub")


def test_a_file_is_no_model(copy: Path) -> None:
    _refused(CheckpointError, copy / "config.json", "is a file")


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    _refused(CheckpointError, copy, "no safetensors weights")
    (copy / "pytorch_model.bin").write_bytes(b"\x80")
    _refused(CheckpointError, copy, "pytorch_model.bin", "save_pretrained")


def test_a_folder_without_config_or_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    _refused(CheckpointError, copy, "no tokenizer")
    (copy / "config.json").write_text("{")
    _refused(CheckpointError, copy, "config.json is not JSON")
    (copy / "config.json").unlink()
    _refused(CheckpointError, copy, "no config.json")


@pytest.mark.parametrize(
    "content",
    [b"\x00" * 40, b"version https://git-lfs.github.com/spec/v1\n"],
    ids=["zeros", "lfs"],
)
def test_weights_that_do_not_load_are_refused(copy: Path, content: bytes) -> None:
    (copy / "model.safetensors").write_bytes(content)
    _refused(CheckpointError, copy, "model.safetensors")


def test_a_broken_tokenizer_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')
    _refused(CheckpointError, copy, "tokenizer", "does not load")


def test_an_unknown_architecture_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "no_such_model"}')
    _refused(CheckpointError, copy, "does not load")


def test_missing_tensors_are_refused_not_made_up(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    _refused(CheckpointError, copy, "1 of the model's tensors", "layers.1.mlp.up_proj.weight")


def test_tensors_of_another_shape_are_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    _refused(CheckpointError, copy, str(copy))


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "gone.safetensors", 5])
def test_an_index_that_leads_elsewhere_is_refused(copy: Path, shard: str | int) -> None:
    index = {"metadata": {}, "weight_map": {"model.norm.weight": shard}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "model.safetensors").rename(copy / "one.safetensors")
    _refused(CheckpointError, copy, "index")


def test_quiet_leaves_everything_as_it_was() -> None:
    from transformers.utils import logging as transformers_logging

    before = (transformers_logging.get_verbosity(), logging.getLogger("peft").level)
    with quiet():
        assert transformers_logging.get_verbosity() == logging.ERROR
    assert (transformers_logging.get_verbosity(), logging.getLogger("peft").level) == before


def test_loading_writes_nothing_to_the_terminal(
    pico: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter = _adapter(tmp_path / "lora", pico, str(pico))
    capfd.readouterr()
    score(load_model(find_model(adapter)), DOCUMENTS)
    assert capfd.readouterr() == ("", "")
