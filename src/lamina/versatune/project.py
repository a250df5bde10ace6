"""From the weights a policy asks for to the weights a window gets: smoothing, floor, caps.

A floor keeps every domain read. A cap keeps a small domain from being read again and again. What a
bound takes or gives is shared by the others in proportion: that is the point of the bounded
simplex nearest to the asked weights in the sense of Kullback and Leibler. All sums are exactly
rounded, so the order of the names does not matter, to the bit.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lamina.core.domains import Domains, in_proportion
from lamina.core.errors import RecipeError, did_you_mean

SMOOTHING = 1e-4
"""c of DoReMi's code and of the notes."""
_SLACK = 1e-12
_NOTHING = 1e-200
"""A share below this is none: exponentials of losses get there, and quotients would overflow."""


def project(
    weights: Mapping[str, float],
    *,
    smoothing: float = SMOOTHING,
    floor: float = 0.0,
    caps: Mapping[str, float] | None = None,
) -> tuple[Domains, tuple[str, ...]]:
    """Weights on the simplex, none below `floor`, none above its cap, and what that changed.

    First P <- (1-c) P + c/k with c = `smoothing`, then P_j <- clip(m P_j, floor, cap_j) with the
    one m that makes the sum 1. A domain without a cap may have all.

    Raises:
        RecipeError: weights that are no weights, or floor and caps that cannot be met.
    """
    count = len(weights)
    caps = {name: min((caps or {}).get(name, 1.0), 1.0) for name in weights}
    asked = {
        name: (1 - smoothing) * (share if share > _NOTHING else 0.0) + smoothing / count
        for name, share in in_proportion(weights).items()
    }
    _check_bounds(asked, smoothing=smoothing, floor=floor, caps=caps)
    shares = _clipped(asked, floor=floor, caps=caps)
    return Domains(shares), _told(asked, shares, floor=floor, caps=caps)


def _check_bounds(
    asked: Mapping[str, float], *, smoothing: float, floor: float, caps: Mapping[str, float]
) -> None:
    count, problems = len(asked), []
    if not 0 <= smoothing <= 1:
        problems.append(f"smoothing is {smoothing:g}; it must lie between 0 and 1")
    if not floor >= 0 or floor * count > 1 + _SLACK:
        problems.append(
            f"floor {floor:g} for {count} domains is {floor * count:g} in all;"
            f" it must lie between 0 and {1 / count:.4g}"
        )
    low = [name for name in asked if not caps[name] >= floor - _SLACK]
    if low:
        told = ", ".join(f"`{name}` {caps[name]:.4g}" for name in low)
        problems.append(f"caps below the floor of {floor:g}: {told}")
    room = math.fsum(caps[name] if share > 0 else floor for name, share in asked.items())
    if not problems and room < 1 - _SLACK:
        problems.append(
            f"the caps leave room for {room:.4g} of a window, not for all of it; raise max_repeats,"
            " read fewer rows, or give the other domains a weight"
        )
    if problems:
        raise RecipeError(f"weights cannot be kept within their bounds: {'; '.join(problems)}.")


def _clipped(
    asked: Mapping[str, float], *, floor: float, caps: Mapping[str, float]
) -> dict[str, float]:
    """clip(m P_j, floor, cap_j) with the m that makes the sum 1, found between its break points."""

    def at(m: float) -> dict[str, float]:
        return {name: min(max(m * p, floor), caps[name]) for name, p in asked.items()}

    points = sorted({bound / p for n, p in asked.items() if p > 0 for bound in (floor, caps[n])})
    below, above = points[0], points[-1]  # at `above` all stand at their caps: a sum of 1 or more
    for point in points:
        if math.fsum(at(point).values()) <= 1:
            below = point
        else:
            above = point
            break
    middle = (below + above) / 2
    moving = [name for name, p in asked.items() if p > 0 and floor < middle * p < caps[name]]
    if not moving:
        return at(below)
    fixed = math.fsum(share for name, share in at(middle).items() if name not in moving)
    return at((1 - fixed) / math.fsum(asked[name] for name in moving))


def _told(
    asked: Mapping[str, float],
    shares: Mapping[str, float],
    *,
    floor: float,
    caps: Mapping[str, float],
) -> tuple[str, ...]:
    """What a bound did, where it did more than round."""
    told = []
    for name, share in shares.items():
        if abs(share - asked[name]) < 5e-4:
            continue
        if share == floor > asked[name]:
            told.append(f"{name} raised from {asked[name]:.3f} to the floor, {share:.3f}")
        elif share == caps[name] < asked[name]:
            told.append(f"{name} lowered from {asked[name]:.3f} to its cap, {share:.3f}")
    return tuple(told)


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often a domain's rows may be read, and how far they have been."""

    max_repeats: float
    """A domain's rows are read so often at most, on average, over the whole run."""
    sizes: Mapping[str, int]
    """Training rows of each domain."""
    read: Mapping[str, int]
    """Rows read so far; a row read twice counts twice."""
    rows: int
    """Rows of the next window, all domains together."""
    tokens_per_row: Mapping[str, float] | None = None
    """Mean trained tokens of a row, where weights are shares of tokens; None: shares of rows."""


