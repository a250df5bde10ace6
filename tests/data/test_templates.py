"""Chat templates: the built-in texts, files, and where the turns stand."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
from chat_kit import (
    CHATML,
    GEMMA,
    MARKED,
    MISTRAL,
    PHI3,
    SPECIALS,
    THINKING,
    byte_level,
    talk,
)

from lamina.core.errors import RecipeError
from lamina.data.formats import Record, Turn, Unfit
from lamina.data.templates import BUILT_IN, Specials, Template, Written, choose_template

HOME = Path()


def own(template: str) -> Template:
    found = choose_template(None, byte_level(template=template), home=HOME)
    assert found is not None
    return found


def built_in(name: str, **settings: bool) -> Template:
    found = choose_template(name, byte_level(**settings), home=HOME)
    assert found is not None
    return found


def turns(record: Record) -> tuple[Turn, ...]:
    assert record.turns is not None
    return record.turns


def said(written: Written) -> list[tuple[str, str]]:
    """What each turn says, and its end mark."""
    return [
        (written.text[span.start : span.stop], written.text[span.stop : span.end])
        for span in written.spans
    ]


TALK = turns(talk("What is 2 + 2?", "4.", "And twice that?", "8.", system="Be kind."))


# The built-in ones


def test_alpaca_is_the_prompt_of_alpaca():
    template = built_in("alpaca")
    assert template.render(turns(talk("Add 2 and 2.", "4")))[0] == (
        "Below is an instruction that describes a task. Write a response that appropriately"
        " completes the request.\n\n### Instruction:\nAdd 2 and 2.\n\n### Response:\n4</s>"
    )


def test_alpaca_with_a_system_turn_and_two_questions():
    assert built_in("alpaca").render(TALK)[0] == (
        "Be kind.\n\n### Instruction:\nWhat is 2 + 2?\n\n### Response:\n4.</s>"
        "\n\n### Instruction:\nAnd twice that?\n\n### Response:\n8.</s>"
    )


def test_chatml_ends_turns_with_its_token_where_the_tokenizer_has_it():
    assert built_in("chatml").render(TALK[1:3])[0] == (
        "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n4.<|im_end|>\n"
    )


def test_chatml_ends_turns_with_eos_where_the_tokenizer_does_not_have_its_token():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>")
    template = choose_template("chatml", tokenizer, home=HOME)
    assert template is not None
    assert template.render(TALK[1:3])[0] == (
        "<|im_start|>user\nWhat is 2 + 2?</s>\n<|im_start|>assistant\n4.</s>\n"
    )


@pytest.mark.parametrize(
    ("asked", "text"),
    [("Q: why?\nA:", "Q: why?\nA:\nso</s>"), ("The answer is ", "The answer is so</s>")],
    ids=["no blank", "a blank"],
)
def test_plain_is_what_is_asked_a_line_end_if_needed_the_answer_and_eos(asked, text):
    assert built_in("plain").render(turns(talk(asked, "so")))[0] == text


def test_plain_joins_several_turns():
    assert built_in("plain").render(TALK)[0] == (
        "Be kind.\nWhat is 2 + 2?\n4.</s>And twice that?\n8.</s>"
    )


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("adds_bos", [False, True], ids=["", "adds_bos"])
def test_the_turns_of_a_built_in_template_are_found(name, adds_bos):
    template = built_in(name, adds_bos=adds_bos)
    end = "<|im_end|>" if name == "chatml" else "</s>"
    (written,) = template.write(TALK)
    assert said(written) == [("4.", end), ("8.", end)]
    assert written.text.startswith("<s>") == adds_bos


@pytest.mark.parametrize("name", ["alpaca", "plain"])
def test_alpaca_and_plain_have_no_tool_turns(name):
    with pytest.raises(Unfit, match=r"no tool turns here \(turns: user, tool, assistant\)"):
        built_in(name).write((Turn("user", "a"), Turn("tool", "b"), Turn("assistant", "c")))


# Where the turns stand


def test_every_assistant_turn_is_found_with_its_end_mark():
    (written,) = own(CHATML).write(TALK)
    assert said(written) == [("4.", "<|im_end|>"), ("8.", "<|im_end|>")]
    assert written.text.startswith("<|im_start|>system\nBe kind.<|im_end|>")


def test_marks_are_followed():
    (written,) = own(MARKED).write(TALK)
    assert said(written) == [("4.", "<|im_end|>"), ("8.", "<|im_end|>")]


def test_the_first_of_several_end_marks_ends_the_turn():
    (written,) = own(PHI3).write(turns(talk("a", "b", "c", "d")))
    assert said(written) == [("b", "<|end|>"), ("d", "<|end|>")]
    assert written.text.endswith("d<|end|>\n</s>")


def test_white_space_behind_the_last_word_belongs_to_the_turn():
    (written,) = own(CHATML).write(turns(talk("a", "b \n")))
    assert said(written) == [("b \n", "<|im_end|>")]


def test_a_system_turn_that_wanders_to_the_last_question_makes_texts_of_their_own():
    wandering = MISTRAL.replace(
        "{{ '[INST] ' + m['content'] + ' [/INST]' }}",
        "{{ '[INST] ' + (messages[0]['content'] + '\n' if m == messages[-1 if"
        " messages[-1].role == 'user' else -2] and messages[0].role == 'system' else '')"
        " + m['content'] + ' [/INST]' }}",
    ).replace("{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}", "")
    first, last = own(wandering).write(TALK)
    assert first.text == "<s>[INST] Be kind.\nWhat is 2 + 2? [/INST] 4.</s>"
    assert last.text == (
        "<s>[INST] What is 2 + 2? [/INST] 4.</s>[INST] Be kind.\nAnd twice that? [/INST] 8.</s>"
    )
    assert said(first) == [(" 4.", "</s>")]
    assert said(last) == [(" 8.", "</s>")]


def test_thinking_is_trained_in_the_text_of_its_own_turn():
    first, last = own(THINKING).write(turns(talk("a", "<think>x</think>\nb", "c", "d")))
    assert said(first) == [("<think>x</think>\nb", "<|im_end|>")]
    assert said(last) == [("d", "<|im_end|>")]
    assert "<think>" not in last.text


def test_a_conversation_without_an_answer_is_not_written():
    assert own(CHATML).write((Turn("user", "a"),)) == ()
    assert own(CHATML).write(turns(talk("a", " "))) == ()


def test_turns_that_do_not_alternate_are_refused_where_the_template_wants_it():
    twice = (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c"))
    with pytest.raises(Unfit, match=r"must alternate .*\(turns: user, user, assistant\)"):
        own(GEMMA).write(twice)


@pytest.mark.parametrize(
    "ask", ["strftime_now('%Y-%m-%d')", 'strftime_now( "%d %b %Y" )', "date_string"]
)
def test_today_is_always_the_same_day(ask):
    text = own("{{ " + ask + " }}").render(TALK)[0]
    assert text in ("2024-07-26", "26 Jul 2024")


def test_special_tokens_are_those_of_the_tokenizer():
    specials = Specials.of(byte_level())
    assert specials.tokens == frozenset(SPECIALS)
    assert specials.spelled_in("a </s> b")
    assert not specials.spelled_in("a </ s> < b <")
    assert specials.before("ab</s>", 6, start=2) == 4
    assert specials.before("ab</s>", 6, start=3) == 0
    assert specials.behind("ab</s>", 2) == 4


def test_the_template_of_a_tokenizer_with_several_is_its_default():
    tokenizer = deepcopy(byte_level())
    tokenizer.chat_template = {"default": MARKED, "tool_use": CHATML}
    found = choose_template(None, tokenizer, home=HOME)
    assert found is not None
    assert found.has_marks
    tokenizer.chat_template = {"tool_use": CHATML}
    assert choose_template(None, tokenizer, home=HOME) is None


# Files


def test_a_file_is_looked_for_beside_the_recipe(tmp_path):
    (tmp_path / "mine.jinja").write_text(CHATML, encoding="utf-8")
    found = choose_template("mine.jinja", byte_level(), home=tmp_path)
    assert found is not None
    assert found.render(TALK) == own(CHATML).render(TALK)


def test_a_given_template_goes_before_the_tokenizers_own():
    found = choose_template("plain", byte_level(template=CHATML), home=HOME)
    assert found is not None
    assert "<|im_start|>" not in found.render(TALK)[0]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [("chatlm", "did you mean `chatml`"), ("mine.jinja", "known: chatml, alpaca, plain")],
)
def test_a_template_that_is_neither_built_in_nor_a_file_is_refused(chosen, said, tmp_path):
    with pytest.raises(RecipeError, match=f"`chat_template: {chosen}` is no file.*{said}"):
        choose_template(chosen, byte_level(), home=tmp_path)


def test_a_folder_is_no_template(tmp_path):
    (tmp_path / "plains").mkdir()
    with pytest.raises(RecipeError, match="is no file"):
        choose_template("plains", byte_level(), home=tmp_path)


def test_a_template_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "mine.jinja").write_bytes(b"{{ 'na\xefve' }}")
    with pytest.raises(RecipeError, match=r"mine\.jinja` is not UTF-8: byte 0xef at offset 6"):
        choose_template("mine.jinja", byte_level(), home=tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{% for m in messages %}\n{{ m.content }}", "Unexpected end of template"),
        ("{{ messages | shout }}", "No filter named 'shout'"),
    ],
    ids=["unfinished", "filter"],
)
def test_a_template_that_is_not_jinja_is_refused(tmp_path, content, told):
    (tmp_path / "mine.jinja").write_text(content, encoding="utf-8")
    with pytest.raises(
        RecipeError, match=rf"chat template \(mine\.jinja\), line \d: {re.escape(told)}"
    ):
        choose_template("mine.jinja", byte_level(), home=tmp_path)
