"""Policies: from held-out losses to the weights of the next window.

A policy is a pure function of what was `Seen` and of its own keyword parameters, which are the
recipe's keys; a new one is one function under `@policy`. It asks for weights; floor, caps and
smoothing are `project`'s. gamma is the paper's learnable potential, phi its forgetting degree
(VersaTune, arXiv 2411.11266); docs/papers.md says what we changed.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from lamina.core.domains import in_proportion
from lamina.core.errors import RecipeError, did_you_mean
from lamina.versatune.potential import (
    Z,
    degenerate,
    forgetting,
    potential,
    proven_forgetting,
    reference_of,
)
from lamina.versatune.project import inverse as inverse_shares
from lamina.versatune.seen import Decision, Seen, most_moved, short

__all__ = [
    "FIXED",
    "POLICIES",
    "Decision",
    "Seen",
    "check",
    "degenerate",
    "forgetting",
    "opening",
    "parameters_of",
    "policy",
    "potential",
    "proven_forgetting",
    "strength",
]

Policy = Callable[..., Decision]
POLICIES: dict[str, Policy] = {}
FIXED = ("uniform", "inverse", "constant")
"""Policies whose weights never move; the first window has them already (`opening`)."""

# What a parameter must be, whatever policy it belongs to.
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "sigma": ("a number above 0", lambda x: x > 0),
    "growth": ("a number above 1", lambda x: x > 1),
    "rate": ("a number above 0", lambda x: x > 0),
    "scale": ("a number above 0", lambda x: x > 0),
    "delta": ("a number above 0, at most 1", lambda x: 0 < x <= 1),
    "eps": ("a number that is 0 or more", lambda x: x >= 0),
    "max_share": ("a number above 0, at most 1", lambda x: 0 < x <= 1),
    "z": ("a number that is 0 or more", lambda x: x >= 0),
    "patience": ("a whole number, 1 or more", lambda x: x >= 1 and x == int(x)),
}
LINKS = ("linear", "exp")


def policy(function: Policy) -> Policy:
    """Register a policy under its name; its parameters are checked whenever it is called."""

    @wraps(function)
    def checked(seen: Seen, **parameters: Any) -> Decision:
        check(function.__name__, parameters, domains=tuple(seen.weights))
        return function(seen, **parameters)

    POLICIES[function.__name__] = checked
    return checked


def parameters_of(name: str) -> dict[str, Any]:
    """The keyword parameters of a policy with their defaults; `inspect.Parameter.empty` if none.

    Raises:
        RecipeError: no policy of that name.
    """
    if name not in POLICIES:
        raise RecipeError(f"policy `{name}` is unknown; {did_you_mean(name, POLICIES)}")
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(POLICIES[name]).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def check(name: str, parameters: Mapping[str, Any], *, domains: Sequence[str]) -> None:
    """That a policy can work with these parameters on these domains.

    Raises:
        RecipeError: parameters it does not have, that are missing, or that make no sense; all at
            once.
    """
    known = parameters_of(name)
    problems = [
        f"`{key}` is not used by it; {did_you_mean(key, known)}"
        for key in parameters
        if key not in known
    ]
    problems += [
        f"`{key}` is missing"
        for key, default in known.items()
        if default is inspect.Parameter.empty and key not in parameters
    ]
    for key, value in parameters.items():
        if key in known and not (value is None and known[key] is None):
            problems += _bad_value(key, value, domains)
    if "target" in known and len(domains) < 2:
        problems.append(f"it needs a second domain beside `{domains[0]}`, to keep")
    if problems:
        raise RecipeError(f"policy `{name}`: {'; '.join(problems)}")


def _bad_value(key: str, value: Any, domains: Sequence[str]) -> list[str]:
    if key == "link":
        if value in LINKS:
            return []
        return [f"link {value!r} is unknown; {did_you_mean(str(value), LINKS)}"]
    if key == "target":
        if value in domains:
            return []
        return [f"target {value!r} is not a domain; {did_you_mean(str(value), domains)}"]
    what, holds = _NUMBERS[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and holds(value):
        return []
    return [f"`{key}` is {value!r}; it must be {what}"]


def opening(name: str, start: Mapping[str, float]) -> dict[str, float]:
    """The weights that a policy asks for in its first window, before anything was seen."""
    match name:
        case "uniform":
            return dict.fromkeys(start, 1 / len(start))
        case "inverse":
            return dict(inverse_shares(start).weights)
        case _:
            return dict(start)


# ---- Policies that stand still -----------------------------------------------------------------


@policy
def uniform(seen: Seen) -> Decision:
    """The same share for every domain."""
    return _decide(seen, opening("uniform", seen.start), "the same share for every domain")


@policy
def inverse(seen: Seen) -> Decision:
    """Shares in proportion to 1 / the start's: much of what the model knows least."""
    return _decide(seen, opening("inverse", seen.start), "in proportion to 1 / the start's share")


@policy
def constant(seen: Seen) -> Decision:
    """The shares of the start, for good."""
    return _decide(seen, dict(seen.start), "the start's shares, for good")


