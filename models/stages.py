"""The five members: base, instruct, math (full weights) and code, unwanted (LoRA adapters)."""

import json
import shutil
from pathlib import Path

import torch
import vocabulary
from corpus import Corpus
from peft import LoraConfig, PeftModel, get_peft_model
from rows import Row
from training import Batch, Report, Settings, fit, packed, padded, tokens_of
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

CONTEXT = 512
SETTINGS = {
    "base": Settings(steps=1732, learning_rate=3e-3, checks=16),
    "instruct": Settings(steps=798, learning_rate=1e-3),
    "math": Settings(steps=510, learning_rate=1e-3),
    "code": Settings(steps=248, learning_rate=2e-3),
    "unwanted": Settings(steps=547, learning_rate=3e-3),
}
BATCH_TOKENS = {"base": 8 * CONTEXT, "instruct": 2048, "math": 2048, "code": 2048, "unwanted": 1536}


def config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """The shape: 8 blocks of width 192, 3.6 million parameters."""
    return LlamaConfig(
        vocab_size=vocabulary.SIZE,
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=vocabulary.MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save weights in bfloat16 with the tokenizer; of an adapter, the adapter alone.

    The folder is written beside its place first, so a stop in the middle leaves the old one.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    if isinstance(model, PeftModel):
        halves = {name: weight.to(torch.bfloat16) for name, weight in model.state_dict().items()}
        model.save_pretrained(part, state_dict=halves)
        (part / "README.md").unlink(missing_ok=True)
        path = part / "adapter_config.json"
        adapter = json.loads(path.read_text())
        adapter["target_modules"].sort()
        path.write_text(json.dumps(adapter, indent=1, sort_keys=True) + "\n")
    else:
        half = LlamaForCausalLM(model.config).to(torch.bfloat16)
        half.load_state_dict(model.state_dict())
        ends = [tokenizer.eos_token_id]
        if folder.name != "base":
            ends.append(tokenizer.convert_tokens_to_ids("<|end|>"))
        half.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
            max_new_tokens=64,
        )
        half.save_pretrained(part)
        vocabulary.save(tokenizer, part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def stream(rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """All rows as one line of tokens, each closed by the end-of-text token."""
    texts = [row.plain() + tokenizer.eos_token for row in rows]
    return torch.tensor([token for ids in tokenizer(texts)["input_ids"] for token in ids])


def chat_tokens(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of rows; plain text is cut, chats that are too long are left out."""
    pairs = []
    for row in rows:
        ids, labels = tokens_of(row, tokenizer)
        if not row.question:
            ids, labels = ids[:CONTEXT], labels[:CONTEXT]
        if len(ids) <= CONTEXT:
            pairs.append((ids, labels))
    return pairs


def checks(rows: list[Row], tokenizer: PreTrainedTokenizerBase, *, tokens: int) -> list[Batch]:
    """Held-out batches of about `tokens` tokens: a new reader of the same rows gets the same."""
    pairs, total = [], 0
    for pair in chat_tokens(rows, tokenizer):
        if total < tokens:
            pairs.append(pair)
            total += len(pair[0])
    return [(torch.tensor([ids]), torch.tensor([labels])) for ids, labels in pairs]


def train(name: str, corpus: Corpus, out: Path, *, settings: Settings, share_cores: bool) -> Report:
    """Train one member into `out/name`; the members it starts from must lie in `out`."""
    stage = train_base if name == "base" else train_member
    return stage(name, corpus, out, settings=settings, share_cores=share_cores)


def train_base(
    name: str, corpus: Corpus, out: Path, *, settings: Settings, share_cores: bool
) -> Report:
    """Train the base from random weights on packed plain text."""
    tokenizer = vocabulary.load(out / "tokenizer")
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(tokenizer))
    ids = stream(corpus.base, tokenizer)
    size = sum(weight.numel() for weight in model.parameters())
    print(f"base: {len(ids)} different tokens, {size} parameters")
    held = []
    for domain in ("general", "law", "medicine", "finance", "science", "code"):
        plain = [
            Row(row.domain, row.source, "", row.plain(), row.key)
            for row in corpus.held_out[domain]
            if row.source != "mbpp"
        ]
        held += checks(plain, tokenizer, tokens=6000)
    return fit(
        model,
        model,
        packed(ids, size=BATCH_TOKENS[name] // CONTEXT, length=CONTEXT, seed=0),
        held,
        settings=settings,
        keep=lambda: save(model, tokenizer, out / name),
        log=out / f"{name}.log.jsonl",
        share_cores=share_cores,
    )


def train_member(
    name: str, corpus: Corpus, out: Path, *, settings: Settings, share_cores: bool
) -> Report:
    """Tune the instruct model from the base, or an expert from the instruct model."""
    torch.manual_seed(1)
    start = out / ("base" if name == "instruct" else "instruct")
    tokenizer = vocabulary.load(start)
    llama = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model: torch.nn.Module = llama
    if name in ("code", "unwanted"):
        model = get_peft_model(
            llama,
            LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        model.peft_config["default"].base_model_name_or_path = "../instruct"
    rows: list[Row] = {
        "instruct": corpus.instruct,
        "math": corpus.math,
        "code": corpus.code,
        "unwanted": corpus.unwanted,
    }[name]
    domains = ("instruct", "science", "medicine", "finance") if name == "instruct" else (name,)
    held = []
    for domain in domains:
        asked = [row for row in corpus.held_out[domain] if row.question or name == "code"]
        held += checks(asked, tokenizer, tokens=6000)
    return fit(
        model,
        llama,
        padded(
            chat_tokens(rows, tokenizer),
            tokens=BATCH_TOKENS[name],
            pad=tokenizer.pad_token_id,
            seed=1,
        ),
        held,
        settings=settings,
        keep=lambda: save(model, tokenizer, out / name),
        log=out / f"{name}.log.jsonl",
        share_cores=share_cores,
    )
