"""What can go wrong by the user's hand, as a tree.

    LaminaError
    ├── RecipeError       a recipe, an override or an argument does not say what we can do
    ├── CheckpointError   a model folder or a file of weights is not what it must be
    ├── LayerError        the tensors' names, or the layers of two things, do not fit
    ├── DataError         a text, a table or another file that is read is not what it must be
    └── OutputError       an output cannot be written where it is asked for

All of these are the user's to mend: the command line prints `error: <message>` and exits with code
2. What only we can mend is an `assert`. A message says what we saw, what we need and what to do.
"""

import difflib
from collections.abc import Iterable


class LaminaError(Exception):
    """The root of everything the user can mend."""


class RecipeError(LaminaError):
    """A recipe, an override or an argument that we cannot follow."""


class CheckpointError(LaminaError):
    """A model folder or a file of weights that is not what it must be."""


class LayerError(LaminaError):
    """Tensor names or layers that do not fit together."""


class DataError(LaminaError):
    """A text, a table or another input file that is not what it must be."""


class OutputError(LaminaError):
    """An output that cannot be written where it is asked for."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`, or None when nothing is near. Case is not counted."""
    by_folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or the known ones."""
    names = list(known)
    match = nearest(word, names)
    if match is not None:
        return f"did you mean `{match}`?"
    more = f" and {len(names) - 24} more" if len(names) > 24 else ""
    return f"known: {', '.join(names[:24])}{more}" if names else "none is known"
