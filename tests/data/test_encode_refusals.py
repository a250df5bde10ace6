"""Templates and tokenizers that do something of their own: what is counted, what is refused."""

from types import SimpleNamespace

import pytest
from chat_kit import (
    CHATML,
    MISTRAL,
    TEMPLATES,
    THINKING,
    byte_level,
    encoded,
    ids_of,
    rendered_ids,
    talk,
    text,
    trained_text,
)

from lamina.core.errors import DataError, RecipeError
from lamina.data.encode import Counts, encode

# Counted


def test_a_template_that_rewrites_earlier_turns_gives_an_example_for_each_turn():
    tokenizer = byte_level(template=THINKING)
    record = talk("Is it 4?", "<think>a</think>\nyes", "And 5?", "<think>b</think>\nno")
    examples, counts = encoded([record], tokenizer)
    assert len(examples) == 2
    assert counts == Counts(records=1, examples=2, turn_by_turn=1)
    assert trained_text(examples, tokenizer, 0) == "<think>a</think>\nyes<|im_end|>"
    assert trained_text(examples, tokenizer, 1) == "<think>b</think>\nno<|im_end|>"
    assert "<think>a" not in tokenizer.decode(ids_of(examples, 1))
    assert ids_of(examples, 1) == rendered_ids(record, tokenizer)
    assert examples.places == ("rows.jsonl:1", "rows.jsonl:1")


def test_a_template_that_rewrites_nothing_in_these_turns_gives_one_example():
    examples, counts = encoded([talk("a", "b", "c", "d")], byte_level(template=THINKING))
    assert len(examples) == 1
    assert counts.turn_by_turn == 0


def test_a_template_without_end_marks_is_counted():
    bare = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tokenizer = byte_level(template=bare)
    examples, counts = encoded([talk("a", "yes", "b", "no")], tokenizer)
    assert counts.no_end_mark == 2
    # Without a generation prompt the model must write the role itself.
    assert trained_text(examples, tokenizer) == "assistant: yes\nassistant: no\n"


def test_a_template_that_leaves_the_system_turn_out_is_counted():
    deaf = CHATML.replace(
        "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"
    )
    records = [talk("a", "b", system="Be kind"), talk("a", "b")]
    _, counts = encoded(records, byte_level(template=deaf))
    assert counts.left_out == 1


def test_rows_that_spell_a_special_token_are_counted():
    records = [talk("what is </s>?", "An end."), text("<s>struck out</s>"), talk("a < b", "<yes>")]
    _, counts = encoded(records, byte_level(template=CHATML))
    assert counts.spelled_tokens == 2


# Refused


def test_a_system_turn_that_the_template_refuses_is_told_by_place():
    records = [talk("a", "b", system="Be kind", place="law.jsonl:17"), talk("a", "b")]
    with pytest.raises(DataError) as caught:
        encoded(records, byte_level(template=TEMPLATES["gemma"][0]))
    assert str(caught.value) == (
        "chat template (the tokenizer's own): 1 row of 2 is refused by it.\n"
        "  law.jsonl:17: System role not supported (turns: system, user, assistant)\n"
        "Change these rows (some templates take no system turn, or want user and assistant to"
        " alternate), or set `chat_template:` under `data:`."
    )


def test_all_refused_rows_are_told_in_one_message():
    records = [talk("a", "b", system="x", place=f"law.jsonl:{n}") for n in range(1, 9)]
    with pytest.raises(DataError, match="8 rows of 8 are refused") as caught:
        encoded(records, byte_level(template=MISTRAL))
    assert "law.jsonl:5" in str(caught.value)
    assert "law.jsonl:6" not in str(caught.value)
    assert "and 3 more" in str(caught.value)


def test_a_generation_prompt_that_is_not_written_down_is_refused():
    forced = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    assert forced != CHATML
    with pytest.raises(DataError, match=r"turn 2 is asked for with .*<think>.* but written down"):
        encoded([talk("a", "yes")], byte_level(template=forced))


def test_a_template_that_leaves_the_answer_out_is_refused():
    deaf = "{% for m in messages if m.role == 'user' %}{{ m['content'] + eos_token }}{% endfor %}"
    with pytest.raises(DataError, match="leaves out what turn 2 says"):
        encoded([talk("a", "yes")], byte_level(template=deaf))


def test_marks_round_nothing_are_refused():
    empty = CHATML + "{% generation %}{% endgeneration %}"
    with pytest.raises(DataError, match="marks hold no answer"):
        encoded([talk("a", "yes")], byte_level(template=empty))


def test_a_conversation_without_any_template_is_refused_with_the_built_in_ones():
    with pytest.raises(
        RecipeError, match=r"rows\.jsonl:1 is a conversation.*chatml, alpaca, plain"
    ):
        encoded([text("a"), talk("a", "b")], byte_level())


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(RecipeError, match="no EOS token"):
        encoded([text("a")], byte_level(eos=False))


def test_a_slow_tokenizer_is_refused():
    slow = SimpleNamespace(is_fast=False, eos_token_id=1)
    with pytest.raises(RecipeError, match="slow one"):
        encode([text("a")], slow, max_length=8, template=None, too_long="truncate")


def test_counts_add():
    assert Counts(records=2, truncated=1) + Counts(records=1, left_out=3) == Counts(
        records=3, truncated=1, left_out=3
    )
