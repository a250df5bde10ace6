"""Pico models made on the spot: a byte-level tokenizer and a Llama of a few thousand weights."""

from collections.abc import Callable
from pathlib import Path

import pytest


def save_tokenizer(folder: Path, *, bos: bool) -> None:
    """Byte-level BPE trained on a line of text; BOS is known to it, if asked, but not added."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat, the rat ate the hat"] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves a pico model and gives its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(*, seed: int = 0, bos: bool = True, vocab: int = 280, positions: int = 24) -> Path:
        folder = tmp_path_factory.mktemp("pico")
        save_tokenizer(folder, bos=bos)
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=positions,
            initializer_range=0.5,
            bos_token_id=0,
            eos_token_id=1,
        )
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def pico(make_model: Callable[..., Path]) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def other(make_model: Callable[..., Path]) -> Path:
    return make_model(seed=1)
