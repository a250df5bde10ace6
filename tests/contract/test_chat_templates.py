"""What `data/templates.py` and `data/encode.py` need of transformers' and tokenizers' chat."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "data"))

from chat_kit import CHATML, MARKED, TEMPLATES, byte_level, metaspace, talk
from transformers.utils.chat_template_utils import render_jinja_template

from lamina.data.encode import encode
from lamina.data.templates import choose_template

RECORD = talk("Is it 4?", "It is 😀,\n\n na\u00efve one.", "And the cat?", "It sat")
MESSAGES = [{"role": t.role, "content": t.content} for t in RECORD.turns or ()]


def encoded(tokenizer):
    template = choose_template(None, tokenizer, home=Path())
    examples, counts = encode(
        [RECORD], tokenizer, max_length=4096, template=template, too_long="truncate"
    )
    assert counts.merged_borders == 0
    return examples


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [False, True], ids=["whole", "asked"])
def test_a_rendered_chat_is_that_of_apply_chat_template(name, prompt):
    tokenizer = byte_level(template=TEMPLATES[name][0])
    template = choose_template(None, tokenizer, home=Path())
    assert template is not None
    turns = (RECORD.turns or ())[: 3 if prompt else 4]
    assert template.render(turns, prompt=prompt)[0] == tokenizer.apply_chat_template(
        MESSAGES[: len(turns)], tokenize=False, add_generation_prompt=prompt
    )


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("make", [byte_level, metaspace], ids=["byte_level", "metaspace"])
def test_a_chat_is_tokenised_without_the_tokenizers_own_bos(name, make):
    tokenizer = make(template=TEMPLATES[name][0], adds_bos=True)
    rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    ids = tokenizer.apply_chat_template(MESSAGES, return_dict=False)
    assert tokenizer([rendered], add_special_tokens=False, verbose=False)["input_ids"] == [ids]
    assert encoded(tokenizer).ids.tolist() == ids


@pytest.mark.parametrize("make", [byte_level, metaspace], ids=["byte_level", "metaspace"])
def test_the_mask_of_assistant_tokens_is_what_we_train(make):
    tokenizer = make(template=MARKED)
    theirs = tokenizer.apply_chat_template(MESSAGES, return_assistant_tokens_mask=True)
    assert encoded(tokenizer).trained.tolist() == [bool(one) for one in theirs["assistant_masks"]]
    # Without marks we find the same by rendering beginnings of the conversation.
    assert encoded(make(template=CHATML)).trained.tolist() == encoded(tokenizer).trained.tolist()


def test_the_mask_of_assistant_tokens_loses_a_turn_that_begins_with_a_trimmed_blank():
    # Why the marks' places become tokens in our own code: no token is at a trimmed place.
    tokenizer = byte_level(template=MARKED, trims=True)
    messages = [MESSAGES[0], {"role": "assistant", "content": " yes"}]
    theirs = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
    assert not any(theirs["assistant_masks"])


def test_marks_are_places_in_the_text():
    texts, marks = render_jinja_template(
        conversations=[MESSAGES], chat_template=MARKED, return_assistant_tokens_mask=True
    )
    assert [texts[0][start:end] for start, end in marks[0]] == [
        "It is 😀,\n\n na\u00efve one.<|im_end|>",
        "It sat<|im_end|>",
    ]


def test_an_empty_conversation_is_rendered_in_a_batch():
    texts, _ = render_jinja_template(
        conversations=[[]], chat_template=CHATML, add_generation_prompt=True
    )
    assert texts == ["<|im_start|>assistant\n"]


def test_a_compiled_template_is_kept():
    from transformers.utils.chat_template_utils import _compile_jinja_template

    render_jinja_template(conversations=[MESSAGES], chat_template=CHATML)
    before = _compile_jinja_template.cache_info().hits
    render_jinja_template(conversations=[MESSAGES], chat_template=CHATML)
    assert _compile_jinja_template.cache_info().hits == before + 1


@pytest.mark.parametrize("trims", [False, True], ids=["", "trims"])
def test_every_token_has_a_place_and_places_never_go_back(trims):
    tokenizer = byte_level(template=CHATML, trims=trims)
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    encoding = tokenizer([text], add_special_tokens=False).encodings[0]
    places = [encoding.token_to_chars(token) for token in range(len(encoding))]
    assert all(place is not None for place in places)
    assert [place[0] for place in places] == sorted(place[0] for place in places)
    assert [place[1] for place in places] == sorted(place[1] for place in places)


def test_the_bytes_of_one_character_all_have_its_place():
    encoding = byte_level()(["a😀b"], add_special_tokens=False).encodings[0]
    assert [encoding.token_to_chars(n) for n in range(6)] == [(0, 1), *[(1, 2)] * 4, (2, 3)]


def test_trimmed_places_leave_the_blank_before_a_word_out():
    encoding = byte_level(trims=True)(["cat mat"], add_special_tokens=False).encodings[0]
    starts = [encoding.token_to_chars(n)[0] for n in range(len(encoding))]
    assert 3 not in starts
    assert 4 in starts
