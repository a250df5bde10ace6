"""What is trained of a conversation and of a text: the completions and their ends, no more."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from chat_kit import (
    CHATML,
    MARKED,
    TEMPLATES,
    byte_level,
    encoded,
    ids_of,
    metaspace,
    rendered_ids,
    talk,
    text,
    trained_of,
    trained_text,
)
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers
from transformers import PreTrainedTokenizerFast

import lamina
from lamina.data.encode import Counts
from lamina.data.formats import Record, Turn
from lamina.data.templates import choose_template

INSTRUCT = Path(lamina.__file__).parent / "demo" / "models" / "instruct"


# Which tokens are trained


@pytest.mark.parametrize("trims", [False, True], ids=["", "trims"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_all_assistant_turns_and_their_end_marks_are_trained_and_nothing_else(name, trims):
    template, end = TEMPLATES[name]
    tokenizer = byte_level(template=template, trims=trims)
    record = talk("Is it 4?", "It is,\n\n naïve 😀 one.", "And the cat?", "It sat on the mat")
    examples, counts = encoded([record], tokenizer)
    said = f"It is,\n\n naïve 😀 one.{end}It sat on the mat{end}"
    blank = " " if name == "mistral" else ""
    assert trained_text(examples, tokenizer) == blank + said.replace(end, end + blank, 1)
    assert ids_of(examples) == rendered_ids(record, tokenizer)
    assert counts == Counts(records=1, examples=1)
    assert examples.num_bytes.tolist() == [
        len("It is,\n\n naïve 😀 one.It sat on the mat".encode()) + 2 * len(blank)
    ]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_tokenizer_with_blanks_as_letters_trains_the_same(name):
    template, end = TEMPLATES[name]
    tokenizer = metaspace(template=template)
    record = talk("Is it 4?", "It is a naïve 😀 one.", "And the cat?", "It sat")
    examples, counts = encoded([record], tokenizer)
    blank = " " if name == "mistral" else ""
    assert (
        trained_text(examples, tokenizer) == f"{blank}It is a naïve 😀 one.{end}{blank}It sat{end}"
    )
    assert ids_of(examples) == rendered_ids(record, tokenizer)
    assert counts == Counts(records=1, examples=1)


@pytest.mark.parametrize("chosen", [None, "chatml", "alpaca", "plain"], ids=str)
def test_the_shipped_tokenizer_trains_completions_and_end_marks(chosen):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(INSTRUCT)
    record = talk(
        "What is 2 + 2?", "It is 4.", "And twice that?", "8, of course.", system="Be kind"
    )
    end = "<|end|>" if chosen is None else "<|endoftext|>"
    examples, counts = encoded([record], tokenizer, chosen=chosen)
    assert trained_text(examples, tokenizer) == f"It is 4.{end}8, of course.{end}"
    assert counts == Counts(records=1, examples=1)
    if chosen is None:
        assert ids_of(examples) == rendered_ids(record, tokenizer)


contents = st.text(alphabet="ab \n.é😀'<|", min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize("trims", [False, True], ids=["", "trims"])
@given(data=st.data())
def test_trained_is_what_stands_in_the_turns_but_for_merged_borders(trims, data):
    tokenizer = byte_level(template=CHATML, trims=trims)
    said = data.draw(st.lists(contents, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0))
    record = talk(*said)
    examples, counts = encoded([record], tokenizer)
    assert ids_of(examples) == rendered_ids(record, tokenizer)
    trained = trained_text(examples, tokenizer)
    assert trained.count("<|im_end|>") >= len(said) // 2
    whole = "".join(f"{answer}<|im_end|>" for answer in said[1::2])
    if counts.merged_borders == 0:
        assert trained == whole
        assert examples.num_bytes.tolist() == [sum(len(one.encode()) for one in said[1::2])]
    else:
        assert len(trained) < len(whole)
        assert examples.num_bytes[0] < sum(len(one.encode()) for one in said[1::2])


@given(st.lists(contents, min_size=2, max_size=2))
def test_the_model_when_asked_reads_the_tokens_it_was_trained_behind(said):
    tokenizer = byte_level(template=CHATML)
    record = talk(*said)
    assert record.turns is not None
    examples, counts = encoded([record], tokenizer)
    asked = Record(record.turns[:1], None, "asked")
    prompt = rendered_ids(asked, tokenizer, add_generation_prompt=True)
    first = trained_of(examples).index(True)
    agree = ids_of(examples)[:first] == prompt
    assert agree == (counts.merged_borders == 0)


@pytest.mark.parametrize("trims", [False, True], ids=["", "trims"])
def test_a_token_over_the_border_of_prompt_and_answer_is_not_trained(trims):
    tokenizer = byte_level(template=CHATML, trims=trims)
    record = talk("Is it 4?", "\n\nyes")
    examples, counts = encoded([record], tokenizer)
    # Three line ends are two tokens, "\n\n" and "\n": the first holds that of the prompt, too.
    assert trained_text(examples, tokenizer) == "\nyes<|im_end|>"
    assert counts == Counts(records=1, examples=1, merged_borders=1)
    assert examples.num_bytes.tolist() == [len("\nyes")]


def test_a_blank_at_the_end_of_the_prompt_takes_the_first_word_with_it():
    spoken = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    spoken += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    tokenizer = byte_level(template=spoken)
    examples, counts = encoded([talk("Is it 4?", "cat mat")], tokenizer)
    assert trained_text(examples, tokenizer) == " mat</s>"
    assert counts.merged_borders == 1


def test_marks_and_beginnings_of_the_conversation_train_the_same():
    records = [
        talk("Is it 4?", "It is.", "The cat?", "On the mat\n"),
        talk("a", " b ", system="Be kind"),
    ]
    marked, _ = encoded(records, byte_level(template=MARKED))
    unmarked, _ = encoded(records, byte_level(template=CHATML))
    assert marked.ids.tolist() == unmarked.ids.tolist()
    assert marked.trained.tolist() == unmarked.trained.tolist()
    assert marked.num_bytes.tolist() == unmarked.num_bytes.tolist()


def test_marks_that_leave_the_end_mark_out_train_it_all_the_same():
    short = MARKED.replace(
        "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}",
        "{{ m['content'] }}{% endgeneration %}{{ '<|im_end|>' }}",
    )
    assert short != MARKED
    tokenizer = byte_level(template=short)
    examples, counts = encoded([talk("Is it 4?", "It is.")], tokenizer)
    assert trained_text(examples, tokenizer) == "It is.<|im_end|>"
    assert counts.no_end_mark == 0


def test_what_follows_the_last_assistant_turn_is_left_away():
    tokenizer = byte_level(template=CHATML)
    longer, _ = encoded([talk("Is it 4?", "It is.", "Thanks")], tokenizer)
    shorter, _ = encoded([talk("Is it 4?", "It is.")], tokenizer)
    assert longer.ids.tolist() == shorter.ids.tolist()


def test_a_conversation_that_the_assistant_begins_is_trained_from_its_first_word():
    tokenizer = byte_level(template=CHATML)
    record = Record((Turn("assistant", "Hello!"), Turn("user", "Yes?")), None, "rows.jsonl:1")
    examples, _ = encoded([record], tokenizer)
    assert trained_text(examples, tokenizer) == "Hello!<|im_end|>"


def test_an_empty_assistant_turn_among_others_is_not_trained():
    tokenizer = byte_level(template=CHATML)
    examples, counts = encoded([talk("a", "", "b", "yes")], tokenizer)
    assert trained_text(examples, tokenizer) == "yes<|im_end|>"
    assert counts.empty_completions == 0


@pytest.mark.parametrize("name", ["llama3", "mistral", "gemma"])
@pytest.mark.parametrize("make", [byte_level, metaspace], ids=["byte_level", "metaspace"])
def test_bos_is_never_doubled(name, make):
    tokenizer = make(template=TEMPLATES[name][0], adds_bos=True)
    examples, _ = encoded([talk("Is it 4?", "It is.")], tokenizer)
    assert ids_of(examples).count(tokenizer.bos_token_id) == 1
    assert ids_of(examples)[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("chosen", ["chatml", "alpaca", "plain"])
@pytest.mark.parametrize("adds_bos", [False, True], ids=["", "adds_bos"])
def test_built_in_templates_put_bos_where_the_tokenizer_does(chosen, adds_bos):
    tokenizer = byte_level(adds_bos=adds_bos)
    examples, _ = encoded([talk("Is it 4?", "It is.")], tokenizer, chosen=chosen)
    assert ids_of(examples).count(tokenizer.bos_token_id) == adds_bos
    assert (ids_of(examples)[0] == tokenizer.bos_token_id) == adds_bos


# Running text


def test_of_a_text_all_but_the_first_token_is_trained_and_eos():
    tokenizer = byte_level()
    examples, counts = encoded([text("the naïve cat")], tokenizer)
    inside = tokenizer("the naïve cat")["input_ids"]
    assert ids_of(examples) == [*inside, tokenizer.eos_token_id]
    assert trained_of(examples) == [False] + [True] * len(inside)
    first = len(tokenizer.decode(inside[:1]).encode())
    assert examples.num_bytes.tolist() == [len("the naïve cat".encode()) - first]
    assert counts == Counts(records=1, examples=1)


def test_bos_comes_before_a_text_if_the_tokenizer_adds_it():
    tokenizer = byte_level(adds_bos=True)
    examples, _ = encoded([text("the naïve cat")], tokenizer)
    assert ids_of(examples) == [*tokenizer("the naïve cat")["input_ids"], tokenizer.eos_token_id]
    assert ids_of(examples)[0] == tokenizer.bos_token_id
    assert trained_text(examples, tokenizer) == "the naïve cat</s>"
    assert examples.num_bytes.tolist() == [len("the naïve cat".encode())]


def test_texts_need_no_chat_template():
    assert choose_template(None, byte_level(), home=Path()) is None
    assert len(encoded([text("the cat")], byte_level())[0]) == 1


@given(st.text(alphabet="ab \né😀", min_size=1, max_size=20).filter(str.strip), st.integers(2, 24))
def test_a_text_cut_short_is_the_beginning_of_the_whole(content, max_length):
    tokenizer = byte_level(adds_bos=True)
    whole, _ = encoded([text(content)], tokenizer)
    cut, counts = encoded([text(content)], tokenizer, max_length=max_length)
    assert ids_of(cut) == ids_of(whole)[:max_length]
    assert counts.truncated == (len(ids_of(whole)) > max_length)
    assert cut.num_bytes[0] <= whole.num_bytes[0]
    seen = tokenizer.decode(ids_of(cut), skip_special_tokens=True).rstrip("\ufffd")
    assert 0 <= cut.num_bytes[0] - len(seen.encode()) <= 4  # a character cut through counts whole


# Too long, empty


def test_a_long_answer_is_cut_and_loses_its_end():
    tokenizer = byte_level(template=CHATML)
    record = talk("Is it 4?", "the cat sat on the mat " * 5)
    whole, _ = encoded([record], tokenizer)
    cut, counts = encoded([record], tokenizer, max_length=40)
    assert ids_of(cut) == ids_of(whole)[:40]
    assert trained_of(cut) == trained_of(whole)[:40]
    assert any(trained_of(cut))
    assert "<|im_end|>" not in trained_text(cut, tokenizer)
    assert cut.num_bytes.tolist() == [len(trained_text(cut, tokenizer).encode())]
    assert counts == Counts(records=1, examples=1, truncated=1)


def test_an_example_of_exactly_the_length_is_whole():
    tokenizer = byte_level(template=CHATML)
    record = talk("Is it 4?", "It is.")
    length = int(encoded([record], tokenizer)[0].lengths[0])
    assert encoded([record], tokenizer, max_length=length)[1] == Counts(records=1, examples=1)
    assert encoded([record], tokenizer, max_length=length - 1)[1].truncated == 1


def test_a_long_prompt_leaves_nothing_to_train_and_is_dropped():
    tokenizer = byte_level(template=CHATML)
    examples, counts = encoded([talk("the cat " * 30, "yes")], tokenizer, max_length=20)
    assert len(examples) == 0
    assert counts == Counts(records=1, dropped_too_long=1)


def test_long_examples_are_dropped_if_asked():
    tokenizer = byte_level(template=CHATML)
    records = [
        talk("a", "the cat " * 30, place="rows.jsonl:1"),
        talk("a", "b", place="rows.jsonl:2"),
    ]
    examples, counts = encoded(records, tokenizer, max_length=20, too_long="drop")
    assert examples.places == ("rows.jsonl:2",)
    assert counts == Counts(records=2, examples=1, dropped_too_long=1)


def test_empty_completions_and_texts_are_dropped_and_counted():
    only_asked = Record((Turn("user", "Is it 4?"),), None, "rows.jsonl:3")
    records = [talk("Is it 4?", " \n"), text(" \n"), only_asked, talk("Is it 4?", "It is.")]
    examples, counts = encoded(records, byte_level(template=CHATML))
    assert len(examples) == 1
    assert counts == Counts(records=4, examples=1, empty_completions=3)


def test_words_that_the_tokenizer_does_not_see_are_no_completion():
    tokenizer = deepcopy(byte_level(template="{% for m in messages %}{{ m.content }}{% endfor %}"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("[^a-z ]"), "")
    records = [talk("?", "😀"), text("😀"), talk("the cat?", " the mat")]
    examples, counts = encoded(records, tokenizer)
    assert trained_text(examples, tokenizer) == " the mat"
    assert counts == Counts(records=3, examples=1, empty_completions=2, no_end_mark=2)


def test_a_token_that_takes_the_blanks_behind_it_leaves_the_answer_whole():
    tokenizer = deepcopy(byte_level(template=TEMPLATES["phi3"][0]))
    tokenizer.add_tokens([AddedToken("<|assistant|>", special=True, rstrip=True)])
    record = talk("Is it 4?", "It is.")
    examples, counts = encoded([record], tokenizer)
    assert trained_text(examples, tokenizer) == "It is.<|end|>"
    assert ids_of(examples) == rendered_ids(record, tokenizer)
    assert counts.merged_borders == 0


def test_no_records_give_no_examples():
    examples, counts = encoded([], byte_level(template=CHATML))
    assert len(examples) == 0
    assert examples.starts.tolist() == [0]
    assert examples.trained_tokens.tolist() == examples.lengths.tolist() == []
    assert counts == Counts()


def test_the_arrays_have_their_types_and_the_order_is_that_of_the_records(monkeypatch):
    monkeypatch.setattr("lamina.data.encode._BATCH", 2)  # several batches
    records = [talk("a", f"b{n}", place=f"rows.jsonl:{n}") for n in range(5)]
    tokenizer = byte_level(template=CHATML)
    examples, _ = encoded(records, tokenizer)
    assert (examples.ids.dtype, examples.trained.dtype) == (np.int32, np.bool_)
    assert (examples.starts.dtype, examples.num_bytes.dtype) == (np.int64, np.int64)
    assert examples.places == tuple(f"rows.jsonl:{n}" for n in range(5))
    for n in range(5):
        assert trained_text(examples, tokenizer, n) == f"b{n}<|im_end|>"
    assert examples.trained_tokens.tolist() == [sum(trained_of(examples, n)) for n in range(5)]
    assert not examples.trained[examples.starts[:-1]].any()