def caps_from_repeats(
    repeats: Repeats,
    weights: Mapping[str, float],
    *,
    floor: float = 0.0,
    unread: Collection[str] = (),
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The largest share of the next window for each domain, and what had to give way.

    A domain of n rows, r of them read, may give max_repeats n - r rows more. As a share of tokens
    that depends on the mean row of the window, which is taken at `weights`. A cap is never below
    the floor; where all the domains that are read have too few rows left for the window, the caps
    are raised in proportion to what is left: both are told. `unread` domains have no weight of
    their own, at most the floor.
    """
    row = dict.fromkeys(weights, 1.0) if repeats.tokens_per_row is None else repeats.tokens_per_row
    shares = in_proportion(weights)
    mean_row = 1 / math.fsum(share / row[name] for name, share in shares.items())
    left = {
        name: max(repeats.max_repeats * repeats.sizes[name] - repeats.read[name], 0.0)
        for name in weights
    }
    caps = {name: min(left[name] / repeats.rows * row[name] / mean_row, 1.0) for name in weights}
    told = []
    spent = [name for name, cap in caps.items() if cap < floor]
    caps = {name: max(cap, floor) for name, cap in caps.items()}
    if spent:
        told.append(
            f"{', '.join(spent)} read more than {repeats.max_repeats:g} times: the floor holds"
        )
    used = [name for name, share in shares.items() if share > 0 and name not in unread]
    room = math.fsum(caps[name] if name in used else floor for name in weights)
    if room < 1:
        told.append(
            f"too few rows are left for max_repeats {repeats.max_repeats:g}: every domain is read"
            " more often"
        )
        room = math.fsum(caps[name] for name in used)
        caps = {name: min(caps[name] / room, 1.0) if room else 1.0 for name in caps}
    return caps, tuple(told)


def project_within(
    weights: Mapping[str, float],
    *,
    repeats: Repeats | None,
    smoothing: float = SMOOTHING,
    floor: float = 0.0,
) -> tuple[Domains, tuple[str, ...]]:
    """`project` with the caps of `repeats`, repeated until the mean row of the window fits them.

    Raises:
        RecipeError: as `project`.
    """
    domains, told = project(weights, smoothing=smoothing, floor=floor)
    if repeats is None:
        return domains, told
    asked = in_proportion(weights)
    unread = [name for name, share in asked.items() if not smoothing and share <= _NOTHING]
    for _ in range(100):
        caps, gave_way = caps_from_repeats(repeats, domains.weights, floor=floor, unread=unread)
        last = domains
        domains, told = project(weights, smoothing=smoothing, floor=floor, caps=caps)
        told = (*told, *gave_way)
        if all(abs(domains.weights[n] - last.weights[n]) < 1e-9 for n in domains.names):
            break
    return domains, told


def inverse(shares: Mapping[str, float]) -> Domains:
    """Shares in proportion to 1 / a share: the paper's control that feeds what is known least.

    Raises:
        RecipeError: a share of 0, whose inverse is infinite.
    """
    none = [name for name, share in shares.items() if share == 0]
    if none:
        raise RecipeError(
            f"policy `inverse` divides by the share of the start, and that of {', '.join(none)} is"
            " 0. Give every domain a share above 0."
        )
    smallest = min(shares.values())
    return Domains.normalised({name: smallest / share for name, share in shares.items()})


def start_weights(
    start: str | Mapping[str, float],
    *,
    domains: Sequence[str],
    detected: Mapping[str, float] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Domains:
    """The weights before anything was trained: detected, uniform, by_size, or given.

    Args:
        detected: what `lamina detect` found.
        sizes: trained tokens of each domain.

    Raises:
        RecipeError: a way that is unknown or has nothing to go by, or weights of other domains.
    """
    match start:
        case "uniform":
            return Domains(dict.fromkeys(domains, 1 / len(domains)))
        case "by_size":
            given, what = sizes, "`start: by_size` needs the sizes of the domains"
        case "detected":
            given, what = detected, "`start: detected` needs the shares that `lamina detect` finds"
        case str():
            known = ("detected", "uniform", "by_size")
            raise RecipeError(f"start `{start}` is unknown; {did_you_mean(start, known)}")
        case _:
            given, what = start, ""
    if given is None:
        raise RecipeError(f"{what}, and there are none.")
    problems = [f"none for `{name}`" for name in domains if name not in given]
    problems += [
        f"`{name}` is not a domain; {did_you_mean(name, domains)}"
        for name in given
        if name not in domains
    ]
    total = math.fsum(given.values())
    if isinstance(start, Mapping) and abs(total - 1) > 1e-6:
        problems.append(f"they sum to {total:.6g}, not to 1")
    if problems:
        raise RecipeError(f"weights of the start: {'; '.join(problems)}.")
    return Domains.normalised({name: given[name] for name in domains})
