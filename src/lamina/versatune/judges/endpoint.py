"""A chat model behind an OpenAI-compatible address as a judge.

Asks for a JSON object of probabilities (held to a schema where the server can), several questions
at once, answers taken in the order of the texts. What cannot be read counts as invalid. A server
that is down, busy or slow is asked again with growing pauses; then, and where it refuses, or gives
nothing but nonsense, the judge stops with words. The key is read from the environment, sent as a
header to that one address (redirects are not followed), and blanked out of everything told.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lamina.core.errors import RecipeError
from lamina.versatune.judges.interface import Judge, JudgeStopped
from lamina.versatune.shares import Judgement

if TYPE_CHECKING:
    from lamina.versatune.detect_recipe import EndpointSection

_TRY_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_MOST_BYTES = 1 << 20
_OBJECT = re.compile(r"\{[^{}]*\}", re.DOTALL)


class EndpointJudge(Judge):
    """Questions to `URL/chat/completions`."""

    def __init__(
        self,
        section: EndpointSection,
        domains: Sequence[str],
        *,
        key: str | None = None,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """`pause` is given the seconds to wait before another try; by default they are waited."""
        if section.api_key_env is not None and not key:
            raise RecipeError(
                f"detect.endpoint.api_key_env names the environment variable "
                f"{section.api_key_env}, which is not set or empty. Set it to the key, or leave "
                "api_key_env out for a server that needs none."
            )
        if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
            raise RecipeError(
                f"The key in the environment variable {section.api_key_env} has blanks at its "
                "ends, line ends or characters that no key has. Set it again."
            )
        self._section, self._domains = section, tuple(domains)
        self._key, self._stopped = key, threading.Event()
        self._pause = pause or self._stopped.wait
        self._opener = urllib.request.build_opener(_NoRedirects())

    def judge(self, texts: Sequence[str]) -> Iterator[Judgement]:
        """Invalid answers are held back until an answer can be read, or the texts end: where too
        many come in a row, none of these was judged, and a later run asks again."""
        held: list[str] = []
        self._stopped.clear()
        with ThreadPoolExecutor(self._section.workers) as pool:
            waiting = [pool.submit(self._ask, text) for text in texts]
            try:
                for future in waiting:
                    answer = future.result()
                    row = parse(answer, self._domains)
                    if row is None:
                        held.append(answer)
                        if len(held) >= self._section.max_nonsense:
                            raise JudgeStopped(self._nonsense(held))
                        continue
                    yield from (None for _ in held)
                    held.clear()
                    yield row
                yield from (None for _ in held)
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def facts(self) -> dict[str, Any]:
        return {
            "url": self._section.url,
            "model": self._section.model,
            "constrain": self._section.constrain,
        }

    # ---- one question ---------------------------------------------------------------------------

    def _ask(self, text: str) -> str:
        """The answer's content, after as many tries as are allowed."""
        trouble, tries = "", self._section.retries + 1
        for number in range(tries):
            try:
                return self._content(self._post(text))
            except urllib.error.HTTPError as error:
                with error:
                    reason = self._plain(str(error.reason))
                    trouble = f"answers {error.code} {reason}: {self._shown(_body(error))}"
                    if error.code not in _TRY_AGAIN:
                        raise JudgeStopped(self._refused(error.code, trouble)) from None
                    wait = _retry_after(error.headers.get("Retry-After"))
            except TimeoutError:
                trouble, wait = f"gives no answer within {self._section.timeout_seconds:g} s", None
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                told = error.reason if isinstance(error, urllib.error.URLError) else error
                slow = isinstance(told, TimeoutError)
                seconds = f"{self._section.timeout_seconds:g}"
                trouble = (
                    f"gives no answer within {seconds} s"
                    if slow
                    else f"fails: {self._plain(str(told))}"
                )
                wait = None
            except _NotAnAnswer as error:
                trouble, wait = f"gives no chat completion: {self._shown(str(error))}", None
            if self._stopped.is_set():
                break
            if number + 1 < tries:
                self._pause(min(_FIRST_PAUSE * 2**number, _LONGEST_PAUSE) if wait is None else wait)
        raise JudgeStopped(
            f"The judge at {self._section.url} {trouble.rstrip('.')}. Asked {tries} times. Is the "
            "server up, and is this its address (detect.endpoint.url)? A slow one needs a longer "
            "timeout_seconds or fewer workers."
        )

    def _post(self, text: str) -> bytes:
        section = self._section
        before, _, after = section.prompt.partition("{text}")
        listed = ", ".join(self._domains)
        prompt = (
            before.replace("{domains}", listed)
            + text[: section.text_chars]
            + after.replace("{domains}", listed)
        )
        body: dict[str, Any] = {
            "model": section.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": section.max_tokens,
        }
        if section.constrain == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif section.constrain == "json_schema":
            schema = _schema(self._domains)
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        headers = {"Content-Type": "application/json", "User-Agent": "lamina"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{section.url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        end = time.monotonic() + section.timeout_seconds
        with self._opener.open(request, timeout=section.timeout_seconds) as response:
            return _before(response, end)

    @staticmethod
    def _content(raw: bytes) -> str:
        """The text of a chat completion.

        Raises:
            _NotAnAnswer: the server's answer is none.
        """
        try:
            content = json.loads(raw)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise _NotAnAnswer(raw[:2000].decode("utf-8", "replace")) from None
        return content if isinstance(content, str) else ""

    # ---- messages -------------------------------------------------------------------------------

    def _refused(self, code: int, trouble: str) -> str:
        name = self._section.api_key_env
        about = {
            400: "If it does not know `response_format`, set detect.endpoint.constrain: none.",
            401: f"It wants another key than that in {name}."
            if name
            else "It wants a key: name its environment variable in detect.endpoint.api_key_env.",
            404: "Is the address right, up to /v1, and is there such a model?",
        }
        about[403], about[422] = about[401], about[400]
        more = about.get(code, "Is this the address of a chat model?")
        return f"The judge at {self._section.url} {trouble} {more}"

    def _nonsense(self, answers: Sequence[str]) -> str:
        return (
            f"The judge {self._section.model} at {self._section.url} gave {len(answers)} answers "
            f"in a row that cannot be read. The last: {self._shown(answers[-1])} An answer is "
            'such as {"' + self._domains[0] + '": 1.0}. Change the prompt, constrain, max_tokens, '
            "or the model."
        )

    def _shown(self, text: str) -> str:
        """Text of the server's in quotes, as it may be told."""
        text = self._plain(text)
        return f"`{text}`." if text else "nothing."

    def _plain(self, text: str) -> str:
        """Text of the server's as it may be told: short, printable, without the key."""
        if self._key:
            text = text.replace(self._key, "[the key]")
        text = " ".join(text.split())
        text = "".join(c if c.isprintable() else "?" for c in text)
        return text if len(text) <= 200 else text[:197] + "..."


def parse(answer: str, domains: Sequence[str]) -> Judgement:
    """Probabilities out of an answer; None where it cannot be read.

    Read are a JSON object of domains and numbers (the last one in the answer; any sum above 0, so
    percentages, too; a domain that is not named has 0), `{"domain": "law"}`, and a bare name.
    An unknown key, a negative number or no number makes it unreadable: nothing is guessed.
    """
    bare = _place(answer.strip().strip("\"'`.*"), domains)
    if bare is not None:
        return _one(bare, len(domains))
    found = _OBJECT.findall(answer)
    if not found:
        return None
    try:
        values = json.loads(found[-1])
    except (ValueError, RecursionError):
        return None
    if len(values) == 1:
        (only,) = values.values()
        place = _place(only, domains) if isinstance(only, str) else None
        if place is not None:
            return _one(place, len(domains))
    row = [0.0] * len(domains)
    for key, value in values.items():
        place = _place(key, domains)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if place is None or not number or not 0 <= value < 1e6:  # nor is NaN, or too large a number
            return None
        row[place] += value
    total = math.fsum(row)
    return tuple(value / total for value in row) if total > 0 else None


def _place(word: str, domains: Sequence[str]) -> int | None:
    """The domain that a word names: to the letter, else the only one in other cases."""
    word = word.strip()
    if word in domains:
        return domains.index(word)
    same = [n for n, name in enumerate(domains) if name.casefold() == word.casefold()]
    return same[0] if len(same) == 1 else None


def _one(place: int, k: int) -> tuple[float, ...]:
    return tuple(float(number == place) for number in range(k))


def _schema(domains: Sequence[str]) -> dict[str, Any]:
    return {
        "name": "domains",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {name: {"type": "number"} for name in domains},
            "required": list(domains),
            "additionalProperties": False,
        },
    }


def _before(response: http.client.HTTPResponse, end: float) -> bytes:
    """What a server answers, up to a megabyte; one that sends it drop by drop is too slow, too."""
    found = b""
    while len(found) < _MOST_BYTES and (part := response.read1(_MOST_BYTES)):
        found += part
        if time.monotonic() > end:
            raise TimeoutError
    return found


def _body(error: urllib.error.HTTPError) -> str:
    """The beginning of what came with an error; a server may stall or hang up in the middle."""
    try:
        return error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _retry_after(header: str | None) -> float | None:
    """Seconds that a server asks to wait, no more than a minute; a date is not read."""
    if header is None or not header.strip().isdecimal():
        return None
    return min(float(header.strip()), _LONGEST_PAUSE)


class _NotAnAnswer(Exception):
    """What came back is no chat completion."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send the key, and the texts, to another address."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None
