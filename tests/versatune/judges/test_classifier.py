"""The embedded judge: tells domains apart, says how sure it is, the same every time."""

import random

import numpy as np
import pytest

from lamina.versatune.detect_recipe import ClassifierSection
from lamina.versatune.judges.classifier import ClassifierJudge, train_classifier

WORDS = {
    "law": "court judge appeal statute plaintiff ruling clause tort".split(),
    "medicine": "dose patient artery fever vaccine nerve clinic tumour".split(),
    "code": "return import class def lambda yield assert raise".split(),
}
COMMON = "the of and to in is that for it as with on by at".split()


def rows(domain: str, count: int, *, mixed: float = 0.5, seed: int = 0) -> list[str]:
    """Sentences of which a share are words that say nothing of the domain."""
    chance = random.Random(f"{domain}{seed}")
    return [
        " ".join(chance.choice(COMMON if chance.random() < mixed else WORDS[domain])
                 for _ in range(12))
        for _ in range(count)
    ]  # fmt: skip


def trained(*domains: str, mixed: float = 0.5, count: int = 60) -> ClassifierJudge:
    texts = {domain: rows(domain, count, mixed=mixed) for domain in domains}
    return train_classifier(texts, ClassifierSection(), seed=0)


@pytest.mark.parametrize("domains", [("law", "code"), ("law", "medicine", "code")])
def test_it_tells_domains_apart(domains: tuple[str, ...]) -> None:
    judge = trained(*domains)
    for number, domain in enumerate(domains):
        judged = [row for row in judge.judge(rows(domain, 30, seed=1)) if row is not None]
        assert len(judged) == 30
        assert all(sum(row) == pytest.approx(1) and len(row) == len(domains) for row in judged)
        assert np.mean([row[number] for row in judged]) > 0.95


def test_its_probabilities_are_how_often_it_is_right() -> None:
    domains = ("law", "medicine", "code")
    judge = trained(*domains, mixed=0.9, count=300)
    texts = {domain: rows(domain, 300, mixed=0.9, seed=1) for domain in domains}
    table = np.array([row for own in texts.values() for row in judge.judge(own)])
    labels = np.repeat(np.arange(3), 300)
    sure = table.max(1)
    right = table.argmax(1) == labels
    assert 0.6 < right.mean() < 0.95, "the domains must be hard to tell apart"
    for low, high in ((0.3, 0.6), (0.6, 0.85), (0.85, 1.0)):
        inside = (sure >= low) & (sure < high)
        if inside.sum() >= 50:
            assert right[inside].mean() == pytest.approx(sure[inside].mean(), abs=0.12)
    assert table.mean(0) == pytest.approx(np.full(3, 1 / 3), abs=0.04)


def test_the_same_rows_give_the_same_judge() -> None:
    texts = rows("law", 5, seed=2)
    assert list(trained("law", "code").judge(texts)) == list(trained("law", "code").judge(texts))


def test_a_small_domain_weighs_as_much_as_a_large_one() -> None:
    texts = {"law": rows("law", 200, mixed=1.0), "code": rows("code", 20, mixed=1.0)}
    judge = train_classifier(texts, ClassifierSection(), seed=0)
    judged = [row[0] for row in judge.judge(rows("law", 50, mixed=1.0, seed=3)) if row]
    assert np.mean(judged) == pytest.approx(0.5, abs=0.15)


def test_it_says_what_it_was_trained_on() -> None:
    facts = trained("law", "code").facts()
    assert facts["trained_on"] == 120
    assert facts["features"] > 50
