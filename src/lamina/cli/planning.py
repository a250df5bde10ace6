"""The verbs about plans: plan, compare. Everything heavy is imported inside a verb."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

RuleParameters = Annotated[
    tuple[str, ...],
    Parameter(name=["--set", "-s"], negative=(), help="A parameter of the rule: -s share=0.3."),
]


def plan(
    scores: Path,
    /,
    *,
    rule: str = "top",
    set_: RuleParameters = (),
    expert: str | None = None,
    model: str | None = None,
    rank: int | None = None,
    unfreeze: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    out: Path | None = None,
) -> None:
    """Choose the modules to tune by their scores, and tell what a step on them costs.

    Parameters
    ----------
    scores
        scores.json of rank or merge, or the folder that holds it.
    rule
        top, bottom, budget, threshold, per_type, prefix_friendly, all; random, first, last,
        matched_random to compare with.
    expert
        Whose scores, in those of a merge.
    model
        The model that will be tuned; default: the one that was ranked.
    rank
        Rank of the adapters; default 16.
    unfreeze
        A module trained whole besides, such as norm or lm_head; as often as there are.
    out
        Also write the plan there: plan.json, for plan: in a recipe of tune.
    """
    from lamina.cli.planned import print_plan
    from lamina.jobs.planning import run_plan

    planned = run_plan(
        scores,
        rule=rule,
        overrides=set_,
        expert=expert,
        model=model,
        rank=rank,
        unfreeze=unfreeze,
        out=out,
    )
    print_plan(planned, out)


def compare(
    scores: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    share: float = 0.3,
    expert: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """How far rankings agree: Spearman, and the overlap of their top shares beside chance.

    Parameters
    ----------
    scores
        Two or more: scores.json of rank or merge, or the folders that hold them.
    share
        The top share of all modules that is compared.
    expert
        Whose scores, in those of a merge; default: each expert's.
    as_json
        Print JSON.
    """
    from lamina.jobs.compare import run_compare

    found = run_compare(scores, share=share, expert=expert)
    if as_json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    from lamina.cli.planned import print_compared

    print_compared(found)
