"""A conversation as the text that a model reads, and where in it the assistant's turns stand.

A turn begins where the generation prompt ends and ends with the end-of-turn token, so what is
trained is what the model must say when it is asked. The places are found by rendering beginnings
of the conversation: `turns[:i]` with the generation prompt must be the beginning of
`turns[:i + 1]`, which must stand unchanged in the whole. Some templates rewrite earlier turns once
later ones follow (they take the thinking out, or change the end mark): then every assistant turn
becomes a text of its own, as the model meets it. A template with `{% generation %}` marks says
itself what is trained; only an end-of-turn token right behind a mark is added.

A template that asks for today's date gets 26 July 2024, or the same rows would be other tokens
tomorrow. Text that spells a token such as `</s>` becomes that token, as in every chat template.
"""

import contextlib
import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import RecipeError, did_you_mean
from lamina.data.formats import Turn, Unfit
from lamina.data.sources import locate

TODAY = datetime.date(2024, 7, 26)
"""What templates get as today: the default of Llama 3's own template."""

_REFUSE_OTHERS = r"{%- else %}{{ raise_exception('no ' + message['role'] + ' turns here') }}"

BUILT_IN: dict[str, str] = {
    "chatml": r"""
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + END + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}""",
    "alpaca": r"""
{%- for message in messages %}
{%- if message['role'] == 'system' %}{{- message['content'] + '\n\n' }}
{%- elif message['role'] == 'user' %}
{%- if loop.first %}{{- 'Below is an instruction that describes a task. '
    + 'Write a response that appropriately completes the request.\n\n' }}
{%- elif loop.previtem['role'] == 'assistant' %}{{- '\n\n' }}{%- endif %}
{{- '### Instruction:\n' + message['content'] + '\n\n' }}
{%- elif message['role'] == 'assistant' %}{{- '### Response:\n' + message['content'] + END }}
REFUSE
{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\n' }}{%- endif %}""",
    "plain": r"""
{%- for message in messages %}
{{- message['content'] }}
{%- if message['role'] == 'assistant' %}{{- END }}
{%- elif message['role'] in ('system', 'user') %}
{%- if message['content'] and not message['content'][-1].isspace() %}{{- '\n' }}{%- endif %}
REFUSE
{%- endif %}{%- endfor %}""",
}
"""The templates that need no tokenizer's. END is `<|im_end|>` (chatml, if the tokenizer has it) or
EOS. `plain`: what is asked, a line end unless it ends in white space, the answer, EOS."""


@dataclass(frozen=True, slots=True)
class Span:
    """An assistant's turn: it says text[start:stop], and text[stop:end] is its end mark."""

    start: int
    stop: int
    end: int


