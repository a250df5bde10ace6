"""Which of two domains should be trained on first? The commutator of their gradients.

One step of plain gradient descent on domain i, then one on j, ends elsewhere than j, then i:

    theta_ij - theta_ji = eta^2 (H_j g_i - H_i g_j) + O(eta^3)

with g the gradients and H the Hessians of the two training losses (after arXiv 2501.15556; signs
derived, tests/versatune/test_order.py). For a target loss with gradient g_T and u_i = H_i g_T its
difference is eta^2 B_ij, B_ij = <u_j, g_i> - <u_i, g_j>: below 0, i should come before j.

H_i g_T comes by a central difference of gradients, so only gradients are needed: per repeat and
domain one for g_T, one for g_i, two for u_i. Every repeat takes new batches, and others for g_T
than for g and H: a batch used for both would add its own noise to the product. The spread over
repeats is the standard error. It is a diagnostic of small steps at one point, and of plain
gradient descent: Adam and a schedule may see another order.

Letters: P trainable values, k domains. Memory: k + 3 vectors of P in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from lamina.core.errors import CheckpointError, RecipeError, did_you_mean

if TYPE_CHECKING:
    import torch

SCHEMA = "lamina.order/1"
# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom: few repeats need a wide interval.
_T95 = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13,
    2.12, 2.11, 2.10, 2.09, 2.09, 2.08, 2.07, 2.07, 2.06, 2.06, 2.06, 2.05, 2.05, 2.05, 2.04,
)  # fmt: skip
_EXACT = 12
"""Up to so many domains the best sequence is found among all of them."""

TrainingGradient = Callable[..., "torch.Tensor"]
"""(domain, batch number, *, shift: [P] or None) -> [P], at the parameters displaced by `shift`."""
TargetGradient = Callable[[str, int], "torch.Tensor"]
"""(domain, batch number) -> [P], of held-out rows, at the parameters as they are."""


@dataclass(frozen=True, slots=True)
class Pair:
    """B_ij of two domains, over the repeats."""

    i: str
    j: str
    value: float
    """Nats per squared learning rate; below 0: i should come first."""
    se: float
    repeats: int

    @property
    def z(self) -> float:
        return self.value / self.se if self.se else math.copysign(math.inf, self.value)

    @property
    def first(self) -> str | None:
        """The domain that should come first; None where it may be chance (t test, 95 %)."""
        if self.value == 0 or abs(self.z) <= _t95(self.repeats - 1):
            return None
        return self.i if self.value < 0 else self.j


@dataclass(frozen=True, slots=True)
class Order:
    """What the commutators of all pairs say."""

    domains: tuple[str, ...]
    target: str | None
    """The domain whose loss counts; None: the mean over all of them."""
    pairs: tuple[Pair, ...]
    sequence: tuple[str, ...]
    """The order with the lowest loss by these numbers, shown or not."""
    repeats: int
    radius: float
    """How far the parameters were displaced for the curvature."""
    curvature_error: float
    """Relative change of the curvature at half that distance; well below 1, else it is noise."""

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "domains": list(self.domains),
            "target": self.target,
            "unit": "nats per squared learning rate",
            "pairs": [
                {
                    "domains": [pair.i, pair.j],
                    "value": pair.value,
                    "se": pair.se,
                    "z": pair.z,
                    "first": pair.first,
                }
                for pair in self.pairs
            ],
            "sequence": list(self.sequence),
            "repeats": self.repeats,
            "radius": self.radius,
            "curvature_error": self.curvature_error,
        }


def order(
    training: TrainingGradient,
    heldout: TargetGradient,
    *,
    domains: Sequence[str],
    radius: float,
    target: str | None = None,
    repeats: int = 8,
    advance: Callable[[], None] = lambda: None,
) -> Order:
    """Which domain should come first, pair by pair, with standard errors over repeats.

    Args:
        radius: length of the displacement for the central difference; small against the
            parameters, large against float32's rounding: 1e-4 of their norm is a good start.
        target: the domain whose held-out loss counts; None: the mean of all.
        advance: called once for every domain of every repeat.

    Raises:
        RecipeError: fewer than two domains, an unknown target, or fewer than two repeats.
    """
    problems = check(domains, target, repeats)
    if problems:
        raise RecipeError("; ".join(problems) + ".")
    counted = domains if target is None else [target]
    values: dict[tuple[str, str], list[float]] = {pair: [] for pair in combinations(domains, 2)}
    error = 0.0
    for repeat in range(repeats):
        total = heldout(counted[0], repeat)
        for name in counted[1:]:
            total = total + heldout(name, repeat)
        aim = total / len(counted)
        gradients = {name: training(name, repeat, shift=None) for name in domains}
        products: dict[tuple[str, str], float] = {}
        for name in domains:

            def at(shift: torch.Tensor, name: str = name, batch: int = repeat) -> torch.Tensor:
                return training(name, batch, shift=shift)

            curved = hessian_vector(at, aim, radius=radius)
            if repeat == 0:
                finer = hessian_vector(at, aim, radius=radius / 2)
                error = max(error, _relative(finer, curved))
            for other in domains:
                products[name, other] = dot(curved, gradients[other])
            advance()
        for i, j in values:
            values[i, j].append(commutator(products, i, j))
    pairs = tuple(_pair(i, j, found) for (i, j), found in values.items())
    return Order(
        domains=tuple(domains),
        target=target,
        pairs=pairs,
        sequence=best_sequence(domains, {(p.i, p.j): p.value for p in pairs}),
        repeats=repeats,
        radius=radius,
        curvature_error=error,
    )


# ---- formulas ------------------------------------------------------------------------------------


def commutator(products: Mapping[tuple[str, str], float], i: str, j: str) -> float:
    """B_ij = <u_j, g_i> - <u_i, g_j>, from the products (a, b) -> <u_a, g_b>."""
    return products[j, i] - products[i, j]


def hessian_vector(
    gradient: Callable[[torch.Tensor], torch.Tensor], vector: torch.Tensor, *, radius: float
) -> torch.Tensor:
    """H v by a central difference: |v| (g(theta + r v/|v|) - g(theta - r v/|v|)) / 2r.

    Exact where the loss is quadratic; the error falls with the square of `radius` until rounding
    takes over, with 1 / radius.
    """
    length = math.sqrt(dot(vector, vector))
    if length == 0:
        return vector * 0
    step = vector * (radius / length)
    return (gradient(step) - gradient(-step)) * (length / (2 * radius))


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """The product of two vectors, summed in float64, a slice at a time."""
    size = 2**22
    return math.fsum(
        float(a[begin : begin + size].double() @ b[begin : begin + size].double())
        for begin in range(0, len(a), size)
    )


def best_sequence(
    domains: Sequence[str], commutators: Mapping[tuple[str, str], float]
) -> tuple[str, ...]:
    """The order of all domains with the lowest sum of B_ij over i before j.

    To second order the loss after one step on each is, up to what no order changes, the sum of
    B_ij / 2 over all pairs with i before j. Exact up to twelve domains (over subsets); beyond
    that, by each domain's sum over all others. Ties keep the earlier names first.
    """

    def cost(i: str, j: str) -> float:
        return commutators[i, j] if (i, j) in commutators else -commutators[j, i]

    if len(domains) > _EXACT:
        return tuple(
            sorted(domains, key=lambda i: math.fsum(cost(i, j) for j in domains if j != i))
        )
    count = len(domains)
    # best[s]: the least cost of beginning with the domains of the bit set s, and that beginning
    best: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())] * 2**count
    best[0] = (0.0, ())
    for subset in range(2**count):
        before, placed = best[subset]
        rest = [n for n in range(count) if not subset >> n & 1]
        for n in rest:
            added = math.fsum(cost(domains[n], domains[m]) for m in rest if m != n)
            candidate = (before + added, (*placed, n))
            best[subset | 1 << n] = min(best[subset | 1 << n], candidate)
    return tuple(domains[n] for n in best[-1][1])


def _pair(i: str, j: str, found: Sequence[float]) -> Pair:
    mean = math.fsum(found) / len(found)
    variance = math.fsum((value - mean) ** 2 for value in found) / (len(found) - 1)
    return Pair(i, j, mean, math.sqrt(variance / len(found)), len(found))


def _t95(degrees: int) -> float:
    return _T95[degrees - 1] if degrees <= len(_T95) else 1.96


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    gap, size = a - b, math.sqrt(dot(b, b))
    return math.sqrt(dot(gap, gap)) / size if size else 0.0


def check(domains: Sequence[str], target: str | None, repeats: int) -> list[str]:
    """What is wrong with a question, in words."""
    problems = []
    if len(domains) < 2:
        problems.append(f"an order needs two domains or more, this has {len(domains)}")
    if target is not None and target not in domains:
        problems.append(f"target `{target}` is not a domain; {did_you_mean(target, domains)}")
    if repeats < 2:
        problems.append(f"{repeats} repeats have no spread; give 2 or more, 8 is a good start")
    return problems


# ---- a model's parameters as one vector ----------------------------------------------------------


class Parameters:
    """The trainable parameters of a model as one vector [P], to differentiate and to displace.

    Raises:
        CheckpointError: none is trainable, or one is not float32: a difference of gradients would
            drown in rounding.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        wrong = [
            name for name, p in named if str(p.dtype) not in ("torch.float32", "torch.float64")
        ]
        if not named:
            raise CheckpointError("the model has no trainable parameter: nothing has a gradient.")
        if wrong:
            raise CheckpointError(
                f"{len(wrong)} of {len(named)} trainable tensors are not float32 ({wrong[0]}, ...)."
                " Load the model in float32: a difference of gradients drowns in coarser rounding."
            )
        self.tensors = [p for _, p in named]

    @property
    def norm(self) -> float:
        """Length of the vector."""
        return math.sqrt(math.fsum(float(p.detach().double().square().sum()) for p in self.tensors))

    def gradient(
        self, loss: Callable[[], torch.Tensor], shift: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[P]: the gradient of `loss()` at the parameters displaced by `shift` [P].

        The parameters are as before afterwards, to the bit.
        """
        import torch

        with self._shifted(shift):
            found = torch.autograd.grad(loss(), self.tensors, allow_unused=True)
        parts = [
            torch.zeros_like(p) if part is None else part
            for p, part in zip(self.tensors, found, strict=True)
        ]
        return torch.cat([part.detach().reshape(-1) for part in parts])

    @contextmanager
    def _shifted(self, shift: torch.Tensor | None) -> Iterator[None]:
        import torch

        if shift is None:
            yield
            return
        saved = [p.detach().clone() for p in self.tensors]
        try:
            with torch.no_grad():
                sizes = [p.numel() for p in self.tensors]
                for p, part in zip(self.tensors, shift.split(sizes), strict=True):
                    p.add_(part.reshape(p.shape))
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.tensors, saved, strict=True):
                    p.copy_(value)