# ---- VersaTune ---------------------------------------------------------------------------------


@policy
def foster(
    seen: Seen, *, sigma: float | None = None, growth: float = 4.0, link: str = "linear"
) -> Decision:
    """P_j <- normalise(P_j (1 + sigma gamma_j)): more for a domain with more left to learn.

    VersaTune, section 2 of the notes. The rule has no restoring force, so its strength comes from
    a bound: over the U updates of the stage a domain of potential 1 gains at most the factor
    `growth` over one of potential 0. sigma = growth^(1/U) - 1 for `link: linear`; for `link: exp`,
    P_j exp(sigma gamma_j), it is ln(growth) / U. A sigma that is given is taken as it is.
    """
    gamma = potential(_losses(seen), reference_of(seen, "foster"))
    weights = in_proportion(_grown(seen, gamma, sigma=sigma, growth=growth, link=link))
    return _decide(seen, weights, _by_potential(seen.weights, weights, gamma))


@policy
def expand(
    seen: Seen,
    *,
    target: str,
    delta: float = 0.05,
    eps: float = 0.1,
    max_share: float = 0.9,
    patience: int = 2,
    z: float = Z,
    sigma: float | None = None,
    growth: float = 4.0,
    link: str = "linear",
) -> Decision:
    """Raise the target's share by `delta` as long as the others forget little.

    VersaTune, section 3 of the notes: raise where the mean of phi over the others is below
    eps * gamma of the target. Where the test fails the share is held until the next window; after
    `patience` failures in the stage it is never raised again. The rest is in proportion to
    P_j (1 + sigma gamma_j), with or without a raise. A target with nothing left to learn is held
    and counts as no failure.
    """
    gamma = potential(_losses(seen), reference_of(seen, "expand"))
    phi = proven_forgetting(seen.losses, seen.previous, z=z, unit=seen.unit)
    others = [name for name in seen.weights if name != target]
    mean, allowed = math.fsum(phi[name] for name in others) / len(others), eps * gamma[target]
    failures = int(seen.memory.get("failures", 0))
    share, worst = seen.weights[target], max(others, key=lambda name: phi[name])
    forgot = f"the others forget {short(mean, 3)} on average, {short(allowed, 3)} is allowed"
    if failures >= patience:
        why = f"{target} held at {short(share)} for good: the others forgot in {failures} windows"
    elif gamma[target] == 0:
        why = f"{target} held at {short(share)}: nothing left to learn there (potential 0)"
    elif mean >= allowed:
        failures += 1
        why = f"{target} held at {short(share)}: {forgot}; most in {worst} ({short(phi[worst])})"
        why += ", raised no more" if failures >= patience else ""
    elif share >= max_share:
        why = f"{target} held at {short(share)}, the most it may have ({short(max_share)})"
    else:
        share = min(share + delta, max_share)
        moved = short(share - seen.weights[target], sign=True)
        why = f"{target} {moved}: left to learn {short(gamma[target])}; {forgot}"
    grown = _grown(seen, gamma, sigma=sigma, growth=growth, link=link)
    rest = {name: grown[name] for name in others}
    if not any(rest.values()):
        rest = dict.fromkeys(others, 1.0)
    shares = in_proportion(rest)
    weights = {
        name: share if name == target else (1 - share) * shares[name] for name in seen.weights
    }
    return _decide(seen, weights, why, memory={"failures": failures}, phi=phi)


def _grown(
    seen: Seen, gamma: Mapping[str, float], *, sigma: float | None, growth: float, link: str
) -> dict[str, float]:
    """P_j (1 + sigma gamma_j), or P_j exp(sigma gamma_j)."""
    if sigma is None:
        sigma = strength(growth, num_updates=seen.windows - 1, link=link)
    return {
        name: share * (math.exp(sigma * gamma[name]) if link == "exp" else 1 + sigma * gamma[name])
        for name, share in seen.weights.items()
    }


def strength(growth: float, *, num_updates: int, link: str = "linear") -> float:
    """The sigma whose `num_updates` updates multiply the odds by `growth` at most."""
    updates = max(num_updates, 1)
    return math.log(growth) / updates if link == "exp" else growth ** (1 / updates) - 1


# ---- Relatives on the same interface -----------------------------------------------------------


@policy
def doremi(seen: Seen, *, rate: float = 1.0) -> Decision:
    """a_j <- a_j exp(rate max(l_j - l_ref_j, 0)): DoReMi (arXiv 2305.10429, algorithm 1).

    Its answer is not the last a but the mean over all updates: `memory["mean"]`, to be used as the
    constant weights of a run. Its smoothing is `project`'s.
    """
    losses, reference = _losses(seen), reference_of(seen, "doremi")
    excess = {name: max(loss - reference[name], 0.0) for name, loss in losses.items()}
    weights = _exponentiated(seen.weights, excess, rate)
    count = int(seen.memory.get("count", 0)) + 1
    before = seen.memory.get("mean", weights)
    mean = {name: before[name] + (weights[name] - before[name]) / count for name in weights}
    why = most_moved(seen.weights, weights, excess, high="most above its reference", unit="nats")
    return _decide(seen, weights, why, memory={"mean": mean, "count": count})


