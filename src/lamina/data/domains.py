"""The records of all domains: read, held-out rows split off, repeats of held-out rows found.

What goes wrong in any domain is gathered, so that one message tells all of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError
from lamina.data.duplicates import find_duplicates
from lamina.data.formats import Record, to_records
from lamina.data.recipe import DataSection, DomainSpec, SourceSpec
from lamina.data.sources import read_source
from lamina.data.split import hold_out, share_counts, take


@dataclass(frozen=True, slots=True)
class Taken:
    """What a list of sources gives."""

    records: list[Record]
    sources: list[dict[str, Any]]
    """Of each source: `path`, `type`, `rows_read`, `rows` (taken), `share` (of all taken)."""


@dataclass(frozen=True, slots=True)
class DomainRecords:
    """One domain before it is encoded."""

    name: str
    training: list[Record]
    heldout: list[Record]
    sources: list[dict[str, Any]]
    heldout_sources: list[dict[str, Any]]
    """Empty where the held-out rows were split off."""
    exact: int
    """Training rows that equal a held-out row of any domain; left out if that was asked for."""
    near: int
    repeats: list[tuple[str, str]]
    """Places of the first few such rows, each with the place of the held-out row."""


@dataclass(slots=True)
class Problems:
    """What is wrong with each domain."""

    by_domain: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, problem: str) -> None:
        self.by_domain.setdefault(name, []).append(problem)

    def raise_if_any(self, *, order: Iterable[str]) -> None:
        """One DataError that tells all, domain after domain in this order."""
        if not self.by_domain:
            return
        told = [
            f"domain {name}: {problem}".replace("\n", "\n  ")
            for name in order
            for problem in self.by_domain.get(name, ())
        ]
        if len(told) == 1:
            raise DataError(told[0])
        raise DataError(f"{len(told)} problems with the domains' rows:\n\n" + "\n\n".join(told))


def read_records(spec: DomainSpec, *, home: Path, seed: int = 0) -> list[Record]:
    """All rows of a domain's sources, in order; `share` of a source is kept by a seeded choice.

    Raises:
        DataError: a source that cannot be read, or rows that are not what they must be.
    """
    return take_sources(spec.sources, home=home, seed=seed).records


def take_sources(sources: Sequence[SourceSpec], *, home: Path, seed: int) -> Taken:
    """The rows of a list of sources, in order, and what each source gave.

    Raises:
        DataError: with the problems of all sources.
    """
    problems: list[str] = []
    read: list[tuple[SourceSpec, str, list[Record]]] = []
    for source in sources:
        try:
            rows = read_source(source, home=home)
            kind, records = to_records(rows, source.type, fields=source.fields, source=source.path)
            read.append((source, kind, records))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    counts = share_counts([len(records) for *_, records in read], [s.share for s in sources])
    total = sum(counts)
    if not total:
        raise DataError("its shares leave no row; give the smallest source more rows")
    taken = [
        take(records, count, seed=seed) for (*_, records), count in zip(read, counts, strict=True)
    ]
    told = [
        {
            "path": source.path,
            "type": kind,
            "rows_read": len(records),
            "rows": count,
            "share": count / total,
        }
        for (source, kind, records), count in zip(read, counts, strict=True)
    ]
    return Taken([record for records in taken for record in records], told)


def read_domains(
    specs: Mapping[str, DomainSpec], section: DataSection, *, home: Path, problems: Problems
) -> list[DomainRecords]:
    """The domains that can be read, in order; what is wrong with the others goes to `problems`."""
    domains: list[DomainRecords] = []
    for name, spec in specs.items():
        try:
            domains.append(_read_domain(name, spec, section, home=home))
        except DataError as error:
            problems.add(name, str(error))
    return _without_repeats(domains, section, problems)


def _read_domain(name: str, spec: DomainSpec, section: DataSection, *, home: Path) -> DomainRecords:
    found = take_sources(spec.sources, home=home, seed=section.seed)
    if spec.heldout:
        own = take_sources(spec.heldout, home=home, seed=section.seed)
        training, heldout, heldout_sources = found.records, own.records, own.sources
        if len(heldout) < 2:
            raise DataError("no held-out rows: `heldout:` gives 1 row, at least 2 are needed")
    else:
        training, heldout = hold_out(
            found.records,
            rows=section.heldout_rows,
            share=section.heldout_share,
            seed=section.seed,
        )
        heldout_sources = []
    return DomainRecords(
        name, training, heldout, found.sources, heldout_sources, exact=0, near=0, repeats=[]
    )


def _without_repeats(
    domains: list[DomainRecords], section: DataSection, problems: Problems
) -> list[DomainRecords]:
    """The domains with their repeats counted and, if asked for, dropped from training.

    A row is compared with the held-out rows of all domains: what is held out of one must not be
    trained on in another.
    """
    training = [(d, record) for d in domains for record in d.training]
    heldout = [record for d in domains for record in d.heldout]
    found = find_duplicates([r.whole for _, r in training], [r.whole for r in heldout])
    repeats = {**found.exact, **found.near}
    kept: list[DomainRecords] = []
    first = 0
    for domain in domains:
        numbers = range(first, first + len(domain.training))
        first += len(domain.training)
        mine = [number for number in numbers if number in repeats]
        left = domain.training
        if section.duplicates == "drop":
            left = [training[number][1] for number in numbers if number not in repeats]
        if not left:
            problems.add(
                domain.name,
                f"all its {len(domain.training)} training rows repeat held-out rows. Give other"
                " held-out rows, or set `duplicates: keep`.",
            )
            continue
        kept.append(
            DomainRecords(
                name=domain.name,
                training=left,
                heldout=domain.heldout,
                sources=domain.sources,
                heldout_sources=domain.heldout_sources,
                exact=sum(number in found.exact for number in mine),
                near=sum(number in found.near for number in mine),
                repeats=[
                    (training[number][1].place, heldout[repeats[number]].place)
                    for number in mine[:5]
                ],
            )
        )
    return kept
