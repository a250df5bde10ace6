"""Chat templates in the manner of well-known models, and pico tokenizers that fit them."""

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lamina.data.encode import Counts, Examples, encode
from lamina.data.formats import Record, Turn
from lamina.data.templates import choose_template

LINES = [
    "the cat sat on the mat",
    "What is the sum of 2 and 2? It is 4.\n\n\nAnswer:   yes\n\n\n",  # "\n\n" becomes a token
] * 4

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""CHATML with marks round what the assistant writes."""
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
"""Puts an EOS behind the last turn only: no beginning of a longer conversation has it."""
THINKING = (
    "{% for m in messages %}{% set said = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + said + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Takes the thinking out of all turns but the last, as Qwen3's does."""
TEMPLATES = {
    "llama3": (LLAMA3, "<|eot_id|>"),
    "chatml": (CHATML, "<|im_end|>"),
    "marked": (MARKED, "<|im_end|>"),
    "mistral": (MISTRAL, "</s>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "phi3": (PHI3, "<|end|>"),
}
"""Name -> (Jinja, end-of-turn token)."""
SPECIALS = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>",
    "<|end|>",
]  # fmt: skip


@cache
def byte_level(
    *,
    template: str | None = None,
    bos: bool = True,
    adds_bos: bool = False,
    eos: bool = True,
    trims: bool = False,
) -> Any:
    """Byte-level BPE, as Llama 3, Qwen and GPT-2 have it. `trims`: places leave blanks out."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    begin = "<s> $A" if adds_bos else "$A"
    steps = [processors.ByteLevel(trim_offsets=trims)]
    steps.append(processors.TemplateProcessing(single=begin, special_tokens=[("<s>", 0)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return _wrapped(tokenizer, template, bos=bos, eos=eos)


@cache
def metaspace(*, template: str | None = None, adds_bos: bool = True) -> Any:
    """BPE with `▁` for blanks and bytes for rare letters, as Llama 2, Mistral and Gemma have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*SPECIALS, "<unk>", *bytes_of],
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    begin = "<s> $A" if adds_bos else "$A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=begin, special_tokens=[("<s>", 0)]
    )
    return _wrapped(tokenizer, template, bos=True, eos=True)


def _wrapped(tokenizer: Tokenizer, template: str | None, *, bos: bool, eos: bool) -> Any:
    """transformers' tokenizer round one of `tokenizers`."""
    names = {"bos_token": "<s>"} if bos else {}
    names |= {"eos_token": "</s>"} if eos else {}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = template
    return wrapped


def talk(*contents: str, place: str = "rows.jsonl:1", system: str | None = None) -> Record:
    """A conversation: user and assistant in turn."""
    turns = [Turn("system", system)] if system is not None else []
    turns += [Turn(("user", "assistant")[n % 2], said) for n, said in enumerate(contents)]
    return Record(tuple(turns), None, place)


def text(content: str, place: str = "texts.jsonl:1") -> Record:
    return Record(None, content, place)


def encoded(
    records: list[Record],
    tokenizer: Any,
    *,
    chosen: str | None = None,
    max_length: int = 4096,
    too_long: Any = "truncate",
) -> tuple[Examples, Counts]:
    template = choose_template(chosen, tokenizer, home=Path())
    return encode(records, tokenizer, max_length=max_length, template=template, too_long=too_long)


def ids_of(examples: Examples, number: int = 0) -> list[int]:
    return examples.ids[examples.starts[number] : examples.starts[number + 1]].tolist()


def trained_of(examples: Examples, number: int = 0) -> list[bool]:
    return examples.trained[examples.starts[number] : examples.starts[number + 1]].tolist()


def trained_text(examples: Examples, tokenizer: Any, number: int = 0) -> str:
    pairs = zip(ids_of(examples, number), trained_of(examples, number), strict=True)
    ids = [token for token, trained in pairs if trained]
    return tokenizer.decode(ids, skip_special_tokens=False)


def rendered_ids(record: Record, tokenizer: Any, **settings: Any) -> list[int]:
    """The tokens of a conversation by transformers itself."""
    assert record.turns is not None
    messages = [{"role": turn.role, "content": turn.content} for turn in record.turns]
    return tokenizer.apply_chat_template(messages, return_dict=False, **settings)
