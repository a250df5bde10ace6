"""What a step costs under a plan, counted before anything runs; one forward pass is the unit.

Counted are the multiplications of weight matrices, per token. Let F be the weights of all linear
modules and the output head, W(b) those of the modules in blocks >= b, H those of the head, P the
values of the planned adapters and U those of the matrices that are trained whole:

    step         = (F + W(b) + H + 3 P + U) / F        b: the lowest block with a trained value
    checkpointed = step + (W(b) + P) / F               blocks >= b are computed a second time
    hooked       = checkpointed with b = 0             the hook that PEFT sets under checkpointing
    cached       = step - (F - H - W(b)) / F           the prefix's outputs are read from the disk

A forward pass, activation gradients down to block b, and for an adapter one product each forward,
for the activations and for its own gradient. The backward pass ends at the *lowest* trained block:
scattered modules save the memory of what is not trained, but hardly any time.

Measured on a model of 16 blocks (H/F .06, P/F .04 for all modules): all 2.12, the top 4 blocks
1.32, 4 scattered ones 2.07, top 4 checkpointed 1.56 and with the hook 2.88, cached .62. The
formula is within 4 % of each (tests/ila/test_price.py). Not counted: attention scores, norms, the
optimizer, reading a cache, and that the lowest planned modules need no gradient of their input.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lamina.core.layers import HEADS
from lamina.core.modules import Linears
from lamina.core.plan import LayerPlan
from lamina.core.rules import RULES, Values, block_of, count_of, top

BYTES_A_VALUE = 12
"""A gradient and Adam's two moments in float32, for each trained value."""
HARDLY = 10
"""Percent of a step on all modules; what saves less saves no time worth a word."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A model as numbers of values."""

    num_blocks: int
    weights: Mapping[str, int]
    """Values of the matrix of each linear module, in the modules' order."""
    adapters: Mapping[str, int] = field(default_factory=dict)
    """Values of each module's LoRA factors; empty where planned matrices are trained whole."""
    head: int = 0
    """Values of the output head; 0 where nobody knows, and steps are then told a little too low."""

    @classmethod
    def of(
        cls,
        linears: Linears,
        *,
        rank: int | None,
        head: int = 0,
        ranks: Mapping[str, int] | None = None,
    ) -> "Counted":
        """The numbers of a model with LoRA of a rank (and of `ranks` where they differ).

        `rank` None: planned matrices are trained whole.
        """
        own, every = ranks or {}, linears.by_id.values()
        return cls(
            linears.num_blocks,
            {one.id: one.weights for one in every},
            {one.id: one.lora_parameters(own.get(one.id, rank)) for one in every} if rank else {},
            head,
        )

    @property
    def trained(self) -> Mapping[str, int]:
        """Trained values of each module if it is planned."""
        return self.adapters or self.weights

    @property
    def forward(self) -> int:
        """F."""
        return sum(self.weights.values()) + self.head

    def above(self, block: int) -> int:
        """W(b)."""
        return sum(value for one, value in self.weights.items() if block_of(one) >= block)


@dataclass(frozen=True, slots=True)
class Offer:
    """The best set of modules with none below a block, and what it costs."""

    lowest_block: int
    kept: float
    """Its part of the positive score of a `top` set of that size; 0 where none is positive."""
    parameters: int
    step: float
    step_checkpointed: float
    step_cached: float


