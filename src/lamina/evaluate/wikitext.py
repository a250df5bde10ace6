"""WikiText pages as lm-evaluation-harness scores them: detokenised, but counted as they were.

WikiText is distributed in tokens ("1 @,@ 000 people ( and more )"). The harness's `wikitext` task
undoes that before scoring and divides the loss by the words and bytes of the page as it came, so a
perplexity is only comparable if all three steps are the same. Output is equal to the harness's,
letter by letter, with its quirks.
"""

import re

# In this order: each step sees what the earlier ones left.
_CONTRACTION = ("s '", "s'")
# The harness meant "a digit after an apostrophe"; its pattern asks for slashes around it, and puts
# the pattern's own text in. Kept, since equal numbers are the purpose.
_SLASHED_DIGIT = (re.compile(r"/' [0-9]/"), "/'[0-9]/")
_SPACED = (
    *((f" @{mark}@ ", mark) for mark in ("-", ",", ".")),
    *((f" {mark} ", f"{mark} ") for mark in (":", ";", ".", "!", "?", ",")),
)
# Between a mark and the next closing one, white space at both ends goes.
_ENCLOSED = tuple(
    re.compile(pattern)
    for pattern in (
        r"(\()([^)]*)(\))",
        r"(\[)([^\]]*)(\])",
        r"({)([^}]*)(})",
        r'(")([^"]*)(")',
        r"(')([^']*)(')",
    )
)
_LAST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def detokenise(page: str) -> str:
    """The page as running text, equal to the harness's `wikitext_detokenizer`."""
    text = page.replace(*_CONTRACTION)
    pattern, literal = _SLASHED_DIGIT
    text = pattern.sub(literal, text)
    for seen, wanted in _SPACED:
        text = text.replace(seen, wanted)
    for enclosed in _ENCLOSED:
        text = enclosed.sub(_tighten, text)
    for seen, wanted in _LAST:
        text = text.replace(seen, wanted)
    return text


def count_words(text: str) -> int:
    """Pieces between white space, as the harness counts: one more, empty, at a blank edge."""
    return len(re.split(r"\s+", text))


def count_bytes(text: str) -> int:
    return len(text.encode("utf-8"))


def _tighten(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2].strip()}{match[3]}"
