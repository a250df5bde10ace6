"""The two numbers of VersaTune: what a domain can still learn, and what it has forgotten."""

import math
from collections.abc import Mapping

from lamina.core.domains import DomainLosses, RowLosses, Unit, change
from lamina.core.errors import RecipeError
from lamina.versatune.seen import Seen

Z = 1.0
"""A rise of a loss counts above so many standard errors of the paired change."""


def potential(
    losses: Mapping[str, float], reference: Mapping[str, float] | None
) -> dict[str, float]:
    """gamma_j = max((l_j - l_ref_j) / l_j, 0), the share of its loss a domain can still lose.

    In [0, 1]; 0 where the loss is 0; empty without reference losses.
    """
    if reference is None:
        return {}
    return {
        name: max((loss - reference[name]) / loss, 0.0) if loss > 0 else 0.0
        for name, loss in losses.items()
    }


def forgetting(losses: Mapping[str, float], previous: Mapping[str, float]) -> dict[str, float]:
    """phi_j = max((l_j(t) - l_j(t-1)) / l_j(t-1), 0), the share by which a loss has risen."""
    return {
        name: max((loss - previous[name]) / previous[name], 0.0) if previous[name] > 0 else 0.0
        for name, loss in losses.items()
    }


def proven_forgetting(
    losses: DomainLosses, previous: DomainLosses, *, z: float = Z, unit: Unit = "nats per token"
) -> dict[str, float]:
    """phi, but 0 where the paired change is within `z` of its standard errors.

    Noise alone makes max(., 0) positive: the mean of phi over domains that stand still is not 0.
    """
    phi = forgetting(losses.losses(unit), previous.losses(unit))

    def proven(after: RowLosses, before: RowLosses) -> bool:
        return change(after, before, unit=unit).z > z

    return {
        name: value if proven(losses.by_domain[name], previous.by_domain[name]) else 0.0
        for name, value in phi.items()
    }


def degenerate(losses: Mapping[str, float], reference: Mapping[str, float]) -> list[str]:
    """What is wrong with reference losses, in words; empty where nothing is.

    `losses` are those at the start. With gamma near 1, or 0, everywhere every domain grows alike
    and the weights never move: an over-fitted reference (training loss near 0) does that.
    """
    gamma = potential(losses, reference)
    told = []
    tiny = [name for name in losses if reference[name] <= 0.02]
    if tiny:
        told.append(
            f"the reference loss of {', '.join(tiny)} is near 0 ({reference[tiny[0]]:.3g}): it"
            " looks learnt by heart. Take held-out rows, or stop earlier."
        )
    if all(value >= 0.95 for value in gamma.values()):
        told.append(
            "the potential is .95 or more in every domain, so every domain grows alike and the"
            " weights do not move: the reference losses are too low for this model."
        )
    if all(value == 0 for value in gamma.values()):
        told.append(
            "no reference loss is below the model's own at the start, so the potential is 0 in"
            " every domain and the weights do not move: the references are too high."
        )
    elif not told and len(gamma) > 1 and max(gamma.values()) - min(gamma.values()) < 0.01:
        told.append(
            "the potential is nearly the same in every domain at the start,"
            f" {min(gamma.values()):.2f}, so weights that follow it move only as the losses come"
            " apart. Tuned references tell the domains apart."
        )
    return told


def reference_of(seen: Seen, name: str) -> Mapping[str, float]:
    """The reference losses, all there.

    Raises:
        RecipeError: none are given, or a domain has none, or one below 0.
    """
    if seen.reference is None:
        raise RecipeError(
            f"policy `{name}` needs reference losses, and there are none. Set"
            " `reference: {way: tuned}`, or `way: fraction`, or give `losses` for every domain."
        )
    known = seen.reference
    problems = [f"none for `{domain}`" for domain in seen.weights if domain not in known]
    problems += [
        f"`{domain}` is {value:g}"
        for domain, value in known.items()
        if not (math.isfinite(value) and value >= 0)
    ]
    if problems:
        raise RecipeError(
            f"reference losses: {'; '.join(problems)}. Every domain needs a number, 0 or more."
        )
    return known