def price(
    plan: LayerPlan,
    linears: Linears,
    *,
    rank: int | None,
    head: int = 0,
    whole: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """What a step costs under a plan, as `plan.json` holds it.

    Args:
        rank: of the adapters where the plan has no other; None: planned matrices trained whole.
        head: weights of the output head (`weights.linears.head_weights`).
        whole: values of the modules of `plan.full`; those that are linear are known anyway.
    """
    return priced(plan, Counted.of(linears, rank=rank, head=head, ranks=plan.ranks), whole or {})


def priced(plan: LayerPlan, model: Counted, whole: Mapping[str, int]) -> dict[str, float]:
    """`price` from the numbers of a model."""
    full = {one: model.weights.get(one, whole.get(one, 0)) for one in plan.full}
    chosen = {one: model.trained[one] for one in plan.chosen if one not in full}
    lowest = min([_block(one, model) for one in (*chosen, *full)], default=model.num_blocks)
    adapters = sum(chosen.values()) if model.adapters else 0
    matrices = sum(value for one, value in full.items() if one in model.weights)
    matrices += 0 if model.adapters else sum(chosen.values())
    every = sum(model.adapters.values())
    return {
        "lowest_block": lowest,
        "num_blocks": model.num_blocks,
        "modules": len(chosen.keys() | (full.keys() & model.weights.keys())),
        "of_modules": len(model.weights),
        "parameters": sum(chosen.values()) + sum(full.values()),
        "of_parameters": sum(model.trained.values()),
        **_steps(model, lowest, adapters, matrices),
        "step_all": _steps(model, 0, every, 0 if model.adapters else model.above(0))["step"],
    }


def trade_off(values: Values, model: Counted, share: float) -> tuple[Offer, ...]:
    """For each lowest block the best set of a share's size above it (`prefix_friendly`), rising.

    Sets that are the same are told once, by the lowest block that they have a module in.
    """
    count = count_of(share, len(values))
    whole = _positive(values, top(values, model.trained, share=share))
    offers: dict[int, Offer] = {}
    for block in range(model.num_blocks):
        if sum(block_of(one) >= block for one in values) < count:
            break
        rule = RULES["prefix_friendly"]
        chosen = tuple(rule(values, model.trained, share=share, lowest_block=block))
        lowest = min(map(block_of, chosen))
        used = sum(model.trained[one] for one in chosen)
        steps = _steps(model, lowest, *((used, 0) if model.adapters else (0, used)))
        offers[lowest] = Offer(
            lowest_block=lowest,
            kept=_positive(values, chosen) / whole if whole > 0 else 0.0,
            parameters=used,
            step=steps["step"],
            step_checkpointed=steps["step_checkpointed"],
            step_cached=steps["step_cached"],
        )
    return tuple(offers.values())


def in_words(cost: Mapping[str, float]) -> str:
    """What a plan saves, memory and time apart."""
    blocks, lowest = int(cost["num_blocks"]), int(cost["lowest_block"])
    saved = (cost["of_parameters"] - cost["parameters"]) * BYTES_A_VALUE / 1e6
    if saved <= 0 and not lowest:
        return f"Nothing is frozen below or between: {cost['step']:.2f} forward passes a step."
    memory = f"{saved:,.1f} MB less of gradients and Adam's state" if saved > 0 else "none"
    less = 100 * (1 - cost["step"] / cost["step_all"])
    told = (
        f"a step costs {cost['step']:.2f} forward passes against {cost['step_all']:.2f} for all"
        f" modules ({less:.0f} % less)"
    )
    if not lowest or less < HARDLY:
        return (
            f"Backward goes down to block {lowest} of {blocks}, the lowest planned one: {told}."
            f" Scattered modules save memory ({memory}), hardly any time."
        )
    return (
        f"Nothing is planned below block {lowest} of {blocks}, a frozen prefix: {told}, and"
        f" {cost['step_cached']:.2f} with the prefix's outputs cached. Memory: {memory}."
    )


def _steps(model: Counted, lowest: int, adapters: int, matrices: int) -> dict[str, float]:
    """The formulas of the module's docstring."""
    forward, above, every = model.forward, model.above(lowest), model.above(0)
    own = 3 * adapters + matrices
    return {
        "step": (forward + above + model.head + own) / forward,
        "step_checkpointed": (forward + 2 * above + model.head + own + adapters) / forward,
        "step_hooked": (forward + 2 * every + model.head + own + adapters) / forward,
        "step_cached": (2 * above + 2 * model.head + own) / forward,
    }


def _block(module: str, model: Counted) -> int:
    """The block that backward has to reach: 0 for an embedding, none for the norm and the head."""
    start = module.partition(".")[0]
    if start.isdigit():
        return int(start)
    name = module.rpartition(".")[2]
    below = name not in HEADS and ("emb" in module or name in {"wte", "wpe"})  # embed_out: a head
    return 0 if below else model.num_blocks


def _positive(values: Values, chosen: Iterable[str]) -> float:
    return sum(max(values[one], 0.0) for one in chosen)
