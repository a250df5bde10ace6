"""The interface of judges and where they are made. Each one's own module is imported late."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError
from lamina.versatune.shares import Judgement

if TYPE_CHECKING:
    from lamina.versatune.detect_recipe import DetectSection

LEAST_ROWS = 10
"""Different labelled rows that every domain needs: 8 to learn from and 2 to be tested with."""


class JudgeStopped(DataError):
    """A judge that cannot go on; what it has judged so far is kept."""


class Judge(abc.ABC):
    """Texts -> for each, a probability of each domain, or None where there is no answer."""

    @abc.abstractmethod
    def judge(self, texts: Sequence[str]) -> Iterator[Judgement]:
        """One judgement a text, in order, each as soon as it is known.

        Raises:
            JudgeStopped: it cannot go on.
        """

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """What `shares.json` says of it besides how often it is right. JSON, no secrets."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Texts whose domain is known: some to learn from, others to be tested with."""

    train: Mapping[str, tuple[str, ...]]
    heldout: Mapping[str, tuple[str, ...]]

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(self.train)


def split_labelled(
    texts: Mapping[str, Sequence[str]], *, heldout_share: float, most: int, seed: int
) -> Labelled:
    """A seeded split of each domain's different texts; blank ones are left out.

    A text's place depends on the seed and itself only, not on its neighbours. `most` of a domain
    are kept for each of the two parts.

    Raises:
        DataError: a domain with fewer than 10 different texts; all such in one message.
    """
    train, heldout, short = {}, {}, []
    for domain, rows in texts.items():
        different = shuffled(rows, seed=seed)
        if len(different) < LEAST_ROWS:
            short.append(f"{domain}: {len(different)} different texts in {len(rows)} rows")
            continue
        held = max(2, round(heldout_share * len(different)))
        heldout[domain] = tuple(different[:held][:most])
        train[domain] = tuple(different[held:][:most])
    if short:
        told = "".join(f"\n  {line}" for line in short)
        raise DataError(
            f"Too few labelled rows to know a domain by; each needs {LEAST_ROWS}.{told}\nGive "
            "these domains more rows, or take `judge: losses`, which needs only a few."
        )
    return Labelled(train, heldout)


def shuffled(texts: Sequence[str], *, seed: int) -> list[str]:
    """The different texts that are not blank, in an order that the seed and each text give."""
    return sorted({text for text in texts if text.strip()}, key=lambda t: (_place(seed, t), t))


def cut_like(texts: Sequence[str], lengths: Sequence[int], *, seed: int) -> list[str]:
    """Texts cut to lengths (in characters) like those of the sampled texts.

    A judge that is trained or tested on whole documents is told more than it will be told of the
    sampled texts. Which length a text gets is a function of the seed and the text.
    """
    pool = sorted(length for length in lengths if length > 0)
    assert pool, "no length to cut to"
    return [text[: pool[_place(seed + 1, text) % len(pool)]] for text in texts]


def make_judge(
    section: DetectSection,
    labelled: Labelled,
    *,
    lengths: Sequence[int],
    home: Path | None = None,
    tell: Callable[[str], None],
) -> Judge:
    """The judge that a recipe asks for, ready; `lengths` are those of sampled texts."""
    domains = labelled.domains
    match section.judge:
        case "classifier":
            from lamina.versatune.judges.classifier import train_classifier

            cut = {
                domain: cut_like(texts, lengths, seed=section.seed)
                for domain, texts in labelled.train.items()
            }
            tell(f"training the classifier on {sum(map(len, cut.values()))} rows")
            return train_classifier(cut, section.classifier, seed=section.seed)
        case "model":
            from lamina.versatune.judges.model import load_judge

            assert section.model is not None, "checked by the recipe"
            tell(f"loading the judge {section.model.path}")
            return load_judge(section.model, domains, home=home)
        case "endpoint":
            from lamina.versatune.judges.endpoint import EndpointJudge

            assert section.endpoint is not None, "checked by the recipe"
            return EndpointJudge(section.endpoint, domains, key=section.api_key())
        case _:
            raise AssertionError(f"no judge is needed for {section.judge}")


def num_checks(section: DetectSection) -> int:
    """Labelled rows of a domain that a judge is put to the test with, at most."""
    asked = {"model": section.model, "endpoint": section.endpoint}.get(section.judge)
    return section.classifier.rows if asked is None else asked.rows


def _place(seed: int, text: str) -> int:
    digest = hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")
