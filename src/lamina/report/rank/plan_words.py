"""What a plan costs and saves, in words: memory always, time only below its lowest block."""

from lamina.report.formats import count, listing, number, percent, runs, short
from lamina.report.rank import sums
from lamina.report.rank.nouns import Ranked
from lamina.report.rank.plan_nouns import Plan

_FEW = 0.125
"""With its lowest block below this share of all, a plan leaves out hardly any backward work."""
HARDLY = 0.1
"""Of a step on all modules; what saves less saves no time worth a word."""
LAYERWISE = {
    "prilora": "PRILoRA: ranks rise from the lowest block to the highest, and small entries of A "
    "are pruned as training goes on",
    "spider": "SPIDER: after each step, values that matter to the model before are drawn back",
    "lisa": "LISA: a few blocks drawn at random are trained at a time",
}


def saving_words(ranked: Ranked) -> str:
    """What tuning the top set alone would save: memory, and time only above its lowest block."""
    assert ranked.main is not None
    blocks = sums.blocks_of(ranked.main.values)
    lowest = sums.lowest_block(ranked.top)
    if lowest is None or not blocks:
        return "Its units are not in blocks, so nothing can be said."
    text = ""
    sizes = ranked.main.parameters
    total = sums.total_of(sizes, ranked.main.values)
    if total:
        part = sums.total_of(sizes, ranked.top)
        text = (
            f"Memory: its adapters have {count(part)} of {count(total)} trained values "
            f"({percent(part / total)}), and so have their gradients and the optimiser's state. "
        )
    text += _time_words(lowest, len(blocks), "it")
    halfway = next((one for one in sums.above(ranked) if one.lowest * 2 >= len(blocks)), None)
    if halfway is not None and lowest < halfway.lowest and halfway.chosen:
        text += (
            f" As many from block {halfway.lowest} up would keep {halfway.kept} of these "
            f"{len(ranked.top)}: the rule `prefix_friendly` finds such a set."
        )
    return text + " What tuning by it does to the losses is not measured here."


def _time_words(lowest: int, blocks: int, what: str, *, hardly: bool | None = None) -> str:
    """Whether the backward pass can stop early, and how much of it that leaves out."""
    if lowest <= _FEW * blocks if hardly is None else hardly:
        down = f"down to block {lowest}"
        return (
            f"Hardly any time: {what} reaches {down} of {blocks} blocks, so the backward pass goes "
            f"through {'all' if not lowest else 'most'} of them whatever is frozen."
        )
    return (
        f"Some time, too: the backward pass can stop at block {lowest}, which leaves out "
        f"{lowest} of {blocks} blocks ({percent(lowest / blocks)} of the backward work, not of a "
        "whole step)."
    )


def plan_words(plan: Plan, layerwise: str = "", *, lora: bool = True, done: bool = True) -> str:
    """Which modules, by which rule, where, and beside what; `done`: a tuning kept to it."""
    chosen, total = plan.chosen, len(plan.coefficients)
    how = (" tuned with LoRA" if lora else " tuned in full") if done else " to be tuned"
    verb = "was" if len(chosen) == 1 else "were"
    verb = verb if done else {"was": "is", "were": "are"}[verb]
    text = f"{count(len(chosen))} of {count(total)} linear modules {verb}{how}"
    blocks = sums.blocks_of(chosen)
    if blocks:
        text += f", in {'the blocks' if len(blocks) > 1 else 'block'} {runs(blocks)}"
    text += "."
    if plan.full:
        text += f" Trained whole, without an adapter: {listing(plan.full)}."
    text += f" {rule_words(plan)}"
    ranks = sorted(set(plan.ranks.values()))
    if len(ranks) > 1:
        text += f" Ranks lie between {short(ranks[0])} and {short(ranks[-1])}."
    elif ranks:
        text += f" {count(len(plan.ranks))} of them have rank {short(ranks[0])}."
    return text + (f" {layerwise_words(layerwise)}" if layerwise else "")


def rule_words(plan: Plan) -> str:
    """`They were chosen by the rule top (share .3) from scores.json.`"""
    if not plan.rule:
        return "The plan names no rule."
    given = ", ".join(
        f"{key.replace('_', ' ')} {short(value) if isinstance(value, int | float) else value}"
        for key, value in plan.parameters.items()
    )
    origin = f" from {plan.from_scores}" if plan.from_scores else ""
    return f"They were chosen by the rule {plan.rule}{f' ({given})' if given else ''}{origin}."


def layerwise_words(way: str) -> str:
    return f"Layer by layer, {LAYERWISE[way]}." if way in LAYERWISE else f"Layer by layer: {way}."


def lowest_of(plan: Plan) -> tuple[int | None, int]:
    """The block at which the backward pass ends, and how many there are."""
    every = sums.blocks_of(plan.coefficients)
    blocks = max(int(plan.price.get("num_blocks", 0)), len(every))
    known = plan.price.get("lowest_block")
    lowest = sums.lowest_block([*plan.chosen, *plan.full]) if known is None else int(known)
    if any("emb" in unit for unit in plan.full):
        lowest = 0
    return lowest, blocks


def price_words(plan: Plan) -> str:
    """Whether the plan saves time or only memory; its price where the plan has one."""
    lowest, blocks = lowest_of(plan)
    if lowest is None or not 0 <= lowest < blocks:
        return "Nothing in the blocks is trained by it: the backward pass enters none of them."
    step, whole = plan.price.get("step"), plan.price.get("step_all")
    if step is None or not whole:
        return _time_words(lowest, blocks, "the plan")
    less = 1.0 - step / whole
    hardly = less < HARDLY
    text = _time_words(lowest, blocks, "the plan", hardly=hardly)
    return (
        f"{text} Counted, not measured: a step costs {number(step, 2)} forward passes of the "
        f"model, against {number(whole, 2)} with all modules ({percent(max(0.0, less))} less)."
    )


def price_facts(plan: Plan) -> list[tuple[str, str, str]]:
    """The price in single numbers: name, value, note."""
    price, found = plan.price, []
    lowest, blocks = lowest_of(plan)
    found.append(("Modules tuned", count(len(plan.chosen)), f"of {count(len(plan.coefficients))}"))
    if lowest is not None and 0 <= lowest < blocks:
        note = f"of {count(blocks)}; the backward pass stops there"
        found.append(("Lowest block", count(lowest), note))
    parameters, of = price.get("parameters"), price.get("of_parameters")
    if parameters is not None:
        note = f"{percent(parameters / of)} of those of all modules" if of else ""
        found.append(("Trained values", count(parameters), note))
    notes = {
        "step": "forward passes of the model",
        "step_checkpointed": "the same, with gradient checkpointing",
        "step_cached": "the same, with the frozen blocks' outputs read from the disk",
    }
    for key, note in notes.items():
        if key in price:
            whole = price.get("step_all")
            more = f"; all modules: {number(whole, 2)}" if key == "step" and whole else ""
            name = {"step": "A step", "step_checkpointed": "Checkpointed"}.get(key, "Cached")
            found.append((name, number(price[key], 2), note + more))
    return found


def plan_values(plan: Plan) -> dict[str, float]:
    """A number for each module: its rank where ranks differ, else 1 where it is tuned."""
    own = plan.ranks
    usual = max(own.values(), default=1.0)
    values = {
        unit: (own.get(unit, usual if own else 1.0) if value else 0.0)
        for unit, value in plan.coefficients.items()
    }
    return values | {unit: max([1.0, *own.values()]) for unit in plan.full}
