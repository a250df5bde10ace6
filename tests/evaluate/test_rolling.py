import dataclasses
from pathlib import Path

import pytest

from lamina.core.errors import DataError
from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.nouns import Raw, TextItem
from lamina.evaluate.perplexity import score
from lamina.evaluate.portions import cut_items
from lamina.evaluate.rolling import answer_texts, plan_texts
from lamina.evaluate.text import Document

LONG = "the cat sat on the mat, the rat ate the hat and a dog bit the rat"
DOCUMENTS = (
    Document(None, LONG, f" {LONG}"),
    Document(None, "a hat", "a hat"),
    Document(None, "", ""),
    Document("the cat sat on the mat, " * 5, "the rat", "the rat"),
)
ITEMS = tuple(TextItem(str(n), document) for n, document in enumerate(DOCUMENTS))


@pytest.fixture(scope="module")
def model(pico: Path) -> LanguageModel:
    return load_model(find_model(pico))


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("fast", [True, False])
def test_texts_have_the_losses_of_a_perplexity(
    model: LanguageModel, batch_tokens: int, fast: bool
) -> None:
    from lamina.evaluate.ways import ways_of

    wanted = score(model, DOCUMENTS)
    model = dataclasses.replace(model)
    if not fast:
        model.findings.ways = dataclasses.replace(ways_of(model), shared=None, head=None)
    found: dict[str, Raw] = {}
    for portion in plan_texts(model, ITEMS, batch_tokens=batch_tokens):
        found |= answer_texts(model, portion, batch_tokens=batch_tokens)
    model.findings.ways = None
    assert [found[item.id]["loss"] for item in ITEMS] == pytest.approx(wanted.row_sums, rel=1e-6)
    assert tuple(found[item.id]["tokens"] for item in ITEMS) == wanted.row_tokens
    assert sum(raw["words"] for raw in found.values()) == wanted.words
    assert sum(raw["bytes"] for raw in found.values()) == wanted.bytes


def test_lost_tokens_of_a_prompt_are_told_before_anything_runs(model: LanguageModel) -> None:
    plan = plan_texts(model, ITEMS, batch_tokens=30)
    prompt = DOCUMENTS[3].prompt
    assert prompt is not None
    encode = model.tokenizer.encode
    assert cut_items(plan) == {"3": 1 + len(encode(prompt)) + len(encode("the rat")) - 25}


def test_completions_that_do_not_fit_are_named(model: LanguageModel) -> None:
    long = TextItem("z", Document("a", LONG * 2, LONG))
    with pytest.raises(DataError, match=r"item z: a completion that is longer than"):
        plan_texts(model, [*ITEMS, long], batch_tokens=100)
