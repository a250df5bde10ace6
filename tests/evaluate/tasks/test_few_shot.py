"""Which examples stand before a question, and how they are written."""

from collections.abc import Callable
from random import Random

import pytest

from lamina.evaluate.nouns import ChoiceItem, Pair, TextItem, WriteItem
from lamina.evaluate.tasks.definition import Asked
from lamina.evaluate.tasks.few_shot import Message, asked_with, draw
from lamina.evaluate.text import Document

POOL = list("abcdefgh")


def test_no_examples_leave_the_random_stream_alone() -> None:
    rng = Random(1)
    assert draw(POOL, 0, "x", how="random", rng=rng) == []
    assert rng.random() == Random(1).random()


def test_the_first_ones_are_taken_in_order() -> None:
    assert draw(POOL, 3, "b", how="first", rng=Random(1)) == ["a", "b", "c"]


def test_a_random_draw_may_hold_the_item_itself() -> None:
    assert any("b" in draw(POOL, 3, "b", how="random", rng=Random(n)) for n in range(9))
    assert draw(POOL, 3, "b", how="random", rng=Random(7)) == Random(7).sample(POOL, 3)


def test_one_drawn_to_spare_takes_the_place_of_the_item_itself() -> None:
    for seed in range(20):
        four = Random(seed).sample(POOL, 4)
        three = draw(POOL, 3, "b", how="spare", rng=Random(seed))
        assert three == [one for one in four if one != "b"][:3]


def test_copies_of_the_item_are_never_its_examples() -> None:
    pool = ["a", "b", "b", "b", "c", "d"]
    for seed in range(50):
        drawn = draw(pool, 3, "b", how="spare", rng=Random(seed))
        assert len(drawn) == 3
        assert "b" not in drawn


def choice(question: str, system: str = "") -> Asked:
    pairs = (Pair(question, "yes"), Pair(question, "no"))
    return Asked(question, "yes", ChoiceItem("", pairs, (0,), (3, 2)), system=system)


SHOTS = (Asked("Q1", "A1", WriteItem("", "Q1", (), 9, "A1")), choice("Q2"))


def test_examples_stand_before_the_question_as_running_text() -> None:
    item = asked_with(choice("Q", "Begin.\n\n"), SHOTS, delimiter=" ", chat=None)
    assert isinstance(item, ChoiceItem)
    context = "Begin.\n\nQ1 A1\n\nQ2 yes\n\nQ"
    assert item.pairs == (Pair(context, " yes"), Pair(context, " no"))
    assert item.lengths == (3, 2)


def test_examples_are_turns_of_a_conversation_with_a_template() -> None:
    seen: list[list[Message]] = []

    def chat(messages: list[Message]) -> str:
        seen.append(messages)
        return f"<{len(messages)}>"

    item = asked_with(choice("Q", "Begin.\n\n"), SHOTS, delimiter=" ", chat=chat)
    assert isinstance(item, ChoiceItem)
    assert item.pairs == (Pair("<6>", "yes"), Pair("<6>", "no"))
    assert seen == [
        [
            {"role": "system", "content": "Begin.\n\n"},
            {"role": "user", "content": "Q1"},
            {"role": "assistant", "content": "A1"},
            {"role": "user", "content": "Q2"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "Q"},
        ]
    ]


@pytest.mark.parametrize("chat", [None, lambda messages: str(len(messages))])
def test_a_text_is_read_as_it_is(chat: Callable[[list[Message]], str] | None) -> None:
    item = TextItem("3", Document(None, "text", "text"))
    assert asked_with(Asked("", "", item), SHOTS, delimiter=" ", chat=chat) is item


def test_contexts_that_differ_are_each_preceded() -> None:
    pairs = (Pair("Ann", "ran"), Pair("Bea", "ran"))
    asked = Asked("Ann", "ran", ChoiceItem("", pairs, (0,), (3, 3)))
    item = asked_with(asked, SHOTS[:1], delimiter=" ", chat=None)
    assert isinstance(item, ChoiceItem)
    assert item.pairs == (Pair("Q1 A1\n\nAnn", " ran"), Pair("Q1 A1\n\nBea", " ran"))


def test_a_written_question_keeps_all_but_its_prompt() -> None:
    asked = Asked("Q", "A", WriteItem("", "Q", ("\n",), 7, "A", group="g"))
    item = asked_with(asked, SHOTS[:1], delimiter="", chat=None)
    assert item == WriteItem("", "Q1A1\n\nQ", ("\n",), 7, "A", group="g")
