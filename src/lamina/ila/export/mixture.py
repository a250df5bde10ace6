"""Mixtures of experts, which PEFT tells apart by rules of its own.

For them transformers 5 holds the experts of a block in one parameter, and PEFT (0.21) rewrites a
config that was made for single experts: a regular expression becomes the last parts of the names it
matches, in all blocks, and a listed `...up_proj` becomes the experts of all blocks. So these models
get listed names, never an expression, and names that PEFT would rewrite are refused.
"""

import re

from lamina.core.errors import RecipeError
from lamina.core.layers import MLP
from lamina.core.plan import LayerPlan

REWRITTEN = frozenset({"w1", "w2", "w3", "gate", "gate_proj", "up_proj", "down_proj"})
"""Last parts of names that PEFT takes for experts or the router (its mapping for mixtures)."""
_SINGLE = re.compile(r"\.experts\.\d+\.|\.block_sparse_moe\.")
_EXPERT = re.compile(r"(?:^|[._])(?:experts?|moe)(?:[._]|$)")


def is_mixture(plan: LayerPlan) -> bool:
    """Whether the plan is of a mixture of experts: it names experts, or blocks without an MLP.

    In memory the experts are no linear modules, so that a plan made there has attention only.
    """
    blocks: dict[str, bool] = {}
    for one in plan.coefficients:
        block, _, module = one.partition(".")
        if _EXPERT.search(module):
            return True
        blocks[block] = blocks.get(block, False) or bool(MLP.intersection(module.split(".")))
    return not all(blocks.values())


def check_single(names: tuple[str, ...], tool: str) -> None:
    """That no single expert is to be tuned whole: in memory there is none.

    Raises:
        RecipeError: some are; an expression for them would match nothing.
    """
    bad = [name for name in names if _SINGLE.search(name)]
    if bad:
        raise RecipeError(
            f"transformers 5 holds the experts of a block in one parameter, so that {tool} finds no"
            f" `{bad[0]}`: {len(bad)} planned modules cannot be tuned one by one. Plan attention"
            " modules only."
        )


def check_rewritten(names: tuple[str, ...], tool: str) -> None:
    """That PEFT leaves the names of a mixture of experts as they are.

    Raises:
        RecipeError: it takes some for experts of all blocks.
    """
    bad = [name for name in names if name.rpartition(".")[2] in REWRITTEN]
    if bad:
        raise RecipeError(
            f"this is a mixture of experts, and for these PEFT takes `{bad[0]}` for the experts of"
            f" all blocks: {len(bad)} planned modules cannot be told to {tool} one by one. Plan"
            " attention modules only, or tune with lamina."
        )
