"""Records become tokens, and for each token whether it is trained: the completion, and no more.

Of a conversation all assistant turns are trained, each with its end-of-turn token: the model must
learn to stop. Of running text everything is trained, but for its first token, which nothing
predicts: BOS, if the tokenizer puts one. `templates.py` says where the turns stand in the text;
here characters become tokens. The whole conversation is tokenised at once, and a token is trained
if it lies wholly inside a turn: one that holds the last letters of the prompt, too, is not. (At the
same place the model, asked, would read other tokens; `Counts.merged_borders` counts those turns.)

Needs a fast tokenizer: the places of the tokens come from it. 2,000 conversations of 220 tokens
and 1,500 texts of 215 a second on one core, two thirds of it in the tokenizer.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lamina.core.errors import DataError, RecipeError
from lamina.data.formats import Record, Turn, Unfit, told
from lamina.data.templates import BUILT_IN, Span, Specials, Template, adds_bos

_BATCH = 1000
"""Texts that are tokenised together: what is held beside the result is small."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded examples of one domain, end to end in flat arrays: N examples, T tokens."""

    ids: np.ndarray
    """int32 [T]."""
    trained: np.ndarray
    """bool [T]: the token is a target, its loss counts. Never the first token of an example."""
    starts: np.ndarray
    """int64 [N + 1]: example n is `starts[n]:starts[n + 1]`."""
    num_bytes: np.ndarray
    """int64 [N]: bytes of UTF-8 of the trained text, without tokens such as end of turn."""
    places: tuple[str, ...]
    """Where each came from: `file.jsonl:17`. A place may come twice (`Counts.turn_by_turn`)."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.starts)

    @property
    def trained_tokens(self) -> np.ndarray:
        """Trained tokens of each example, int64 [N]."""
        before = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return np.diff(before[self.starts])

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples of these numbers, in this order."""
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths[chosen]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        tokens = np.repeat(self.starts[chosen] - starts[:-1], lengths) + np.arange(starts[-1])
        return Examples(
            ids=self.ids[tokens],
            trained=self.trained[tokens],
            starts=starts,
            num_bytes=self.num_bytes[chosen],
            places=tuple(self.places[number] for number in chosen.tolist()),
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the records of a domain; counts of records if nothing else is said."""

    records: int = 0
    examples: int = 0
    """Examples made of them."""
    truncated: int = 0
    """Examples cut at `max_length`, which end without an end."""
    dropped_too_long: int = 0
    """Examples longer than `max_length`, dropped as asked or since no trained token remained."""
    empty_completions: int = 0
    """Dropped: no assistant turn, or no text, that says anything."""
    merged_borders: int = 0
    """Turns whose first or last token is not trained: it holds letters of what is beside them."""
    no_end_mark: int = 0
    """Turns behind which the template puts no special token: the model does not learn to stop."""
    turn_by_turn: int = 0
    """Conversations that became an example for each assistant turn: the template rewrites them."""
    left_out: int = 0
    """Conversations of which the template leaves a system or user turn out."""
    spelled_tokens: int = 0
    """Records whose text spells a special token such as `</s>`, which became that token."""

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Counts(*(a + b for a, b in zip(mine, theirs, strict=True)))


def encode(
    records: Sequence[Record],
    tokenizer: Any,
    *,
    max_length: int,
    template: Template | None,
    too_long: Literal["truncate", "drop"],
) -> tuple[Examples, Counts]:
    """The examples of records, in order, and what became of those that are none.

    `tokenizer` is one of transformers', `template` what `choose_template` gives. Every example has
    a trained token and at most `max_length` tokens.

    Raises:
        RecipeError: the tokenizer has no EOS or gives no places, or it has no template and there is
            a conversation.
        DataError: conversations that the template refuses, by place; all in one message.
    """
    _check(tokenizer, template, records)
    tally: Counter[str] = Counter(records=len(records))
    drafts = _drafts(records, template, Specials.of(tokenizer), tally)
    begin = [tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    kept: list[_Encoded] = []
    for first in range(0, len(drafts), _BATCH):
        batch = drafts[first : first + _BATCH]
        texts = [draft.text for draft in batch]
        tokens = tokenizer(texts, add_special_tokens=False, verbose=False).encodings
        for draft, encoding in zip(batch, tokens, strict=True):
            if draft.spans is None:
                one = _running(draft, encoding, begin, [tokenizer.eos_token_id], max_length)
            else:
                one = _conversation(draft, draft.spans, encoding, max_length, tally)
            if _is_kept(one, max_length, too_long, tally):
                kept.append(one)
    return _joined(kept), Counts(**tally, examples=len(kept))


def _check(tokenizer: Any, template: Template | None, records: Sequence[Record]) -> None:
    """Refuses a tokenizer that these records cannot be encoded with."""
    if not tokenizer.is_fast:
        raise RecipeError(
            f"the tokenizer is a slow one ({type(tokenizer).__name__}): it does not say where its"
            " tokens stand in the text, so we cannot tell prompt from completion. Use a model"
            " folder with a tokenizer.json."
        )
    if tokenizer.eos_token_id is None:
        raise RecipeError(
            "the tokenizer has no EOS token, so the model cannot learn to stop. Name one of its"
            " tokens as `eos_token` in its tokenizer_config.json."
        )
    talk = next((record.place for record in records if record.turns is not None), None)
    if template is None and talk is not None:
        raise RecipeError(
            f"the tokenizer has no chat template, and {talk} is a conversation. Set"
            f" `chat_template:` under `data:` to a built-in ({', '.join(BUILT_IN)}) or to a .jinja"
            " file."
        )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A text to be tokenised, and the turns of it that are trained; None for running text."""

    text: str
    spans: tuple[Span, ...] | None
    place: str


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One example: its tokens up to `max_length`, and what of them is trained."""

    ids: np.ndarray
    runs: list[tuple[int, int]]
    """Tokens begin:end are trained, as they were before the cut."""
    num_bytes: int
    length: int
    """Tokens before the cut."""
    place: str


def _drafts(
    records: Sequence[Record], template: Template | None, specials: Specials, tally: Counter[str]
) -> list[_Draft]:
    """What is to be tokenised. All that a template refuses is told at once."""
    drafts: list[_Draft] = []
    problems: list[str] = []
    for record in records:
        tally["spelled_tokens"] += specials.spelled_in(record.whole)
        if record.turns is None:
            if record.whole.strip():
                drafts.append(_Draft(record.whole, None, record.place))
            else:
                tally["empty_completions"] += 1
            continue
        assert template is not None, "checked before"
        try:
            written = template.write(record.turns)
        except Unfit as unfit:
            problems.append(f"{record.place}: {unfit}")
            continue
        tally["empty_completions"] += not written
        tally["turn_by_turn"] += len(written) > 1
        tally["no_end_mark"] += sum(s.stop == s.end for one in written for s in one.spans)
        tally["left_out"] += bool(written) and any(
            turn.role != "assistant" and turn.content.strip() not in written[-1].text
            for turn in _up_to_the_answer(record.turns)
        )
        drafts += [_Draft(one.text, one.spans, record.place) for one in written]
    if problems:
        assert template is not None, "only a template refuses"
        what = "refused by it"
        raise DataError(
            told(f"chat template ({template.name})", what, problems, len(records))
            + "\nChange these rows (some templates take no system turn, or want user and assistant"
            " to alternate), or set `chat_template:` under `data:`."
        )
    return drafts


def _up_to_the_answer(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns without those behind the last assistant turn that says something."""
    said = [n for n, turn in enumerate(turns) if turn.role == "assistant" and turn.content.strip()]
    return turns[: said[-1] + 1]


def _running(
    draft: _Draft, encoding: Any, begin: list[int], end: list[int], max_length: int
) -> _Encoded:
    """Running text, between BOS (where `begin` has it) and EOS; all but the first is trained."""
    ids = np.array([*begin, *encoding.ids, *end], dtype=np.int32)
    cut = min(len(ids), max_length)
    kept = min(cut - len(begin), len(encoding))
    if kept < 1:
        return _Encoded(ids[:cut], [], 0, len(ids), draft.place)
    first = 0 if begin else encoding.token_to_chars(0)[1]
    last = encoding.token_to_chars(kept - 1)[1] if kept < len(encoding) else len(draft.text)
    num_bytes = len(draft.text[first:last].encode())
    return _Encoded(ids[:cut], [(1, len(ids))], num_bytes, len(ids), draft.place)


def _conversation(
    draft: _Draft, spans: Sequence[Span], encoding: Any, max_length: int, tally: Counter[str]
) -> _Encoded:
    """A conversation; the tokens that lie wholly inside one of the spans are trained."""
    if not len(encoding):
        return _Encoded(np.empty(0, dtype=np.int32), [], 0, 0, draft.place)
    places = encoding.token_to_chars
    tokens = range(len(encoding))
    cut = min(len(encoding), max_length)

    def stop(token: int) -> int:
        return places(token)[1]

    def start(token: int) -> int:
        """Where a token starts; white space that its place leaves out belongs to it."""
        own, before = places(token)[0], stop(token - 1) if token else 0
        return before if draft.text[before:own].isspace() else own

    runs: list[tuple[int, int]] = []
    num_bytes = 0
    for span in spans:
        # Nothing predicts the first token of all.
        first = max(bisect_left(tokens, span.start, key=start), 1)
        last = bisect_right(tokens, span.end, key=stop)
        tally["merged_borders"] += (stop(first - 1) > span.start and span.start > 0) or (
            last < len(tokens) and start(last) < span.end
        )
        kept = min(last, cut)
        runs.append((first, max(last, first)))
        if first < kept:
            said = draft.text[start(first) : min(stop(kept - 1), span.stop)]
            num_bytes += len(said.encode())
    ids = np.array(encoding.ids[:cut], dtype=np.int32)
    return _Encoded(ids, runs, num_bytes, len(encoding), draft.place)


def _is_kept(
    one: _Encoded, max_length: int, too_long: Literal["truncate", "drop"], tally: Counter[str]
) -> bool:
    """Whether an example stays; counted if it does not, or is cut."""
    if not any(begin < end for begin, end in one.runs):
        tally["empty_completions"] += 1
        return False
    if one.length <= max_length:
        return True
    is_cut = too_long == "truncate" and any(begin < min(end, max_length) for begin, end in one.runs)
    tally["truncated" if is_cut else "dropped_too_long"] += 1
    return is_cut


def _joined(kept: Sequence[_Encoded]) -> Examples:
    """Examples end to end."""
    starts = np.cumsum([0, *(len(one.ids) for one in kept)], dtype=np.int64)
    trained = np.zeros(starts[-1], dtype=bool)
    for one, start in zip(kept, starts.tolist(), strict=False):
        for begin, end in one.runs:
            trained[start + begin : start + min(end, len(one.ids))] = True
    return Examples(
        ids=np.concatenate([np.empty(0, dtype=np.int32), *(one.ids for one in kept)]),
        trained=trained,
        starts=starts,
        num_bytes=np.array([one.num_bytes for one in kept], dtype=np.int64),
        places=tuple(one.place for one in kept),
    )
