"""The `detect:` section of a recipe: how to ask a model what it already knows, and who judges.

Pydantic only: `lamina --help` and `lamina tune --dry-run` load this.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from lamina.core.recipe import Recipe

Whole = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

PROMPT = """\
Here is the beginning of a text that a language model wrote. Which of these domains does it belong \
to: {domains}?

Text:
{text}

Domain:"""
ENDPOINT_PROMPT = """\
Here is a text that a language model wrote. Give the probability that it belongs to each of these \
domains: {domains}. Answer with one JSON object and nothing else, its keys the domains, its values \
numbers that sum to 1.

Text:
{text}"""


def _has_places(prompt: str) -> str:
    missing = [place for place in ("{domains}", "{text}") if place not in prompt]
    if missing:
        raise ValueError(f"the prompt lacks {' and '.join(missing)}, where lamina fills these in")
    return prompt


class ClassifierSection(Recipe):
    """A text classifier (TF-IDF, logistic regression) trained on rows of the user's domains."""

    rows: Whole = 2000
    """Rows of a domain that it is trained on, at most."""
    heldout_share: Annotated[float, Field(ge=0.05, le=0.5)] = 0.2
    """Rows of a domain that it does not see, to measure how often it is right."""
    strength: Positive = 10.0
    """The inverse of the penalty on large weights (C of scikit-learn)."""


class ModelSection(Recipe):
    """A causal language model, by the log-likelihoods of the domains' names after a prompt."""

    path: str = Field(min_length=1)
    """A folder or hub name. Only safetensors weights are loaded, and no code that comes along."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto"
    prompt: str = PROMPT
    """With `{domains}` and `{text}`."""
    chat: bool | None = None
    """Put the prompt in the judge's chat template; by default if it has one."""
    calibrate: bool = True
    """Divide by the likelihoods that the names have after an empty text (2102.09690)."""
    text_tokens: Whole = 400
    """Tokens of a text that it is shown, at most."""
    rows: Whole = 50
    """Labelled rows of a domain that it is put to the test with."""

    @field_validator("prompt")
    @classmethod
    def _fillable(cls, prompt: str) -> str:
        return _has_places(prompt)


class EndpointSection(Recipe):
    """A chat model behind an OpenAI-compatible address."""

    url: str
    """Up to and with `/v1`; `/chat/completions` is added."""
    model: str = Field(min_length=1)
    """The model's name there."""
    api_key_env: str | None = None
    """The environment variable that holds the key. The key itself is never written anywhere."""
    prompt: str = ENDPOINT_PROMPT
    """With `{domains}` and `{text}`."""
    constrain: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is asked to hold the answer to JSON."""
    text_chars: Whole = 2000
    """Characters of a text that it is shown, at most."""
    max_tokens: Whole = 200
    """Of an answer."""
    timeout_seconds: Positive = 60.0
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """After the first try, with growing pauses; for a server that is down, busy or slow."""
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """Questions at once."""
    max_nonsense: Whole = 20
    """Stop after so many answers in a row that cannot be read."""
    rows: Whole = 20
    """Labelled rows of a domain that it is put to the test with."""

    @field_validator("prompt")
    @classmethod
    def _fillable(cls, prompt: str) -> str:
        return _has_places(prompt)

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not name.replace("_", "a").isalnum():
            # Not shown: it may be a key that was written here by mistake.
            raise ValueError("this is no name of an environment variable; never put the key here")
        return name

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"this is no address: {error}") from None
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                "an address with a name, a password or a `?` would be written to files; put the "
                "key in an environment variable and name that in `api_key_env`"
            )
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("an address begins with http:// or https:// and a host")
        return url.rstrip("/").removesuffix("/chat/completions")


class LossesSection(Recipe):
    """No judge and no sampling: shares from the losses on the domains' own held-out rows."""

    rows: Whole = 256
    """Rows of a domain that are read, at most."""


JUDGES = ("classifier", "model", "endpoint", "losses")


class DetectSection(Recipe):
    """How the domains that a model knows are detected: sample from BOS, judge, average."""

    judge: Literal["classifier", "model", "endpoint", "losses"] = "classifier"
    """Who says of which domain a text is: a classifier trained on the domains' own rows, a
    language model, a chat model behind an address, or nobody (from losses)."""
    texts: Whole = 2000
    """Texts of a repeat."""
    repeats: Annotated[int, Field(ge=1, le=1000)] = 5
    """At most; sampling stops before when every share is known well enough (`tolerance`)."""
    max_new_tokens: Whole = 512
    """Tokens of a text, at most."""
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Positive = 1.0
    """Above 1 tokens are not repeated so readily. It biases what is measured; the paper has 1.1."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.005
    """Stop after a repeat when the largest standard error of a share is below this; 0: never."""
    laplace: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Texts added to every domain before shares are computed."""
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """No domain has a smaller share."""
    correct: bool = False
    """Undo the judge's mistakes, as measured on labelled rows that it has not seen."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    """Texts sampled at once."""
    classifier: ClassifierSection = ClassifierSection()
    model: ModelSection | None = None
    endpoint: EndpointSection | None = None
    losses: LossesSection = LossesSection()

    @field_validator("judge", mode="before")
    @classmethod
    def _none_is_losses(cls, judge: object) -> object:
        """Without a judge the domains' own losses say it."""
        return "losses" if judge in (None, "none") else judge

    @model_validator(mode="after")
    def _judge_is_described(self) -> Self:
        if self.judge == "model" and self.model is None:
            raise ValueError(
                "judge is `model`, but nothing says which; write `model: {path: FOLDER}`"
            )
        if self.judge == "endpoint" and self.endpoint is None:
            raise ValueError(
                "judge is `endpoint`, but nothing says where; write "
                "`endpoint: {url: http://localhost:8000/v1, model: NAME}`"
            )
        if self.judge == "losses" and self.correct:
            raise ValueError("`correct` needs a judge to be wrong; judge is `losses`")
        return self

    def api_key(self) -> str | None:
        """The endpoint's key out of the environment; None where none is asked for."""
        name = self.endpoint.api_key_env if self.endpoint is not None else None
        return None if name is None else os.environ.get(name, "")
