"""The three controls of a LATA merge, and what is said of them."""

import math

import pytest

from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores
from lamina.evaluate.perplexity import TextLoss
from lamina.jobs.controls import (
    against_permuted,
    controls_table,
    permuted_plan,
    reversed_plan,
    same_norm_plan,
    signed_difference,
)

SQUARES = {"0": 4.0, "1": 1.0, "2": 9.0, "3": 2.0}


def scores() -> LayerScores:
    return LayerScores(
        method="lata_cosine",
        unit="cosine",
        granularity="block",
        higher_means="more like the instruction vector",
        values={"0": 0.9, "1": 0.2, "2": 0.5, "3": 0.7},
        columns={"B": SQUARES},
        model="m",
        inputs={},
    )


def plan() -> LayerPlan:
    return LayerPlan(
        granularity="block",
        coefficients={"0": 0.25, "1": 1.0, "2": 0.75, "3": 0.5},
        others=0.5,
        rule="linear_drop",
        from_scores="scores.json",
    )


def loss(*sums: float) -> TextLoss:
    """Rows of ten tokens each."""
    return TextLoss(
        loss_sum=math.fsum(sums),
        tokens=10 * len(sums),
        words=len(sums),
        bytes=len(sums),
        row_sums=sums,
        row_tokens=(10,) * len(sums),
    )


def test_same_norm_has_the_norm_and_one_coefficient() -> None:
    found = same_norm_plan(scores(), plan())
    assert len(set(found.coefficients.values())) == 1
    assert found.others == 0.5

    def norm(one: LayerPlan) -> float:
        return math.fsum(c * c * SQUARES[unit] for unit, c in one.coefficients.items())

    assert norm(found) == pytest.approx(norm(plan()), rel=1e-12)
    # By hand: (.25^2 4 + 1 + .75^2 9 + .5^2 2) / 16 = 6.8125 / 16
    assert found.coefficients["0"] == pytest.approx(math.sqrt(6.8125 / 16), rel=1e-12)


def test_permuted_deals_the_same_coefficients_by_its_seed() -> None:
    drawn = [permuted_plan(scores(), plan(), f"0/permuted_{i}/math") for i in range(20)]
    assert all(
        sorted(one.coefficients.values()) == sorted(plan().coefficients.values()) for one in drawn
    )
    assert all(list(one.coefficients) == ["0", "1", "2", "3"] for one in drawn)
    assert len({tuple(one.coefficients.values()) for one in drawn}) > 5
    assert drawn[3] == permuted_plan(scores(), plan(), "0/permuted_3/math")


def test_reversed_gives_the_first_what_the_last_had() -> None:
    # By falling similarity: 0, 3, 2, 1 with coefficients .25, .5, .75, 1.
    found = reversed_plan(scores(), plan())
    assert found.coefficients == {"0": 1.0, "1": 0.25, "2": 0.5, "3": 0.75}


def test_a_forgotten_domain_counts_with_a_minus() -> None:
    first = {"math": loss(10, 20, 30), "unwanted": loss(40, 50, 60)}
    second = {"math": loss(11, 21, 31), "unwanted": loss(44, 54, 64)}
    found = signed_difference(first, second, {"math": 1.0, "unwanted": -1.0})
    assert found.value == pytest.approx((-0.1 + 0.4) / 2)


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (1.0, "The ranking carried information"),
        (-1.0, "The ranking did harm"),
        (0.0, "No information shown"),
    ],
)
def test_the_verdict(shift: float, said: str) -> None:
    merge = {"math": loss(10, 20, 30, 20)}
    permuted = {
        f"permuted_{i + 1}": {"math": loss(*(s + shift + 0.01 * i for s in (10, 20, 30, 20)))}
        for i in range(3)
    }
    if not shift:
        permuted["permuted_1"] = {"math": loss(9, 21, 28, 22)}
    others = {"same_norm": {"math": loss(10, 21, 30, 19)}, "reversed": merge}
    table = controls_table(merge, {**permuted, **others}, {"math": 1.0})
    assert table["text"].startswith(said)
    assert table["rows"][0]["name"] == "lata"
    assert table["permuted"]["draws"] == 3


def test_the_error_counts_documents_and_draws() -> None:
    """Draws that differ widely widen the error, though each document agrees with itself."""
    merge = {"math": loss(10, 20, 30)}
    near = [{"math": loss(11, 21, 31)} for _ in range(4)]
    far = [{"math": loss(11 + d, 21 + d, 31 + d)} for d in (-3, -1, 1, 3)]
    calm = against_permuted(near, merge, {"math": 1.0})
    wild = against_permuted(far, merge, {"math": 1.0})
    assert calm.value == pytest.approx(wild.value) == pytest.approx(0.1)
    assert calm.se is not None
    assert wild.se is not None
    assert calm.se < 1e-9
    # Standard deviation of (-.2, 0, .2, .4) over the root of 4.
    assert wild.se == pytest.approx(math.sqrt(0.2 / 3) / 2, rel=1e-9)
