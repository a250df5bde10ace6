"""Losses by the words and bytes of the page as it came."""

from lamina.evaluate.nouns import TextItem
from lamina.evaluate.tasks.texts import judge_text, read_wikitext


def test_a_page_is_scored_detokenised_and_counted_as_it_came() -> None:
    item = read_wikitext({"page": "It cost 3 @.@ 5 é ."}).item
    assert isinstance(item, TextItem)
    assert item.document.text == "It cost 3.5 é ."
    judged = judge_text(item, {"loss": 12.0, "tokens": 5})
    assert judged == {
        "word_perplexity": (12.0, 7.0),
        "byte_perplexity": (12.0, 20.0),
        "bits_per_byte": (12.0, 20.0),
    }
