"""What scoring needs of every architecture: batches padded on the right, without a mask and with
only the last outputs kept, give the loss of one plain pass over each text alone.
"""

from pathlib import Path
from typing import Any

import pytest

from lamina.evaluate.models import find_model, load_model
from lamina.evaluate.perplexity import score
from lamina.evaluate.text import Document

SIZES: dict[str, Any] = {"vocab_size": 260, "pad_token_id": None}
WIDE = {**SIZES, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {**WIDE, "num_attention_heads": 2, "max_position_embeddings": 32}
GROUPED = {**HEADS, "num_key_value_heads": 1}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 5.0},
    "mistral": {**GROUPED, "sliding_window": 8},
    "phi3": GROUPED,
    "gpt2": {**SIZES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "gpt_neox": HEADS,
    "opt": {**HEADS, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "bloom": {**SIZES, "hidden_size": 16, "n_layer": 2, "n_head": 2},
    "mixtral": {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1},
    "olmo2": GROUPED,
    "falcon": {**SIZES, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
               "alibi": True, "max_position_embeddings": 32},
    "mamba": {**SIZES, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip

DOCUMENTS = (
    Document(None, "a text of more than thirty-two bytes, so two windows", "x"),
    Document(None, "a short one", "x"),
    Document("prompt: ", "answer", "x"),
    Document("a much longer prompt: ", "b", "x"),
)


def _save(folder: Path, family: str) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=32
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, bos_token_id=0, eos_token_id=1, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_and_alone_give_one_loss(tmp_path: Path, family: str) -> None:
    import torch

    model = load_model(find_model(_save(tmp_path, family)))
    network: Any = model.network
    wanted = []
    for document in DOCUMENTS[1:]:
        tokens = model.tokenizer.encode(f"{document.prompt or ''}{document.text}")
        scored = len(model.tokenizer.encode(document.text))
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([[0, *tokens]])).logits[0, :-1].double()
        losses = -torch.log_softmax(logits, -1)[range(len(tokens)), tokens]
        wanted.append(float(losses[-scored:].sum()))
    assert model.max_length == 32
    together = score(model, DOCUMENTS)
    assert together.row_tokens == (52, 11, 6, 1)
    assert together.row_sums[1:] == pytest.approx(wanted, rel=1e-6)
    assert together.row_sums == pytest.approx(
        score(model, DOCUMENTS, batch_tokens=1).row_sums, rel=1e-6
    )
