"""The domains of a recipe become rows to train on and held-out examples, with an account of both.

Everything is in memory: flat arrays of tokens, about 5 bytes a token, and the places of the rows.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lamina.core.errors import CheckpointError, DataError, RecipeError
from lamina.data.account import account, left_out, samples, sizes
from lamina.data.domains import DomainRecords, Problems, read_domains, read_records
from lamina.data.encode import Counts, Examples, encode
from lamina.data.pack import Rows, pack, unpacked
from lamina.data.recipe import DataSection, DomainSpec
from lamina.data.templates import Template, choose_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["DomainData", "load_domains", "read_records"]


@dataclass(frozen=True, slots=True)
class DomainData:
    """One domain, ready: what is trained on, what its loss is measured on, and how they came."""

    name: str
    train: Rows
    heldout: Examples
    report: dict[str, Any]
    """Its entry of `data.json`."""
    fingerprint: str
    """SHA-256 over the tokens of both, what of them is trained, and the packing."""


def load_domains(
    specs: Mapping[str, DomainSpec],
    tokenizer: "PreTrainedTokenizerBase",
    section: DataSection,
    *,
    home: Path,
    num_embeddings: int | None,
    num_positions: int | None = None,
    tell: Callable[[str], None] | None,
) -> dict[str, DomainData]:
    """Reads, splits, encodes and packs all domains of a recipe that lies in the folder `home`.

    `num_embeddings` are the rows of the model's input embedding, `num_positions` the tokens that
    it reads at once; None leaves them unchecked. What a person should know of each domain is told
    in a few lines.

    Raises:
        CheckpointError: the tokenizer has more tokens than the model has embeddings.
        DataError: all that is wrong with the rows of all domains.
        RecipeError: a chat template or a tokenizer with which no row could be encoded, or an
            example longer than the model reads.
    """
    if num_embeddings is not None and len(tokenizer) > num_embeddings:
        raise CheckpointError(_too_few(len(tokenizer), num_embeddings))
    template = choose_template(section.chat_template, tokenizer, home=home)
    problems = Problems()
    domains: dict[str, DomainData] = {}
    for records in read_domains(specs, section, home=home, problems=problems):
        try:
            domains[records.name] = _load(records, tokenizer, section, template)
        except DataError as error:
            problems.add(records.name, str(error))
    problems.raise_if_any(order=specs)
    largest = max((_largest(domain) for domain in domains.values()), default=0)
    if num_embeddings is not None and largest >= num_embeddings:
        raise CheckpointError(_too_few(largest + 1, num_embeddings))
    for domain in domains.values():
        for examples in (domain.train.examples, domain.heldout):
            refuse_longer(examples, num_positions)
    if tell is not None:
        dropped = section.duplicates == "drop"
        for name, domain in domains.items():
            for line in account(
                name, domain.report, max_length=section.max_length, dropped=dropped
            ):
                tell(line)
    return domains


def refuse_longer(examples: Examples, num_positions: int | None) -> None:
    """Refuses examples that are longer than the model reads; packed rows may be: positions restart.

    Raises:
        RecipeError: with the longest one.
    """
    longest = int(examples.lengths.max(initial=0))
    if num_positions is not None and longest > num_positions:
        place = examples.places[int(examples.lengths.argmax())]
        raise RecipeError(
            f"data.max_length lets examples have more tokens than the model reads at once:"
            f" {place} has {longest:,}, the model reads {num_positions:,}. Set max_length to"
            f" {num_positions} or less; longer ones are then cut, or dropped by `too_long: drop`."
        )


def _largest(domain: DomainData) -> int:
    return max(int(part.ids.max()) for part in (domain.train.examples, domain.heldout))


def _too_few(num_tokens: int, num_embeddings: int) -> str:
    return (
        f"the tokenizer has {num_tokens:,} tokens, but the model's embedding has"
        f" {num_embeddings:,} rows. Use the tokenizer that belongs to the model, or resize the"
        " model's embedding first."
    )


def _load(
    records: DomainRecords,
    tokenizer: "PreTrainedTokenizerBase",
    section: DataSection,
    template: Template | None,
) -> DomainData:
    """One domain.

    Raises:
        DataError: too few of its rows, training or held-out, have something to train on.
    """
    encoded: list[Examples] = []
    counted = Counts()
    problems: list[str] = []
    for part, rows, needed in (
        ("training", records.training, 1),
        ("held-out", records.heldout, 2),
    ):
        try:
            examples, counts = encode(
                rows,
                tokenizer,
                max_length=section.max_length,
                template=template,
                too_long=section.too_long,
            )
        except DataError as error:
            problems.append(str(error))
            continue
        encoded.append(examples)
        counted += counts
        if len(examples) < needed:
            problems.append(_unusable(part, counts, section))
    if problems:
        raise DataError("\n".join(problems))
    training, heldout = encoded
    train = pack(training, max_length=section.max_length) if section.packing else unpacked(training)
    report = {
        "sources": records.sources,
        "heldout_sources": records.heldout_sources,
        "rows_read": sum(source["rows_read"] for source in records.sources),
        **sizes(train, heldout, max_length=section.max_length),
        "truncated": counted.truncated,
        "dropped_too_long": counted.dropped_too_long,
        "empty_completions": counted.empty_completions,
        "merged_borders": counted.merged_borders,
        "no_end_mark": counted.no_end_mark,
        "turn_by_turn": counted.turn_by_turn,
        "left_out": counted.left_out,
        "spelled_tokens": counted.spelled_tokens,
        "exact_duplicates": records.exact,
        "near_duplicates": records.near,
        "repeats": [list(pair) for pair in records.repeats],
        "samples": samples(training, tokenizer),
    }
    return DomainData(records.name, train, heldout, report, _fingerprint(train, heldout))


def _unusable(part: str, counts: Counts, section: DataSection) -> str:
    """Why a domain has too few examples, and what would give it some."""
    told = f"of its {counts.records:,} {part} rows "
    why = left_out(
        max_length=section.max_length,
        too_long=counts.dropped_too_long,
        empty=counts.empty_completions,
    )
    few = "none can be used" if not counts.examples else f"only {counts.examples} can be used"
    mend = []
    if counts.dropped_too_long:
        cut = " or `too_long: truncate`" if section.too_long == "drop" else ""
        mend.append(f"raise `max_length`{cut}")
    if counts.empty_completions:
        mend.append("give rows that an assistant answers, or running text")
    needed = "" if part == "training" else " At least 2 are needed."
    told += f"{few}: {why}.{needed}"
    return f"{told} To mend it, {', or '.join(mend)}." if mend else told


def _fingerprint(train: Rows, heldout: Examples) -> str:
    digest = hashlib.sha256(b"lamina.domain/1")
    lengths = np.array([len(row) for row in train.members], np.int64)
    for array in (
        *(part for side in (train.examples, heldout) for part in (side.starts, side.ids)),
        *(side.trained for side in (train.examples, heldout)),
        lengths,
        np.concatenate(train.members),
    ):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(array.tobytes())
    return digest.hexdigest()
