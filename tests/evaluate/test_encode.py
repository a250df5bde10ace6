import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from lamina.core.errors import CheckpointError, DataError
from lamina.evaluate.encode import encode_pairs, encode_questions
from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.nouns import ChoiceItem, Pair


@pytest.fixture(scope="module")
def model(pico: Path) -> LanguageModel:
    return load_model(find_model(pico))


def _item(id_: str, *pairs: tuple[str, str]) -> ChoiceItem:
    return ChoiceItem(id_, tuple(Pair(*pair) for pair in pairs), (0,), (1,) * len(pairs))


def test_a_pair_is_encoded_together_and_split_after_its_context(model: LanguageModel) -> None:
    encode = model.tokenizer.encode
    ((context, continuation),) = encode_pairs(model, [Pair("the c", "at sat")])
    assert list(context) == encode("the c")
    assert list(continuation) == encode("the cat sat")[len(context) :]
    assert list(continuation) != encode("at sat")


def test_white_space_at_the_end_of_a_context_goes_to_the_continuation(
    model: LanguageModel,
) -> None:
    pairs = [Pair("the cat \n", "sat"), Pair("the cat", " \nsat")]
    assert len(set(encode_pairs(model, pairs))) == 1


@pytest.mark.parametrize("context", ["", " ", "\n "])
def test_without_a_context_a_continuation_follows_the_start_token(
    model: LanguageModel, context: str
) -> None:
    ((first, second),) = encode_pairs(model, [Pair(context, "hat")])
    assert first == (0,)
    assert list(second) == model.tokenizer.encode(f"{context}hat")


def test_a_continuation_that_begins_with_the_start_token_needs_no_other(
    model: LanguageModel,
) -> None:
    assert encode_pairs(model, [Pair("", "<s>a")]) == [
        ((0,), encode_pairs(model, [Pair("", "a")])[0][1])
    ]


def test_special_tokens_are_added_unless_the_text_begins_so(model: LanguageModel) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = model.tokenizer.__class__.from_pretrained(model.tokenizer.name_or_path)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    adding = dataclasses.replace(model, tokenizer=tokenizer)
    plain, begun = encode_pairs(adding, [Pair("the", " cat"), Pair("<s>the", " cat")])
    assert plain == begun
    assert plain[0][0] == 0
    assert plain[0][1] != 0


def test_a_long_context_loses_its_beginning(model: LanguageModel) -> None:
    item = _item("long", ("the cat sat on the mat, " * 9, " hat"), ("a", " hat"))
    (question,) = encode_questions(model, [item])
    tokens = model.tokenizer.encode(item.pairs[0].context + " hat")
    assert question.windows[0].tokens == tuple(tokens[-25:])
    assert question.cut == len(tokens) - 25


def test_continuations_that_cannot_be_scored_are_named(model: LanguageModel) -> None:
    good = _item("good", ("a", " hat"))
    with pytest.raises(DataError, match=r"2 items \(x, y\): a continuation that adds no token"):
        encode_questions(model, [good, _item("x", ("a", "")), _item("y", ("b", ""), ("c", ""))])
    with pytest.raises(DataError, match=r"item z: a continuation that is longer than .* \(24"):
        encode_questions(model, [good, _item("z", ("a", "qzqz" * 9))])


def test_tokens_the_model_does_not_have_are_refused(make_model: Callable[..., Path]) -> None:
    model = load_model(find_model(make_model(vocab=100)))
    with pytest.raises(DataError, match=r"item é: the tokenizer gives token .* knows 100 tokens"):
        encode_questions(model, [_item("é", ("a", " hat"))])


def test_a_tokenizer_without_a_start_is_refused(model: LanguageModel) -> None:
    with pytest.raises(CheckpointError, match="neither a BOS nor an EOS"):
        encode_pairs(dataclasses.replace(model, start=None), [Pair("", "a")])
