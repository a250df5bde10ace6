"""From judged texts to shares of domains, with their standard errors. Pure: numbers in and out.

Detection of VersaTune (arXiv 2411.11266, its figure): the probabilities that a judge gives to each
sampled text are averaged. What is ours: an answer that could not be read counts as knowing nothing
(the same probability for every domain), it is not dropped; Laplace smoothing; the judge's mistakes
undone by its confusion matrix; a floor.

Letters: n texts, k domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Judgement = tuple[float, ...] | None
"""A probability for each domain, in the recipe's order; None: no answer that can be used."""

MOST_AMPLIFIED = 10.0
"""A correction that makes errors of the measured shares larger than so many times is not made."""
_DRAWS = 500


@dataclass(frozen=True, slots=True)
class Estimate:
    """Shares of the domains with what is known of their errors."""

    shares: np.ndarray
    """[k], sums to 1."""
    covariance: np.ndarray
    """[k, k], of the shares, over texts."""

    @property
    def se(self) -> np.ndarray:
        """Standard errors [k]."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def as_rows(judged: Sequence[Judgement], k: int) -> np.ndarray:
    """Probabilities [n, k], each row's sum 1; an invalid answer is 1/k for every domain."""
    rows = np.array([row if row is not None else (1 / k,) * k for row in judged], dtype=np.float64)
    rows = rows.reshape(len(judged), k)
    return rows / rows.sum(1, keepdims=True)


def average(rows: np.ndarray, *, laplace: float = 1.0) -> Estimate:
    """The mean of rows [n, k], with `laplace` texts of each domain added before.

    The added texts count in the spread, too: a judge that is always sure of one domain does not
    give a standard error of 0 after ten texts. For rows that are all 0 or 1 it is
    sqrt(p (1 - p) / (n + k laplace)).
    """
    n, k = rows.shape
    total = n + k * laplace
    assert total > 0, "no text and no smoothing"
    shares = (rows.sum(0) + laplace) / total
    off, added = rows - shares, np.eye(k) - shares
    scatter = off.T @ off + laplace * added.T @ added
    return Estimate(shares, scatter / total**2)


def spread_of(repeats: Sequence[np.ndarray]) -> np.ndarray | None:
    """Standard error [k] of the mean of repeats from how they differ; None for fewer than two."""
    if len(repeats) < 2:
        return None
    return np.std(np.stack(repeats), axis=0, ddof=1) / np.sqrt(len(repeats))


@dataclass(frozen=True, slots=True)
class Confusion:
    """What a judge says of texts whose domain is known, that it has not seen."""

    rows: tuple[np.ndarray, ...]
    """For each true domain, the judge's probabilities [rows, k]; invalid answers are 1/k each."""
    invalid: int = 0

    @classmethod
    def of(cls, judged: Sequence[Sequence[Judgement]]) -> Confusion:
        """From the judgements of each domain's labelled rows."""
        k = len(judged)
        invalid = sum(row is None for rows in judged for row in rows)
        return cls(tuple(as_rows(rows, k) for rows in judged), invalid)

    @property
    def matrix(self) -> np.ndarray:
        """[k, k]: mean probability of the judged domain (column) by the true one (row)."""
        return np.stack([rows.mean(0) for rows in self.rows])

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for rows in self.rows)

    @property
    def accuracy(self) -> float:
        """How often the true domain is the likeliest; a tie is shared among the tied."""
        return float(np.concatenate(self._right()).mean())

    @property
    def accuracy_se(self) -> float:
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.num_rows))

    @property
    def balanced(self) -> float:
        """The mean of the domains' own accuracies: 1/k by chance, however many rows each has."""
        return float(np.mean([right.mean() for right in self._right()]))

    @property
    def balanced_se(self) -> float:
        own = [(right.mean(), len(right)) for right in self._right()]
        return float(np.sqrt(sum(p * (1 - p) / n for p, n in own)) / len(own))

    def _right(self) -> list[np.ndarray]:
        """Of each true domain's rows how right they are: 1, 0, or a share of a tie."""
        right = []
        for true, rows in enumerate(self.rows):
            best = rows == rows.max(1, keepdims=True)
            right.append(best[:, true] / best.sum(1))
        return right

    @property
    def amplification(self) -> float:
        """How many times a correction makes an error of the measured shares larger, at worst.

        One over the smallest singular value of the matrix; 1 for a judge that is never wrong,
        infinite for one that cannot tell two domains apart.
        """
        smallest = float(np.linalg.svd(self.matrix, compute_uv=False)[-1])
        return 1 / smallest if smallest > 1e-12 else float("inf")