@policy
def sheared(seen: Seen, *, rate: float = 1.0) -> Decision:
    """a_j <- a_j exp(rate (l_j - l_target_j)): dynamic batch loading of Sheared-LLaMA.

    arXiv 2310.06694; as in its code the gap is not clipped, so a domain below its target shrinks.
    """
    losses, reference = _losses(seen), reference_of(seen, "sheared")
    gap = {name: loss - reference[name] for name, loss in losses.items()}
    weights = _exponentiated(seen.weights, gap, rate)
    why = most_moved(seen.weights, weights, gap, high="furthest above its target", unit="nats")
    return _decide(seen, weights, why)


@policy
def velocity(seen: Seen, *, rate: float = 1.0) -> Decision:
    """a_j <- a_j exp(rate V_j), V = (l_t - l_target) / (l_0 - l_target), after Velocitune.

    V is the part of the way that is left: 1 at the start, 0 at the target. Where a domain starts
    at its target or below there is no way, and V is 0.
    """
    losses, first = _losses(seen), seen.first.losses(seen.unit)
    reference = reference_of(seen, "velocity")
    left = {
        name: (loss - reference[name]) / (first[name] - reference[name])
        if first[name] > reference[name]
        else 0.0
        for name, loss in losses.items()
    }
    weights = _exponentiated(seen.weights, left, rate)
    why = most_moved(seen.weights, weights, left, high="most of its way left", unit="of the way")
    return _decide(seen, weights, why)


@policy
def odm(seen: Seen, *, scale: float = 10.0) -> Decision:
    """Exp3 on the training losses: online data mixing (arXiv 2312.02406).

    Every optimiser step is a round; a domain's reward is its training loss / `scale`, divided by
    its probability (importance weighting: a domain seldom read is not punished for it). With t
    rounds done and K domains eps_t = min(1/K, sqrt(ln K / (K t))) and

        P_j = (1 - K eps_t) softmax(eps_(t-1) R_j) + eps_t.

    R sums the rewards; within a window the losses are averaged, so `share / weight` of a domain
    times its mean loss is what a round adds.
    """
    rounds = seen.losses.step - seen.previous.step
    assert rounds > 0, f"a window of {rounds} steps"
    done = int(seen.memory.get("rounds", 0)) + rounds
    share = seen.weights if seen.share is None else seen.share
    rewards: dict[str, float] = dict.fromkeys(seen.weights, 0.0)
    rewards.update(seen.memory.get("rewards", {}))
    for name, loss in seen.trained.items():
        if loss is not None and seen.weights[name] > 0:
            rewards[name] += rounds * loss / scale * share[name] / seen.weights[name]
    count = len(rewards)
    now, before = _exploration(count, done), _exploration(count, done - 1)
    top = max(rewards.values())
    soft = in_proportion({name: math.exp(before * (r - top)) for name, r in rewards.items()})
    weights = {name: (1 - count * now) * soft[name] + now for name in rewards}
    mean = {name: reward * scale / done for name, reward in rewards.items()}
    why = most_moved(seen.weights, weights, mean, high="highest training loss", unit="nats")
    return _decide(seen, weights, why, memory={"rounds": done, "rewards": rewards})


def _exploration(num_domains: int, rounds: int) -> float:
    """eps_t of Exp3; 1/K before the first round."""
    if not rounds:
        return 1 / num_domains
    return min(1 / num_domains, math.sqrt(math.log(num_domains) / (num_domains * rounds)))


def _exponentiated(
    weights: Mapping[str, float], scores: Mapping[str, float], rate: float
) -> dict[str, float]:
    """Weights times exp(rate * score), normalised; the largest score is taken off first."""
    top = max(score for name, score in scores.items() if weights[name] > 0)
    return in_proportion(
        {
            name: weight * math.exp(rate * (scores[name] - top)) if weight > 0 else 0.0
            for name, weight in weights.items()
        }
    )


# ---- What they share -------------------------------------------------------------------


def _decide(
    seen: Seen,
    weights: dict[str, float],
    reason: str,
    *,
    memory: dict[str, Any] | None = None,
    phi: dict[str, float] | None = None,
) -> Decision:
    if phi is None:
        phi = proven_forgetting(seen.losses, seen.previous, unit=seen.unit)
    gamma = potential(_losses(seen), seen.reference)
    return Decision(weights, gamma, phi, reason, {} if memory is None else memory)


def _losses(seen: Seen) -> dict[str, float]:
    return seen.losses.losses(seen.unit)


def _by_potential(
    before: Mapping[str, float], after: Mapping[str, float], gamma: Mapping[str, float]
) -> str:
    if not any(gamma.values()):
        return "shares stay: no domain is above its reference"
    return most_moved(before, after, gamma, high="most left to learn", unit="potential")
