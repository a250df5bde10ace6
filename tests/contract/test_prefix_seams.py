"""What `engine/prefix.py` relies on in transformers, PEFT and torch's checkpointing.

Each test is one fact about them; ours is not in it.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

SIZE = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
IDS = torch.arange(12).reshape(2, 6)
NOT_REENTRANT = {"use_reentrant": False}


def network(kind: str = "llama") -> Any:
    config = AutoConfig.for_model(kind, **SIZE, **TOKENS, num_attention_heads=2, use_cache=False)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).train()


def adapted(model: Any) -> Any:
    """LoRA in the last block."""
    return get_peft_model(model, LoraConfig(r=2, target_modules=["layers.2.mlp.up_proj"]))


def hooks(model: Any) -> list[str]:
    """Names of the forward hooks on the input embedding."""
    embedding = model.get_input_embeddings()
    return [hook.__name__ for hook in embedding._forward_hooks.values()]


def count_runs(block: nn.Module) -> list[int]:
    """Grows by one for each pass through the block's feed-forward, computed again or not."""
    runs: list[int] = []
    block.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def test_switching_checkpointing_on_hooks_the_embedding_whatever_is_trained() -> None:
    model = network()
    model.requires_grad_(False)
    assert hooks(model) == []
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=NOT_REENTRANT)
    assert hooks(model) == ["make_inputs_require_grads"]
    assert model(input_ids=IDS).logits.requires_grad  # though nothing is trained


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_hooks_a_checkpointed_model_once_more_and_one_switch_takes_one_hook_off() -> None:
    model = network()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=NOT_REENTRANT)
    tuned = adapted(model)
    assert hooks(tuned) == ["make_inputs_require_grads"] * 2
    model.disable_input_require_grads()
    assert hooks(tuned) == ["make_inputs_require_grads"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_does_not_hook_a_model_that_is_not_checkpointed() -> None:
    assert hooks(adapted(network())) == []


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(("hooked", "runs"), [(True, [2, 2, 2]), (False, [1, 1, 2])])
def test_the_hook_alone_makes_frozen_blocks_run_again(hooked: bool, runs: list[int]) -> None:
    """Without it a checkpointed block in which nothing has a gradient runs once."""
    model = network()
    tuned = adapted(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=NOT_REENTRANT)
    if not hooked:
        model.disable_input_require_grads()
    counted = [count_runs(block) for block in model.model.layers]
    tuned(input_ids=IDS).logits.sum().backward()
    assert [len(run) for run in counted] == runs
    assert all(p.grad is not None for n, p in tuned.named_parameters() if "lora_" in n)


def test_the_trainer_switches_checkpointing_on_before_training_begins(tmp_path: Path) -> None:
    class Rows(Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"input_ids": IDS[index], "labels": IDS[index]}

    class Looking(TrainerCallback):
        def __init__(self) -> None:
            self.found: list[str] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.found = hooks(kwargs["model"])

    model, looking = network(), Looking()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
        save_strategy="no", activation_checkpointing=True,
        activation_checkpointing_kwargs=NOT_REENTRANT, per_device_train_batch_size=2,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[looking])
    trainer.remove_callback(PrinterCallback)
    assert hooks(model) == []
    trainer.train()
    assert looking.found == ["make_inputs_require_grads"]


def test_a_forward_set_on_a_block_stands_before_its_class_and_its_checkpoint() -> None:
    model = network()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=NOT_REENTRANT)
    block = model.model.layers[0]
    runs = count_runs(block)
    block.forward = lambda hidden, **_: hidden
    model(input_ids=IDS)
    assert not runs
    del block.forward
    model(input_ids=IDS)
    assert len(runs) == 1


@pytest.mark.parametrize(("kind", "path", "gives"), [
    ("llama", "model.layers", torch.Tensor), ("gpt_neox", "gpt_neox.layers", torch.Tensor),
    ("gpt2", "transformer.h", torch.Tensor), ("bloom", "transformer.h", tuple),
])  # fmt: skip
def test_what_a_block_gives(kind: str, path: str, gives: type) -> None:
    model = network(kind)
    seen: list[Any] = []
    model.get_submodule(path)[0].register_forward_hook(lambda _, args, out: seen.append(out))
    model(input_ids=IDS)
    assert isinstance(seen[0], gives)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_exception_in_a_block_leaves_the_model_as_it_was() -> None:
    """Forward passes are ended early by one."""
    model = adapted(network()).eval()
    before = model(input_ids=IDS).logits

    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    handle = model.base_model.model.model.layers[1].register_forward_pre_hook(stop)
    with pytest.raises(Enough):
        model(input_ids=IDS)
    handle.remove()
    assert model(input_ids=IDS).logits.equal(before)