def correct(measured: Estimate, confusion: Confusion, *, seed: int = 0) -> Estimate:
    """The shares that such a judge would measure as it did: least squares on the simplex.

    Minimises |C^T x - m|^2 for measured shares m and the confusion matrix C over x >= 0 with sum
    1. The covariance is that of 500 repetitions with m and every row of C drawn anew from normal
    distributions with their own sampling errors (seeded), so it holds at the simplex's edges too.
    """
    solved = on_simplex(confusion.matrix.T, measured.shares)
    generator = np.random.default_rng(seed)
    drawn = _normals(generator, measured.shares, measured.covariance)
    matrices = np.stack(
        [_normals(generator, rows.mean(0), _covariance_of_mean(rows)) for rows in confusion.rows],
        axis=1,
    )  # [draws, true, judged]
    again = np.stack([on_simplex(C.T, m) for C, m in zip(matrices, drawn, strict=True)])
    return Estimate(solved, np.cov(again.T).reshape(measured.covariance.shape))


def on_simplex(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The x >= 0 with sum 1 for which |matrix x - target| is smallest.

    As x sums to 1, matrix x - target = G x with G = matrix - target 1^T: this is the point of the
    hull of G's columns next to 0. Non-negative least squares of [G; 1^T] y = [0; 1] finds it
    exactly, y being in proportion to x: its least residual for a given x is |Gx|^2/(1 + |Gx|^2).
    """
    from scipy.optimize import nnls

    gaps = matrix - target[:, None]
    stacked = np.vstack([gaps, np.ones(gaps.shape[1])])
    y, _ = nnls(stacked, np.append(np.zeros(len(gaps)), 1.0))
    return y / y.sum()


def raise_to_floor(shares: np.ndarray, floor: float) -> np.ndarray:
    """Shares of which none is below `floor`; what that costs the others pay in proportion."""
    assert floor * len(shares) <= 1 + 1e-12, f"{len(shares)} domains cannot all have {floor}"
    low = np.zeros(len(shares), dtype=bool)
    raised = shares.astype(np.float64)
    while True:
        below = ~low & (raised < floor)
        if not below.any():
            return raised
        low |= below
        rest = shares[~low].sum()
        raised = np.where(low, floor, shares * ((1 - floor * low.sum()) / rest if rest else 0.0))


def from_losses(losses: Sequence[float], ses: Sequence[float]) -> Estimate:
    """Shares in proportion to exp(-loss), losses in nats per token of held-out rows.

    exp(-loss) is the geometric mean of the probability that the model gives to the right token of
    a domain: ours, for where there is no judge. It says how well a domain's own rows are
    predicted, not how often the model would write of it: a domain of monotonous text gets more.
    The covariance is by the delta method, ds_i = -s_i (dl_i - sum_j s_j dl_j).
    """
    values = -np.asarray(losses, dtype=np.float64)
    powers = np.exp(values - values.max())
    shares = powers / powers.sum()
    slopes = -(np.diag(shares) - np.outer(shares, shares))
    variances = np.diag(np.asarray(ses, dtype=np.float64) ** 2)
    return Estimate(shares, slopes @ variances @ slopes.T)


def named(domains: Sequence[str], values: np.ndarray) -> Mapping[str, float]:
    """Domain -> number."""
    return {name: float(value) for name, value in zip(domains, values, strict=True)}


def _covariance_of_mean(rows: np.ndarray) -> np.ndarray:
    """Covariance of the mean of [n, k] rows, smoothed as `average` is by one row in all.

    Without, a row of the matrix that came from two equal answers would count as exact.
    """
    k = rows.shape[1]
    return average(rows, laplace=1 / k).covariance


def _normals(generator: np.random.Generator, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    return generator.multivariate_normal(mean, cov, size=_DRAWS, method="eigh")
