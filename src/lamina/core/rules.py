"""From scores to a plan: which modules a tuning takes. Pure formulas, and the baselines for them.

Every rule gets scores by module (high: important) and the sizes of the modules (trained values if
chosen), and gives the chosen ids. Ties go by the modules' order, which is that of `sizes`. A share
p of N modules is ceil(p N) of them. What only compares is here too: `random`, `first`, `last` and
`matched_random` do not look at the scores, and a ranking that does not beat them says nothing.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from lamina.core.errors import LayerError, RecipeError, did_you_mean
from lamina.core.modules import check_units
from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores

Values = Mapping[str, float]
Sizes = Mapping[str, int]
Rule = Callable[..., Iterable[str]]
RULES: dict[str, Rule] = {}
REQUIRED: Any = inspect.Parameter.empty
"""The default of a parameter that has to be given."""
SHUFFLES = 32


def rule(function: Rule) -> Rule:
    """Register a rule under its name."""
    RULES[function.__name__] = function
    return function


def count_of(share: float, total: int) -> int:
    """ceil(share * total), at least 1; what floating point adds (.1 * 30 > 3) is not a module."""
    return min(total, max(1, math.ceil(share * total - 1e-9)))


def ordered(values: Values) -> list[str]:
    """The modules by falling score; equal ones in their order."""
    return sorted(values, key=lambda one: -values[one])  # sorted() is stable


def block_of(module: str) -> int:
    """12 of `12.mlp.up_proj`."""
    return int(module.partition(".")[0])


@rule
def top(values: Values, sizes: Sizes, *, share: float) -> Iterable[str]:
    """The modules with the highest scores: a share of their number (ILA: 10 to 30 %)."""
    return ordered(values)[: count_of(share, len(values))]


@rule
def bottom(values: Values, sizes: Sizes, *, share: float) -> Iterable[str]:
    """The modules with the lowest scores: the control of `top`, or where low is important."""
    return sorted(values, key=lambda one: values[one])[: count_of(share, len(values))]


@rule
def budget(
    values: Values,
    sizes: Sizes,
    *,
    parameters: int | None = None,
    share_of_parameters: float | None = None,
) -> Iterable[str]:
    """By falling score, each module that still fits into a number of trained values.

    A module that is too large is passed over, and the next smaller one gets its chance.

    Raises:
        RecipeError: a budget below the smallest module.
    """
    limit = parameters
    if limit is None:
        assert share_of_parameters is not None, "check_rule lets no budget without a number pass"
        limit = math.floor(share_of_parameters * sum(sizes.values()) + 1e-6)
    smallest = min(sizes, key=lambda one: sizes[one])
    if limit < sizes[smallest]:
        raise RecipeError(
            f"a budget of {limit:,} trained values is below the smallest module, {smallest} with"
            f" {sizes[smallest]:,}: nothing would be tuned. All {len(sizes)} modules together have"
            f" {sum(sizes.values()):,}; raise the budget."
        )
    return _fill(ordered(values), sizes, limit)


@rule
def threshold(values: Values, sizes: Sizes, *, at_least: float) -> Iterable[str]:
    """Every module whose score is at least a number."""
    return [one for one, value in values.items() if value >= at_least]


@rule
def per_type(values: Values, sizes: Sizes, *, share: float) -> Iterable[str]:
    """The highest share within each type of module, `mlp.up_proj` of all blocks and so on.

    For scores that are not comparable between types, as the signal-to-noise ratio of Spectrum.
    """
    types: dict[str, dict[str, float]] = {}
    for one, value in values.items():
        types.setdefault(one.partition(".")[2], {})[one] = value
    return [one for same in types.values() for one in top(same, sizes, share=share)]


@rule
def prefix_friendly(
    values: Values,
    sizes: Sizes,
    *,
    share: float,
    lowest_block: int | None = None,
    keep: float = 0.9,
) -> Iterable[str]:
    """The best set of a share's size with no module below a block, so that a prefix is frozen.

    Best is the highest sum of scores: the top of what stands at or above the block. Without
    `lowest_block` it is the highest block at which the set keeps at least `keep` of the positive
    score of `top`: a step is then as cheap as this much of the ranking allows (`ila.price`).

    Raises:
        RecipeError: too few modules at or above the block, or no positive score to keep part of.
    """
    count, highest = count_of(share, len(values)), max(map(block_of, values))
    if lowest_block is not None:
        above = _above(values, lowest_block)
        if len(above) < count:
            possible = max(b for b in range(highest + 1) if len(_above(values, b)) >= count)
            raise RecipeError(
                f"lowest_block: {lowest_block} leaves {len(above)} of {len(values)} modules, and"
                f" share: {share:g} takes {count}. The highest block with enough of them is"
                f" {possible}; give that one or a lower one, or a smaller share."
            )
        return ordered(above)[:count]
    whole = _positive(values, ordered(values)[:count])
    if whole <= 0:
        raise RecipeError(
            f"no score among the top {count} of {len(values)} modules is positive, so that there"
            " is nothing to keep a part of: give lowest_block."
        )
    for block in range(highest, -1, -1):
        chosen = ordered(_above(values, block))[:count]
        if len(chosen) == count and _positive(values, chosen) >= keep * whole - 1e-12 * whole:
            return chosen
    raise AssertionError("block 0 keeps everything")


def everything(values: Values, sizes: Sizes) -> Iterable[str]:
    """Every module."""
    return list(values)


RULES["all"] = everything


@rule
def random(values: Values, sizes: Sizes, *, share: float, seed: int = 0) -> Iterable[str]:
    """Baseline: as many modules as `top`, drawn with a seed."""
    return Random(seed).sample(list(values), count_of(share, len(values)))


@rule
def first(values: Values, sizes: Sizes, *, share: float) -> Iterable[str]:
    """Baseline: as many modules as `top`, from the lowest block upwards."""
    return list(values)[: count_of(share, len(values))]


@rule
def last(values: Values, sizes: Sizes, *, share: float) -> Iterable[str]:
    """Baseline: as many modules as `top`, from the highest block downwards."""
    return list(values)[-count_of(share, len(values)) :]


@rule
def matched_random(values: Values, sizes: Sizes, *, share: float, seed: int = 0) -> Iterable[str]:
    """Baseline: random modules with as many trained values as `top`, or as near below as found.

    Modules differ in size, so that a draw of as many modules has another number of parameters. Of
    32 shuffles, each filled up to the size of `top`, the fullest is taken.
    """
    limit = sum(sizes[one] for one in top(values, sizes, share=share))
    generator, draws = Random(seed), []
    for _ in range(SHUFFLES):
        shuffled = list(values)
        generator.shuffle(shuffled)
        draws.append(_fill(shuffled, sizes, limit))
    return max(draws, key=lambda chosen: sum(sizes[one] for one in chosen))


def parameters_of(rule: str) -> dict[str, Any]:
    """The parameters of a rule with their defaults; `REQUIRED` where one has to be given.

    Raises:
        RecipeError: no such rule.
    """
    if rule not in RULES:
        raise RecipeError(f"no rule `{rule}` for a plan; {did_you_mean(rule, RULES)}")
    found = inspect.signature(RULES[rule]).parameters.values()
    return {one.name: one.default for one in found if one.kind is one.KEYWORD_ONLY}


def check_rule(rule: str, parameters: Mapping[str, Any]) -> None:
    """That a rule exists and can work with these parameters.

    Raises:
        RecipeError: an unknown rule, or every parameter that is unknown, missing or no value of
            its kind.
    """
    known = parameters_of(rule)
    problems = []
    for name, value in parameters.items():
        if name not in known:
            told = did_you_mean(name, known) if known else "it has no parameters"
            problems.append(f"{name}: unknown parameter; {told}")
        elif wrong := _wrong(name, value, known[name]):
            problems.append(f"{name}: {wrong}, not {value!r:.60}")
    given = {name for name, value in parameters.items() if value is not None}
    problems += [
        f"{name}: missing; {_MEANING[name]} is needed"
        for name, default in known.items()
        if default is REQUIRED and name not in parameters
    ]
    if rule == "budget" and len(given & known.keys()) != 1:
        problems.append("give either parameters (a number) or share_of_parameters")
    if problems:
        told = "; ".join(problems) if len(problems) == 1 else "\n  ".join(["", *problems])
        raise RecipeError(f"rule `{rule}`: {told}")


def choose(
    rule: str,
    scores: LayerScores,
    *,
    sizes: Sizes,
    parameters: Mapping[str, Any],
) -> LayerPlan:
    """The plan of a rule: 1 for each module that is tuned, 0 for each that is frozen.

    Args:
        scores: by module (`Linears.by_module`), one for each module of `sizes`.
        sizes: trained values of each module if it is chosen, in the modules' order.

    Raises:
        RecipeError: see `check_rule`; a budget below the smallest module.
        LayerError: scores by block, of other modules, or none that the rule chooses.
    """
    check_rule(rule, parameters)
    if scores.granularity != "module":
        raise LayerError(
            f"scores by {scores.granularity} cannot choose modules before each module has one"
        )
    check_units(scores.values, tuple(sizes), what=f"scores ({scores.method})")
    values = {one: scores.values[one] for one in sizes}
    chosen = set(RULES[rule](values, sizes, **parameters))
    if not chosen:
        raise LayerError(
            f"rule `{rule}` ({_told(parameters)}) chooses none of {len(values)} modules, so that"
            f" nothing would be tuned. The scores go from {min(values.values()):.4g} to"
            f" {max(values.values()):.4g}."
        )
    defaults = {k: v for k, v in parameters_of(rule).items() if v is not REQUIRED}
    told = {k: v for k, v in {**defaults, **parameters}.items() if v is not None}
    return LayerPlan(
        granularity="module",
        coefficients={one: float(one in chosen) for one in sizes},
        others=0.0,
        rule=rule,
        from_scores="",
        parameters=told,
        prefix=scores.prefix,
        model=scores.model,
        inputs=scores.inputs,
    )


def _fill(names: Iterable[str], sizes: Sizes, limit: int) -> list[str]:
    """In this order, each that still fits."""
    chosen, used = [], 0
    for one in names:
        if used + sizes[one] <= limit:
            chosen.append(one)
            used += sizes[one]
    return chosen


def _above(values: Values, block: int) -> dict[str, float]:
    return {one: value for one, value in values.items() if block_of(one) >= block}


def _positive(values: Values, chosen: Iterable[str]) -> float:
    return math.fsum(max(values[one], 0.0) for one in chosen)


def _told(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in parameters.items()) or "no parameters"


_MEANING = {
    "share": "a number above 0 and at most 1",
    "share_of_parameters": "a number above 0 and at most 1",
    "keep": "a number above 0 and at most 1",
    "at_least": "a number",
    "parameters": "a whole number of at least 1",
    "seed": "a whole number of at least 0",
    "lowest_block": "the number of a block, from 0",
}


def _wrong(name: str, value: Any, default: Any) -> str:
    """What a parameter has to be, where it is not; parameters of one name have one meaning."""
    if value is None and default is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in {"share", "share_of_parameters", "keep"}:
        right = number and 0 < value <= 1
    elif name == "at_least":
        right = number and math.isfinite(value)
    else:
        right = (
            number
            and math.isfinite(value)
            and value == int(value)
            and value >= (name == "parameters")
        )
    return "" if right else f"{_MEANING[name]} is needed"
