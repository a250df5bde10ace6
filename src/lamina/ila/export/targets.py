"""A plan in full names, ready for any trainer: what gets an adapter, of which rank, and what is
trained whole. What no trainer can follow is refused here, with all problems of a kind at once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lamina.core.errors import LayerError, RecipeError
from lamina.core.layers import HEADS, NORMS
from lamina.core.plan import LayerPlan
from lamina.ila.export.mixture import check_rewritten, check_single, is_mixture
from lamina.ila.export.pattern import pattern_of

NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*", re.ASCII)
"""Module names in Python: a comma, a space or a bracket would mean something in a file."""
Number = int | float


@dataclass(frozen=True, slots=True)
class Targets:
    """What a trainer is told. All names are those of the bare network, without PEFT's prefix."""

    plan: LayerPlan
    adapted: tuple[str, ...]
    """Modules that get an adapter; none where whole modules are tuned only."""
    whole: tuple[str, ...]
    """Modules whose own weights are trained."""
    rank: int
    alpha: Number
    """At `rank`: the scaling alpha / rank is that of every adapter."""
    ranks: dict[str, int]
    """Adapters of another rank than `rank`."""
    mixture: bool
    """A mixture of experts: PEFT is told names, not an expression (`export.mixture`)."""

    @property
    def alphas(self) -> dict[str, Number]:
        """alpha of the adapters in `ranks`, so that alpha / rank stays as it is."""
        return {name: scaled(self.alpha, rank, self.rank) for name, rank in self.ranks.items()}

    @property
    def pattern(self) -> str:
        """Matches exactly the names of the adapted modules (`re.fullmatch`)."""
        return self._pattern(self.adapted)

    @property
    def parameters_pattern(self) -> str:
        """Matches exactly the names of the parameters of the whole modules (`re.fullmatch`).

        A module's weight and bias, or the parameter itself where a plan names one.
        """
        return f"{self._pattern(self.whole)}(?:\\.(?:weight|bias))?"

    def _pattern(self, names: tuple[str, ...]) -> str:
        pattern = pattern_of(names, self.plan.prefix)
        known = {path_of(self.plan, one) for one in (*self.plan.coefficients, *self.plan.full)}
        found = {name for name in known if re.fullmatch(pattern, name)}
        assert found == set(names), f"{pattern} matches {sorted(found ^ set(names))[:4]}"
        return pattern


def settle(plan: LayerPlan, *, full: bool, rank: int, alpha: Number, tool: str) -> Targets:
    """The plan in full names: adapters on the chosen modules, or (`full`) their own weights.

    Ranks that are the same for all chosen modules become the rank itself.

    Raises:
        RecipeError: coefficients between 0 and 1, norms to be adapted, nothing chosen, or ranks
            below 1.
        LayerError: no prefix, a plan by block, or ids that are no modules.
    """
    check_plan(plan, tool)
    mixture = is_mixture(plan)
    chosen = [one for one in plan.chosen if full or one not in plan.full]
    if not full:
        _check_linear(chosen)
    if not chosen and not (full and plan.full):
        told = f" It only tunes {_few(plan.full)} whole: --method full." if plan.full else ""
        raise RecipeError(
            f"the plan chooses none of {len(plan.coefficients)} modules; there is nothing for"
            f" {tool} to tune.{told or ' Make one with `lamina plan`.'}"
        )
    names = tuple(path_of(plan, one) for one in chosen)
    whole = tuple(dict.fromkeys(path_of(plan, one) for one in plan.full))
    if mixture:
        check_single((*names, *whole) if full else whole, tool)
    if full:
        return Targets(plan, (), tuple(dict.fromkeys(names + whole)), rank, alpha, {}, mixture)
    if mixture:
        check_rewritten(names, tool)
    ranks = {path_of(plan, one): plan.ranks.get(one, rank) for one in chosen}
    if len(set(ranks.values())) == 1:
        own = next(iter(ranks.values()))
        alpha, rank = scaled(alpha, own, rank), own
    others = {name: own for name, own in ranks.items() if own != rank}
    return Targets(plan, names, whole, rank, alpha, others, mixture)


