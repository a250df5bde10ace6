"""The tokenizer: byte-level BPE with 4096 entries, single digits, and a chat template."""

import json
from collections.abc import Iterable
from pathlib import Path

from rows import ASSISTANT, END, PAD, STOP, USER
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SIZE = 4096
MAX_POSITIONS = 1024
WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def train(texts: Iterable[str], folder: Path) -> PreTrainedTokenizerBase:
    """Learn the merges from the texts and save an ordinary fast tokenizer in the folder."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=SIZE,
            special_tokens=[STOP, PAD, USER, ASSISTANT, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    assert raw.get_vocab_size() == SIZE, raw.get_vocab_size()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    save(tokenizer, folder)
    return load(folder)


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save `tokenizer.json` and a `tokenizer_config.json` that transformers 4 and 5 both read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False,
        "additional_special_tokens": [USER, ASSISTANT, END],
        "bos_token": STOP,
        "chat_template": CHAT,
        "clean_up_tokenization_spaces": False,
        "eos_token": STOP,
        "model_max_length": MAX_POSITIONS,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def load(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder."""
    return AutoTokenizer.from_pretrained(folder)
