"""WikiText-2: word, byte perplexity and bits per byte of whole pages, as the harness's `wikitext`.

The page is scored detokenised; words and bytes are those of the page as it came.
"""

from lamina.evaluate.nouns import Item, Metric, Raw, Row, TextItem, Values
from lamina.evaluate.tasks.definition import Asked
from lamina.evaluate.tasks.fields import text_of
from lamina.evaluate.text import Document
from lamina.evaluate.wikitext import count_bytes, count_words, detokenise

TEXT_METRICS = (
    Metric("word_perplexity", higher_is_better=False, scale="exp"),
    Metric("byte_perplexity", higher_is_better=False, scale="exp"),
    Metric("bits_per_byte", higher_is_better=False, scale="bits"),
)


def read_wikitext(row: Row) -> Asked:
    page = text_of(row, "page")
    return Asked("", "", TextItem("", Document(None, detokenise(page), page)), offered=(page,))


def judge_text(item: Item, raw: Raw) -> Values:
    """The loss by words and by bytes; perplexities are of the sums over all pages."""
    assert isinstance(item, TextItem), item
    loss, measured = raw["loss"], item.document.measured
    words, size = float(count_words(measured)), float(count_bytes(measured))
    return {
        "word_perplexity": (loss, words),
        "byte_perplexity": (loss, size),
        "bits_per_byte": (loss, size),
    }