def path_of(plan: LayerPlan, module: str) -> str:
    """The full name of a module id: `model.layers.12.mlp.up_proj`, `model.norm`, `lm_head`.

    Outside the blocks a head stands at the top of the model, all else beside the list of blocks:
    what `core.layers` strips from the names.
    """
    if re.match(r"\d+\.", module):
        return f"{plan.prefix}.{module}"
    parent = plan.prefix.rpartition(".")[0]
    at_top = module.split(".")[-1] in HEADS or module.startswith(f"{parent}.")
    return module if at_top or not parent else f"{parent}.{module}"


def scaled(alpha: Number, rank: int, reference: int) -> Number:
    """alpha * rank / reference, an integer where it is one."""
    exact, rest = divmod(alpha * rank, reference)
    return int(exact) if rest == 0 else alpha * rank / reference


def check_plan(plan: LayerPlan, tool: str) -> None:
    """What holds for every trainer: modules by name, taken or not.

    Raises:
        RecipeError: coefficients other than 0 and 1, or ranks below 1.
        LayerError: no prefix, a plan by block, or ids that are no modules.
    """
    check_names(plan)
    if plan.granularity != "module":
        raise LayerError(
            f"this plan has a coefficient for each of {len(plan.coefficients)} blocks, and {tool}"
            " is told modules. Make it by module: `lamina plan SCORES --model MODEL --rule ...`."
        )
    parts = [f"{one}: {value:g}" for one, value in plan.coefficients.items() if value not in (0, 1)]
    if parts:
        raise RecipeError(
            f"{len(parts)} coefficients are neither 0 nor 1 ({_few(parts)}), and {tool} tunes a"
            " module or leaves it. Take a rule of `lamina plan` that chooses, or mergekit."
        )
    low = [f"{one}: {rank}" for one, rank in plan.ranks.items() if rank < 1]
    if low:
        raise RecipeError(f"ranks are at least 1, these of the plan are not: {_few(low)}")
    strange = [one for one in plan.ranks if one not in plan.coefficients]
    if strange:
        raise LayerError(f"ranks of modules that the plan does not have: {_few(strange)}")


def check_names(plan: LayerPlan) -> None:
    """That the plan's ids are module names that lead somewhere.

    Raises:
        LayerError: no prefix, ids outside the blocks or with characters that no module has, or
            modules trained whole that hold others of the plan.
    """
    if not plan.prefix:
        raise LayerError(
            "the plan does not say where its blocks stand (`prefix`), so that its modules have no"
            " full names. Make it with `lamina plan SCORES --model MODEL`, or write"
            ' `"prefix": "model.layers"` into it if that is the path of the list of blocks.'
        )
    block = plan.granularity == "block"
    number = r"(?:0|[1-9]\d{0,4})"
    shape = re.compile(number if block else rf"{number}\..+")
    bad = [one for one in plan.coefficients if not shape.fullmatch(one)]
    bad += [one for one in (*plan.coefficients, *plan.full, plan.prefix) if not NAME.fullmatch(one)]
    if bad:
        raise LayerError(
            f"{len(bad)} names of the plan are not of modules in blocks, as `12.mlp.up_proj` is:"
            f" {_few(map(repr, dict.fromkeys(bad)))}"
        )
    holders = {one for one in plan.full if any(m.startswith(f"{one}.") for m in plan.coefficients)}
    if holders:
        raise LayerError(
            f"trained whole are single modules, and {_few(sorted(holders))} hold others of the"
            " plan. Name these one by one in `full`."
        )


def _check_linear(chosen: Iterable[str]) -> None:
    norms = [one for one in chosen if one.split(".")[-1] in NORMS]
    if norms:
        raise RecipeError(
            f"an adapter needs a linear module, and the plan chooses norms: {_few(norms)}. Put"
            " them under `full`, or export with --method full."
        )


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if listed[6:] else "")
