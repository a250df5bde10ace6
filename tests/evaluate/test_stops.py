"""Where texts end: the same as decoding everything after every token."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.evaluate.stops import Stops


@pytest.fixture(scope="module")
def tokenizer(pico: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pico)


def ends_at(stops: Stops, tokens: list[int]) -> tuple[int, str] | None:
    """The first token after which the text has ended."""
    for number in range(1, len(tokens) + 1):
        ended = stops.ended(tokens[:number])
        if ended is not None:
            return number, ended
    return None


def test_a_stop_string_ends_a_text_with_its_last_token(tokenizer: Any) -> None:
    tokens = tokenizer.encode("the cat sat: on")
    stops = Stops(tokenizer, ("sat:",))
    number, ended = ends_at(stops, tokens) or (0, "")
    assert ended == "stop"
    assert tokenizer.decode(tokens[:number]) == "the cat sat:"
    assert stops.text(tokens) == "the cat "


def test_the_end_token_ends_a_text_and_is_not_in_it(tokenizer: Any) -> None:
    stops = Stops(tokenizer, ())
    tokens = [*tokenizer.encode("the cat"), tokenizer.eos_token_id]
    assert ends_at(stops, tokens) == (len(tokens), "eos")
    assert stops.text(tokens) == "the cat"
    assert stops.strings == ("</s>",)


def test_other_end_tokens_are_known(tokenizer: Any) -> None:
    other = tokenizer.encode("q")[0]
    assert Stops(tokenizer, (), ends=frozenset([other])).ended([other]) == "eos"
    assert Stops(tokenizer, ()).ended([other]) is None


def test_the_end_token_s_text_in_letters_ends_a_text_as_in_the_harness(tokenizer: Any) -> None:
    letters = [token for letter in "</s>" for token in tokenizer.encode(letter)]
    assert ends_at(Stops(tokenizer, ()), letters) == (4, "stop")
    assert Stops(tokenizer, ()).text(letters) == ""


def test_texts_are_cut_at_one_stop_string_after_the_other(tokenizer: Any) -> None:
    """So the first one's cut can take away what the second one would have found."""
    tokens = tokenizer.encode("hat mat cat")
    assert Stops(tokenizer, ("mat", "t m")).text(tokens) == "hat "
    assert Stops(tokenizer, ("t m", "mat")).text(tokens) == "ha"


def test_a_character_of_several_tokens_can_be_a_stop_string(tokenizer: Any) -> None:
    tokens = tokenizer.encode("a杜b")
    assert len(tokens) == 5
    assert ends_at(Stops(tokenizer, ("杜",)), tokens) == (4, "stop")


def test_no_end_token_and_no_strings_never_end(tokenizer: Any) -> None:
    class Endless:
        eos_token_id = None

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    endless: Any = Endless()
    assert ends_at(Stops(endless, ("",)), [*range(20)]) is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(2, 279), min_size=1, max_size=24),
    st.integers(0, 20),
    st.integers(1, 12),
)
def test_ends_are_found_where_decoding_everything_finds_them(
    tokenizer: Any, tokens: list[int], begin: int, length: int
) -> None:
    text = tokenizer.decode(tokens)
    stop = text[begin : begin + length].replace("\ufffd", "")
    stops = Stops(tokenizer, (stop,))
    wanted = None
    for number in range(1, len(tokens) + 1):
        if stop and stop in tokenizer.decode(tokens[:number]):
            wanted = number, "stop"
            break
    assert ends_at(stops, tokens) == wanted
