"""Text without what does not count when two texts are compared."""

import unicodedata


def normalised(text: str) -> str:
    """The text in Unicode's NFKC, without case, each run of white space as one blank."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())