@dataclass(frozen=True, slots=True)
class Written:
    """A text for the tokenizer, and the turns in it to be trained, in order."""

    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Specials:
    """The spellings of a tokenizer's special tokens; some have thousands, so they are looked up."""

    tokens: frozenset[str]
    lengths: tuple[int, ...]
    """The lengths they have, longest first."""
    first_letters: re.Pattern[str]

    @classmethod
    def of(cls, tokenizer: Any) -> "Specials":
        added = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
        tokens = frozenset(t for t in (*added, *tokenizer.all_special_tokens) if t.strip())
        letters = "".join(re.escape(letter) for letter in sorted({t[0] for t in tokens}))
        return cls(
            tokens,
            tuple(sorted({len(token) for token in tokens}, reverse=True)),
            re.compile(f"[{letters}]" if letters else r"(?!)"),
        )

    def before(self, text: str, place: int, *, start: int) -> int:
        """The length of the token that text[start:place] ends with; 0 where it ends with none."""
        fitting = (n for n in self.lengths if n <= place - start)
        return next((n for n in fitting if text[place - n : place] in self.tokens), 0)

    def behind(self, text: str, place: int) -> int:
        """The length of the token that text[place:] begins with; 0 where it begins with none."""
        fitting = (n for n in self.lengths if n <= len(text) - place)
        return next((n for n in fitting if text[place : place + n] in self.tokens), 0)

    def spelled_in(self, text: str) -> bool:
        """Whether a text spells one of them: it will become that token."""
        return any(self.behind(text, at.start()) for at in self.first_letters.finditer(text))


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template, ready to write conversations with one tokenizer's special tokens."""

    name: str
    """`chatml`, a file, or `the tokenizer's own`."""
    text: str
    """Jinja."""
    variables: Mapping[str, Any]
    """`bos_token`, `eos_token` and what else the template may ask for."""
    specials: Specials
    """Each of them may be the end of a turn."""

    @property
    def has_marks(self) -> bool:
        """Whether `{% generation %}` says what the assistant writes."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.text) is not None

    def render(
        self, turns: Sequence[Turn], *, prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of turns, with the generation prompt if asked, and the places of the marks.

        Raises:
            Unfit: the template refuses these turns.
            RecipeError: it is not a Jinja template.
        """
        from jinja2 import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            written: Any = render_jinja_template(
                conversations=[[{"role": t.role, "content": t.content} for t in turns]],
                chat_template=self.text,
                return_assistant_tokens_mask=self.has_marks,
                add_generation_prompt=prompt,
                **self.variables,
            )
        except TemplateSyntaxError as error:
            raise RecipeError(
                f"chat template ({self.name}), line {error.lineno}: {error.message}. It must be a"
                " Jinja template."
            ) from None
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn.role for turn in turns) or "none"
            raise Unfit(f"{error} (turns: {roles})") from None
        texts, marks = written
        return texts[0], list(marks[0]) if self.has_marks else []

    def write(self, turns: Sequence[Turn]) -> tuple[Written, ...]:
        """A conversation as one text, or one for each assistant turn if later turns rewrite it.

        What follows the last assistant turn is left out; an empty turn is not trained. Nothing is
        written where no assistant turn says anything.

        Raises:
            Unfit: the template refuses these turns, leaves an answer out, or asks for it in another
                way than it writes it down.
        """
        said = [
            n for n, turn in enumerate(turns) if turn.role == "assistant" and turn.content.strip()
        ]
        if not said:
            return ()
        turns = turns[: said[-1] + 1]
        whole, marks = self.render(turns)
        if self.has_marks:
            spans = [self._turn(whole, start, end) for start, end in marks]
            spans = [span for span in spans if whole[span.start : span.stop].strip()]
            if not spans:
                raise Unfit("the template's {% generation %} marks hold no answer")
            return (Written(whole, tuple(spans)),)
        alone = [self._last_turn(turns[: n + 1], whole if n == said[-1] else None) for n in said]
        if all(whole.startswith(one.text[: one.spans[0].end]) for one in alone):
            return (Written(whole, tuple(one.spans[0] for one in alone)),)
        return tuple(alone)

    def _last_turn(self, turns: Sequence[Turn], text: str | None) -> Written:
        """The text up to an assistant's turn, with the place of that turn only."""
        before, _ = self.render(turns[:-1], prompt=True)
        text = self.render(turns)[0] if text is None else text
        if not text.startswith(before):
            same = next(n for n, pair in enumerate(zip(before, f"{text}\0", strict=False))
                        if pair[0] != pair[1])  # fmt: skip
            raise Unfit(
                f"turn {len(turns)} is asked for with {_around(before, same)} but written down as"
                f" {_around(text, same)}"
            )
        span = self._turn(text, len(before), len(text))
        if not text[span.start : span.stop].strip():
            raise Unfit(f"the template leaves out what turn {len(turns)} says")
        return Written(text, (span,))

    def _turn(self, text: str, start: int, end: int) -> Span:
        """The turn in text[start:end]: white space and tokens after its end mark are cut off."""
        stop = mark_end = end
        place = start + len(text[start:end].rstrip())
        while length := self.specials.before(text, place, start=start):
            stop, mark_end = place - length, place
            place = start + len(text[start:stop].rstrip())
        if stop == end:  # a `{% generation %}` mark may stop before the end of the turn
            mark_end = end + self.specials.behind(text, end)
        return Span(start, stop, mark_end)


def choose_template(chosen: str | None, tokenizer: Any, *, home: Path) -> Template | None:
    """The template a recipe chose, else the tokenizer's own; None where it has none either.

    `chosen` is a built-in's name or a .jinja file, looked for in `home` first.

    Raises:
        RecipeError: no such built-in or file, not UTF-8, or not a Jinja template.
    """
    if chosen is not None:
        name, text = chosen, _text_of(chosen, tokenizer, home=home)
    else:
        own = tokenizer.chat_template
        text = own.get("default") if isinstance(own, dict) else own
        name = "the tokenizer's own"
        if text is None:
            return None
    template = Template(
        name=name,
        text=_with_fixed_date(text),
        variables={**tokenizer.special_tokens_map, "date_string": f"{TODAY:%d %b %Y}"},
        specials=Specials.of(tokenizer),
    )
    with contextlib.suppress(Unfit):  # what it refuses is told row by row
        template.render((Turn("user", "a"), Turn("assistant", "b")))
    return template


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its BOS before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _text_of(chosen: str, tokenizer: Any, *, home: Path) -> str:
    """The Jinja of a built-in, made for a tokenizer, or of a file."""
    if chosen in BUILT_IN:
        im_end = chosen == "chatml" and "<|im_end|>" in tokenizer.get_vocab()
        text = BUILT_IN[chosen].replace("END", "'<|im_end|>'" if im_end else "eos_token")
        text = text.replace("REFUSE", _REFUSE_OTHERS)
        return ("{{- bos_token }}" if adds_bos(tokenizer) else "") + text
    path = locate(chosen, home=home)
    if path is None or not path.is_file():
        raise RecipeError(
            f"`chat_template: {chosen}` is no file in {home.absolute()} and not built in;"
            f" {did_you_mean(chosen, BUILT_IN)} Give the path of a .jinja file or one of"
            f" {', '.join(BUILT_IN)}."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"`chat_template: {chosen}` is not UTF-8: byte 0x{error.object[error.start]:02x} at"
            f" offset {error.start}. Save it as UTF-8."
        ) from None
    except OSError as error:
        raise RecipeError(
            f"`chat_template: {chosen}` cannot be read: {error.strerror or error}."
        ) from None


def _with_fixed_date(text: str) -> str:
    """The template with `TODAY` for every `strftime_now("...")`."""

    def day(call: re.Match[str]) -> str:
        return repr(TODAY.strftime(call[2]))

    return re.sub(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", day, text)


def _around(text: str, place: int) -> str:
    """A few characters of a text about a place, for a message."""
    return repr(text[max(place - 20, 0) : place + 20])
