"""What we need of lm-evaluation-harness 0.4.13: its log-likelihoods, pair by pair, on one model.

The harness's own `HFLM` and `lamina.evaluate.choose` score the same strings, written here by hand:
questions in the form of HellaSwag and MMLU, other letters, contexts that are too long and are cut,
empty ones. Only where lm-eval is installed (`pip install lamina[eval]`).
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import DataError
from lamina.evaluate.choose import answer_choices, plan_choices
from lamina.evaluate.encode import start_of
from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.nouns import ChoiceItem, Pair, TextItem
from lamina.evaluate.rolling import answer_texts, plan_texts
from lamina.evaluate.text import Document
from lamina.evaluate.ways import ways_of

huggingface = pytest.importorskip("lm_eval.models.huggingface")

SUBJECT = "The following are multiple choice questions (with answers) about lamps.\n\n"
LAMPS = (
    f"{SUBJECT}What does a lamp give?\nA. light\nB. sand\nC. milk\nD. wool\nAnswer:",
    f"{SUBJECT}How many lamps are three and two?\nA. 4\nB. 5\nC. 6\nD. 32\nAnswer:",
    f"{SUBJECT}Who lit it — Tomáš, 杜甫?\nA. é\nB. 甫\nC. 😀\nD. none\nAnswer:",
)
SWAG = "Washing dishes: A man stands at a sink. He"
ENDS = (
    " takes a plate and washes it.",
    " takes a plate and eats it, 杜甫.",
    " flies\n\nover the roof",
    " takes",
)
MIXED = (
    ("", "A text with no context"),
    ("", "杜"),
    (" \n", "white space alone before it"),
    ("Question: why?\nAnswer: ", "because"),
    ("Question: why?\nAnswer:\n\t ", " because"),
    ("ends in the middle of a wo", "rd, and goes on"),
    ("emoji 😀", "😀"),
    ("the cat", " sat on the mat " * 3),
    ("A context that is far too long. " * 200, " It is cut."),
    ("A context that is far too long. " * 200, " It is cut, and goes on for longer."),
)
TEXTS = ("A lamp.", "The lamp was lit; the dogs' owner went to the mat. " * 40, "杜甫 wrote")


def _items(model: LanguageModel) -> list[ChoiceItem]:
    start = str(model.tokenizer.decode(start_of(model)))
    rows = [
        *([(question, f" {letter}") for letter in "ABCD"] for question in LAMPS),
        [(SWAG, ending) for ending in ENDS],
        *([pair] for pair in MIXED),
        [(f"{start}begins so", " and goes on"), ("", f"{start}begins so")],
        [("The lamp was lit by Ann because Ann", " was cold."), ("The lamp was lit", " was cold.")],
    ]
    return [
        ChoiceItem(str(n), tuple(Pair(*pair) for pair in pairs), (0,), (1,) * len(pairs), "lamps")
        for n, pairs in enumerate(rows)
    ]


@pytest.fixture(params=["demo", "pico", "pico without bos", "pico that adds bos"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> LanguageModel:
    if request.param == "demo":
        base = importlib.resources.files("lamina") / "demo" / "models" / "base"
        return load_model(find_model(str(base)))
    return load_model(find_model(_save_pico(tmp_path, request.param)), max_length=None)


def _save_pico(folder: Path, kind: str) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += ["th", "at", "Ġth", "ate"]
    merges = [("t", "h"), ("a", "t"), ("Ġ", "th"), ("at", "e")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if kind == "pico that adds bos":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    bos = None if kind == "pico without bos" else "<s>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=160,
        initializer_range=0.4,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def harness(model: LanguageModel) -> Any:
    return huggingface.HFLM(
        pretrained=model.network, tokenizer=model.tokenizer, batch_size=3, device="cpu"
    )


def _instances(kind: Any, strings: Sequence[tuple[str, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, some, number) for number, some in enumerate(strings)]


@pytest.mark.parametrize("batch_tokens", [200, 5000])
def test_every_pair_has_the_likelihood_the_harness_gives_it(
    model: LanguageModel, harness: Any, batch_tokens: int
) -> None:
    assert harness.max_length == model.max_length
    items = _items(model)
    pairs = [(pair.context, pair.continuation) for item in items for pair in item.pairs]
    # The harness stops at a context of white space alone; ours takes it for an empty one.
    theirs = harness.loglikelihood(
        _instances("loglikelihood", [(c if c.strip() else "", f"{'' if c.strip() else c}{a}")
                                     for c, a in pairs]),
        disable_tqdm=True,
    )  # fmt: skip
    found: dict[str, Any] = {}
    plan = plan_choices(model, items, batch_tokens=batch_tokens)
    for portion in plan:
        found |= answer_choices(model, portion)
    assert ways_of(model).shared is not None
    assert any(portion.content.begin > 8 for portion in plan)
    assert sum(raw["cut"] > 0 for raw in found.values()) >= 2
    mine = [
        pair
        for item in items
        for pair in zip(found[item.id]["logprobs"], found[item.id]["greedy"], strict=True)
    ]
    assert [value for value, _ in mine] == pytest.approx([v for v, _ in theirs], rel=2e-6, abs=2e-5)
    assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]
    assert _choices(items, [value for value, _ in mine]) == _choices(items, [v for v, _ in theirs])


def _choices(items: Sequence[ChoiceItem], logprobs: Sequence[float]) -> list[int]:
    values, chosen = iter(logprobs), []
    for item in items:
        own = [next(values) for _ in item.pairs]
        chosen.append(own.index(max(own)))
    return chosen


def test_every_text_has_the_likelihood_the_harness_gives_it(
    model: LanguageModel, harness: Any
) -> None:
    theirs = harness.loglikelihood_rolling(
        _instances("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True
    )
    items = [TextItem(str(n), Document(None, text, text)) for n, text in enumerate(TEXTS)]
    found: dict[str, Any] = {}
    for portion in plan_texts(model, items, batch_tokens=300):
        found |= answer_texts(model, portion)
    assert [-found[item.id]["loss"] for item in items] == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("model", ["pico"], indirect=True)
@pytest.mark.parametrize(
    ("pair", "error"),
    [
        (("the cat", ""), AssertionError),
        (("the cat", "sat on the mat " * 40), AssertionError),
        (("", ""), IndexError),
    ],
)
def test_where_the_harness_stops_we_name_the_item(
    model: LanguageModel, harness: Any, pair: tuple[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        harness.loglikelihood(_instances("loglikelihood", [pair]), disable_tqdm=True)
    with pytest.raises(DataError, match="item z: a continuation"):
        plan_choices(model, [ChoiceItem("z", (Pair(*pair),), (0,), (1,))], batch_tokens=100)
