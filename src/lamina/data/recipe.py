"""The `domains:` and `data:` keys of a recipe. Pydantic only: `lamina --help` loads this.

A domain is written as short as it can be:

    law: data/law.jsonl                                   # a text: one source
    medicine: {path: m.parquet, type: alpaca}             # a map: one source
    finance: [a.jsonl, {path: org/name, split: train}]    # a list: several sources
    science: {sources: [a.jsonl], heldout: b.jsonl}       # with held-out rows of its own
    code: {path: a.jsonl, heldout: b.jsonl}               # the same, shorter
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from lamina.core.errors import RecipeError, did_you_mean
from lamina.core.recipe import Recipe, validate

RowType: TypeAlias = Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "text"]

FIELDS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations", "system"),
    "alpaca": ("instruction", "input", "output", "system", "history"),
    "prompt_completion": ("prompt", "completion", "system"),
    "text": ("text",),
}
"""The fields that each type of row may have. `auto` tries the types in this order."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
"""The fields without which a row is not of a type."""


class SourceSpec(Recipe):
    """Where rows come from: a file, a folder of files, or a data set of the Hub."""

    path: str = Field(min_length=1)
    """A relative path is looked for beside the recipe first, then in the working folder."""
    type: RowType = "auto"
    """What a row looks like; `auto` goes by the fields of the first row."""
    split: str | None = None
    """Of a folder or a Hub set; needed when it has more than one."""
    subset: str | None = None
    """The configuration of a Hub set."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """The share of the domain's rows that come from here."""
    fields: dict[str, str] = Field(default_factory=dict)
    """Our name of a field -> its name in the rows: `{prompt: question, completion: answer}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        if not isinstance(raw, str | Mapping | SourceSpec):
            raise ValueError("a source is a path, or a map with `path`")
        return {"path": raw} if isinstance(raw, str) else raw

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, fields: dict[str, str]) -> dict[str, str]:
        known = dict.fromkeys(name for names in FIELDS.values() for name in names)
        wrong = [f"`{name}` is unknown; {did_you_mean(name, known)}"
                 for name in fields if name not in known]  # fmt: skip
        if wrong:
            raise ValueError(f"our name stands left, the row's right: {'; '.join(wrong)}")
        return fields

    @model_validator(mode="after")
    def _fields_fit_the_type(self) -> "SourceSpec":
        types = [name for name in FIELDS if self.type in ("auto", name)]
        if not any(set(self.fields) <= set(FIELDS[name]) for name in types):
            named = ", ".join(f"`{name}`" for name in self.fields)
            if self.type == "auto":
                raise ValueError(f"`fields` renames {named}, and no type has all of them")
            has = ", ".join(FIELDS[self.type])
            raise ValueError(f"`fields` renames {named}; type `{self.type}` has {has}")
        return self


def _as_list(raw: Any) -> Any:
    return [raw] if isinstance(raw, str | Mapping | SourceSpec) else raw


class DomainSpec(Recipe):
    """One domain: the sources of its rows and, if wished, of its held-out rows."""

    sources: tuple[SourceSpec, ...]
    heldout: tuple[SourceSpec, ...] = ()
    """Held-out rows of its own; without, some rows of `sources` are held out by a seeded hash."""

    @model_validator(mode="before")
    @classmethod
    def _from_short_forms(cls, raw: Any) -> Any:
        if isinstance(raw, str | list | tuple):
            return {"sources": _as_list(raw)}
        if isinstance(raw, DomainSpec):
            return raw
        if not isinstance(raw, Mapping):
            raise ValueError("write a path, a map with `path`, or a list of them")
        if "sources" in raw:
            return raw
        source = {key: value for key, value in raw.items() if key != "heldout"}
        own = {"heldout": raw["heldout"]} if "heldout" in raw else {}
        return {"sources": [source], **own}

    @field_validator("sources", "heldout", mode="before")
    @classmethod
    def _one_or_many(cls, raw: Any) -> Any:
        return () if raw is None else _as_list(raw)

    @field_validator("sources")
    @classmethod
    def _not_empty(cls, sources: tuple[SourceSpec, ...]) -> tuple[SourceSpec, ...]:
        if not sources:
            raise ValueError("no source; a domain has at least one")
        return sources

    @field_validator("sources", "heldout")
    @classmethod
    def _shares_add_up(cls, sources: tuple[SourceSpec, ...]) -> tuple[SourceSpec, ...]:
        shares = [source.share for source in sources if source.share is not None]
        if not shares:
            return sources
        total = math.fsum(shares)
        if len(shares) == len(sources) and abs(total - 1) > 1e-6:
            raise ValueError(
                f"the shares of its sources sum to {total:g}; they must sum to 1, or leave one"
                " source without a share for the rest"
            )
        if len(shares) < len(sources) and total > 1 - 1e-6:
            raise ValueError(
                f"the shares sum to {total:g}, which leaves nothing for the sources without a share"
            )
        return sources


class DataSection(Recipe):
    """How rows become tokens: the `data:` key."""

    max_length: int = Field(default=1024, ge=2)
    """Tokens of an example, and of a packed row."""
    packing: bool = True
    """Put several examples of one domain in a row; they do not see each other."""
    chat_template: str | None = None
    """`chatml`, `alpaca`, `plain`, or a .jinja file; without, the tokenizer's own."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """What happens to an example longer than `max_length`."""
    heldout_rows: int = Field(default=256, ge=2)
    """Held-out rows of a domain, at most."""
    heldout_share: float = Field(default=0.1, gt=0, lt=1)
    """Held-out rows of a domain, at most this share of its rows."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Training rows that (nearly) equal a held-out row."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the held-out rows and of the choice of rows by `share`."""


class _DomainsFile(Recipe):
    domains: dict[str, DomainSpec]


def domains_from_dict(raw: object, source: str) -> dict[str, DomainSpec]:
    """Domains from the content of a YAML file: name -> sources, or that under `domains:`.

    `source` is what messages call the file.

    Raises:
        RecipeError: with every problem.
    """
    if isinstance(raw, Mapping) and isinstance(raw.get("domains"), Mapping):
        raw = raw["domains"]
    if not isinstance(raw, Mapping) or not raw:
        raise RecipeError(
            f"{source} names no domains. Write a name and its rows in each line, such as"
            " `law: data/law.jsonl`."
        )
    domains = validate(_DomainsFile, {"domains": raw}, source).domains
    check_names(domains, source)
    return domains


def check_names(domains: Mapping[str, object], source: str) -> None:
    """Refuses a domain's name that cannot be shown in a table or be a column.

    Raises:
        RecipeError: an empty name, a blank at its ends, or a character that cannot be printed.
    """
    wrong = [repr(name) for name in domains if not name.isprintable() or name.strip() != name
             or not name]  # fmt: skip
    if wrong:
        raise RecipeError(
            f"{source}: {', '.join(wrong)} cannot be a domain's name. A name is a word or a few,"
            " without blanks at its ends or line ends inside."
        )
