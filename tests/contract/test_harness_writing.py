"""What lm-evaluation-harness 0.4.13 writes, we write: `HFLM.generate_until`, text for text.

Greedy choice is decided by the largest logit, so the last bits of float arithmetic, which padding
moves, could exchange two tokens of the same likelihood. The models here have no such ties: pico
models with large random weights, and the demo's.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.nouns import WriteItem
from lamina.evaluate.write import answer_writing, plan_writing

DEMO = Path(__file__).parents[2] / "src" / "lamina" / "demo" / "models" / "instruct"
PROMPTS = (
    "the cat",
    "a hat, a mat; the rat ate",
    "x",
    "12 + 30 =",
    "Ünïcode: 杜甫 wrote 🙂 poems",
    "the cat sat on the mat " * 9,
    "\n\nQ: why?\nA:",
    "of " * 41,
)
TOKENIZERS = ("adds bos", "has bos", "has eos")
KINDS = (*(f"llama, {kind}" for kind in TOKENIZERS), "gpt2, has eos")
LONGEST, WRITTEN = 64, 24


def save(folder: Path, family: str, kind: str) -> Path:
    """A model of two blocks and 64 positions with a byte-level tokenizer of a few merges."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "c")]
    pieces = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += ["".join(merge) for merge in merges]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in pieces[:3]])
    if kind == "adds bos":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None if kind == "has eos" else "<s>",
        eos_token="</s>",
        pad_token="<pad>",
    ).save_pretrained(folder)
    known: dict[str, Any] = {
        "vocab_size": len(pieces),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "initializer_range": 0.6,
    }
    sizes: dict[str, dict[str, Any]] = {
        "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2,
                  "max_position_embeddings": LONGEST},
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LONGEST},
    }  # fmt: skip
    torch.manual_seed(4)
    config = AutoConfig.for_model(family, **known, **sizes[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("pico"), *request.param.split(", "))


@cache
def their_model(folder: Path, batch: int) -> Any:
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="lamina[eval] only")
    return huggingface.HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch)


def harness(
    folder: Path, prompts: Sequence[str], stops: Sequence[str], *, batch: int, written: int
) -> list[str]:
    """The harness's texts."""
    model = their_model(folder, batch)
    from lm_eval.api.instance import Instance

    asked = {"until": list(stops), "max_gen_toks": written, "do_sample": False, "temperature": 0.0}
    requests = [Instance("generate_until", {}, (text, dict(asked)), i)
                for i, text in enumerate(prompts)]  # fmt: skip
    return model.generate_until(requests, disable_tqdm=True)


@cache
def loaded(folder: Path) -> LanguageModel:
    return load_model(find_model(folder))


def ours(
    folder: Path, prompts: Sequence[str], stops: Sequence[str], *, written: int
) -> list[dict[str, Any]]:
    """Our answers, all prompts in one portion."""
    model = loaded(folder)
    items = [WriteItem(str(i), text, tuple(stops), written, "") for i, text in enumerate(prompts)]
    (portion,) = plan_writing(model, items, batch_tokens=4096)
    answers = answer_writing(model, portion)
    return [dict(answers[item.id]) for item in items]


def texts(answers: Sequence[dict[str, Any]]) -> list[str]:
    return [answer["texts"][0] for answer in answers]


@pytest.mark.parametrize("batch", [1, 8])
def test_texts_are_the_harness_s_until_eos_or_the_last_token(folder: Path, batch: int) -> None:
    found = ours(folder, PROMPTS, (), written=WRITTEN)
    assert texts(found) == harness(folder, PROMPTS, (), batch=batch, written=WRITTEN)
    assert [answer["cut"] > 0 for answer in found].count(True) == 2, "prompts that are too long"
    assert len(set(texts(found))) > 4, "texts that tell prompts apart"


@pytest.mark.parametrize("batch", [1, 8])
def test_texts_are_the_harness_s_with_every_kind_of_stop_string(folder: Path, batch: int) -> None:
    """Stop strings are taken from what the model writes: one letter, its first, parts, none."""
    free = [text for text in texts(ours(folder, PROMPTS, (), written=WRITTEN)) if len(text) > 8]
    assert len(free) > 2
    stops = {
        "first": (free[0][0],),
        "spans tokens": (free[0][3:7], free[1][2:6]),
        "never": ("not written by anyone",),
        "eos too": ("</s>", free[1][:2]),
    }
    if batch == 1:  # in a batch the harness writes on, and may then cut at another one
        stops["inside"] = (free[2][1:8], free[2][3:5])
        stops["overlap"] = (free[0][4:7], free[0][2:6], free[1][5:6])
    ends = set()
    for name, strings in stops.items():
        found = ours(folder, PROMPTS, strings, written=WRITTEN)
        wanted = harness(folder, PROMPTS, strings, batch=batch, written=WRITTEN)
        assert texts(found) == wanted, name
        ends |= {answer["ended"][0] for answer in found}
        if name == "first":
            assert "" in wanted
    assert {"stop", "length"} <= ends


def test_a_prompt_that_begins_with_bos_gets_no_second_one(folder: Path) -> None:
    prompts = ["<s>the cat", "<s>12", "<s></s>"]
    found = ours(folder, prompts, (), written=WRITTEN)
    assert texts(found) == harness(folder, prompts, (), batch=1, written=WRITTEN)


@pytest.mark.parametrize("batch", [1, 8])
def test_the_demo_model_writes_what_the_harness_has_it_write(batch: int) -> None:
    prompts = [
        "Question: Tom has 3 apples and buys 4 more. How many has he?\nAnswer:",
        "Question: What is 12 + 30?\nAnswer:",
        "The river runs past the old mill, and",
        "def add(a, b):\n    return",
        "Question: " + "There were 5 birds. " * 60 + "\nAnswer:",
        "杜甫",
    ]
    stops = ("Question:", "</s>", "\n\n")
    found = ours(DEMO, prompts, stops, written=256)
    assert texts(found) == harness(DEMO, prompts, stops, batch=batch, written=256)
    ends = [answer["ended"][0] for answer in found]
    assert "length" in ends
    assert len(set(ends)) > 1
    own = loaded(DEMO).network.generation_config.max_new_tokens
    assert max(answer["tokens"][0] for answer in found) == own == 64, "the model's own setting"
