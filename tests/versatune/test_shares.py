"""Shares from judged texts: worked by hand, by laws, and corrected where the answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.versatune.shares import (
    Confusion,
    as_rows,
    average,
    correct,
    from_losses,
    on_simplex,
    raise_to_floor,
    spread_of,
)

SHARES = st.lists(st.floats(0.001, 1), min_size=2, max_size=6).map(
    lambda values: np.array(values) / sum(values)
)


def sure(*domains: int, k: int = 3) -> list[tuple[float, ...]]:
    """Answers that are sure of a domain each."""
    return [tuple(float(d == domain) for d in range(k)) for domain in domains]


def test_an_average_by_hand() -> None:
    rows = as_rows(sure(0, 0, 0, 1, 1, 0, 0), 3)
    found = average(rows, laplace=1)
    assert found.shares.tolist() == pytest.approx([0.6, 0.3, 0.1])
    assert found.se.tolist() == pytest.approx(
        [math.sqrt(0.24 / 10), math.sqrt(0.21 / 10), math.sqrt(0.09 / 10)]
    )
    assert found.covariance[0, 1] == pytest.approx(-0.6 * 0.3 / 10)


def test_without_smoothing_it_is_the_mean() -> None:
    rows = as_rows([(0.9, 0.1), (0.5, 0.5), (0.1, 0.9)], 2)
    found = average(rows, laplace=0)
    assert found.shares.tolist() == pytest.approx([0.5, 0.5])
    assert found.se[0] == pytest.approx(math.sqrt((0.16 + 0.16) / 9))


def test_an_invalid_answer_counts_the_same_for_every_domain() -> None:
    rows = as_rows([None, *sure(0)], 3)
    assert rows[0].tolist() == pytest.approx([1 / 3] * 3)
    assert average(rows, laplace=0).shares[0] == pytest.approx((1 / 3 + 1) / 2)


def test_ten_equal_answers_are_no_certainty() -> None:
    found = average(as_rows(sure(*[0] * 10), 3), laplace=1)
    assert found.se[0] == pytest.approx(math.sqrt(11 / 13 * 2 / 13 / 13))


def test_the_spread_of_repeats_by_hand() -> None:
    assert spread_of([np.array([0.5, 0.5])]) is None
    spread = spread_of([np.array([0.4, 0.6]), np.array([0.6, 0.4])])
    assert spread is not None
    assert spread.tolist() == pytest.approx([0.1, 0.1])


@given(SHARES, st.floats(0, 1))
def test_the_floor_holds_and_the_rest_keeps_its_proportions(
    shares: np.ndarray, part: float
) -> None:
    floor = part / len(shares)
    raised = raise_to_floor(shares, floor)
    assert raised.sum() == pytest.approx(1)
    assert (raised >= floor - 1e-12).all()
    above = raised > floor + 1e-9
    if above.sum() > 1:
        ratios = raised[above] / shares[above]
        assert ratios.max() == pytest.approx(ratios.min())


def test_a_floor_that_pushes_another_below_it() -> None:
    raised = raise_to_floor(np.array([0.0, 0.3, 0.7]), 0.3)
    assert raised.tolist() == pytest.approx([0.3, 0.3, 0.4])


@given(SHARES, st.integers(0, 1000))
def test_a_point_of_the_simplex_is_found_again(shares: np.ndarray, seed: int) -> None:
    k = len(shares)
    matrix = np.eye(k) + 0.3 * np.random.default_rng(seed).random((k, k))
    assert on_simplex(matrix, matrix @ shares) == pytest.approx(shares, abs=1e-6)


@given(st.integers(0, 300))
def test_no_point_of_the_simplex_is_nearer(seed: int) -> None:
    generator = np.random.default_rng(seed)
    k = int(generator.integers(2, 5))
    matrix, target = generator.normal(size=(k, k)), generator.normal(size=k)
    found = on_simplex(matrix, target)
    others = generator.dirichlet(np.full(k, 0.5), size=300)
    best = np.linalg.norm(matrix @ found - target)
    assert (best <= np.linalg.norm(others @ matrix.T - target, axis=1) + 1e-9).all()
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()


def noisy_confusion(matrix: np.ndarray, rows: int, generator: np.random.Generator) -> Confusion:
    """A judge that is sure of a domain each time, drawn from the matrix."""
    k = len(matrix)
    return Confusion.of([sure(*generator.choice(k, rows, p=matrix[t]), k=k) for t in range(k)])


def test_a_correction_undoes_known_mistakes_within_its_errors() -> None:
    true = np.array([0.6, 0.3, 0.1])
    matrix = np.array([[0.8, 0.15, 0.05], [0.1, 0.85, 0.05], [0.2, 0.2, 0.6]])
    distances, uncorrected = [], []
    for seed in range(100):
        generator = np.random.default_rng(seed)
        judged = generator.choice(3, 1000, p=true @ matrix)
        measured = average(as_rows(sure(*judged), 3))
        found = correct(measured, noisy_confusion(matrix, 200, generator), seed=seed)
        distances.append((found.shares - true) / found.se)
        uncorrected.append(np.abs((measured.shares - true) / measured.se).max())
    z = np.array(distances)
    assert (np.abs(z) < 2).mean() > 0.92
    assert 0.85 < np.sqrt((z**2).mean()) < 1.15
    assert np.mean(uncorrected) > 3, "the mistakes must matter"


def test_a_correction_of_a_judge_that_is_never_wrong_changes_nothing() -> None:
    measured = average(as_rows(sure(0, 0, 1, 2), 3))
    confusion = Confusion.of([sure(*[t] * 50) for t in range(3)])
    found = correct(measured, confusion)
    assert found.shares == pytest.approx(measured.shares)
    assert found.se == pytest.approx(measured.se, rel=0.25)
    assert confusion.amplification == pytest.approx(1)


def test_a_correction_is_the_same_every_time() -> None:
    measured = average(as_rows(sure(0, 0, 1, 2), 3))
    confusion = Confusion.of([sure(0, 0, 1), sure(1, 1, 1, 2), sure(2, 2, 0)])
    first, again = (correct(measured, confusion, seed=3) for _ in range(2))
    assert (first.shares == again.shares).all()
    assert (first.covariance == again.covariance).all()


def test_accuracy_and_confusion_by_hand() -> None:
    confusion = Confusion.of([[(0.7, 0.3), (0.2, 0.8)], [(0.5, 0.5), None]])
    assert confusion.matrix.tolist() == [[pytest.approx(0.45), pytest.approx(0.55)], [0.5, 0.5]]
    assert confusion.num_rows == 4
    assert confusion.accuracy == pytest.approx((1 + 0 + 0.5 + 0.5) / 4)
    assert confusion.accuracy_se == pytest.approx(0.25)
    assert confusion.invalid == 1


def test_two_domains_that_look_alike_have_no_correction() -> None:
    alike = Confusion.of([[(0.5, 0.5)] * 3, [(0.5, 0.5)] * 3])
    assert alike.amplification == math.inf


def test_shares_from_losses_by_hand() -> None:
    found = from_losses([math.log(2), math.log(4), math.log(4)], [0.1, 0.0, 0.0])
    assert found.shares.tolist() == pytest.approx([0.5, 0.25, 0.25])
    assert found.se.tolist() == pytest.approx([0.5 * 0.5 * 0.1, 0.0125, 0.0125])
