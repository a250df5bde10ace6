import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.wikitext import count_bytes, count_words, detokenise


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("1 @,@ 000 well @-@ known 3 @.@ 5", "1,000 well-known 3.5"),
        (
            "one , two ; three : four . five ! six ? seven",
            "one, two; three: four. five! six? seven",
        ),
        ("end .", "end ."),
        ("a ( b ) c [ d ] e { f } g", "a (b) c [d] e {f} g"),
        ('he said " yes " then', 'he said "yes" then'),
        ("the ' big ' one", "the 'big' one"),
        ("the dogs ' tails", "the dogs' tails"),
        ("the dog 's tail", "the dog's tail"),
        (" \n = Title = \n \n = = Part = = \n", "\n= Title =\n\n== Part ==\n"),
        ("= = = Sub = = =", "=== Sub ==="),
        ("= = = = Low = = = =", "==== Low ===="),
        ("20 ° C and a N there", "20°C and a 1 there"),
        ("( unclosed", "( unclosed"),
        ("(\n a ( b ) c )", "(a ( b) c )"),
        ("a/' 5/b", "a/'[0-9]/b"),
    ],
)
def test_tokenised_marks_become_running_text(page: str, text: str) -> None:
    assert detokenise(page) == text


def test_words_are_counted_as_the_harness_counts_them() -> None:
    assert count_words("two words") == 2
    assert count_words(" two words \n") == 4
    assert count_words("") == 1


def test_bytes_are_those_of_utf_8() -> None:
    assert count_bytes("aé杜") == 6


@given(st.text(alphabet="ab ()[]{}\"'=@,.-:;!?sN°\n", max_size=40))
def test_detokenising_only_takes_white_space_and_marks_away(page: str) -> None:
    kept = [c for c in detokenise(page.replace("N", "").replace("/", "")) if c in "ab()[]{}"]
    assert kept == [c for c in page if c in "ab()[]{}"]
