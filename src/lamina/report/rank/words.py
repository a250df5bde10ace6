"""A ranking in plain words: what was ranked, how sure it is, what is at the top, what it saves.

Nothing is called better than chance without the chance beside it; no saving is promised that was
not measured.
"""

import math
from itertools import combinations
from pathlib import PurePath

from lamina.core.agreement import spearman
from lamina.report.formats import count, listing, number, percent, runs, signed
from lamina.report.grid import module_words
from lamina.report.rank import sums
from lamina.report.rank.nouns import Ranked
from lamina.report.rank.plan_words import saving_words
from lamina.report.tune.words import sentence
from lamina.report.verdicts import Part

WAYS = {
    "integrate": "each gets its part of what the whole adapter gains: the gradient of its gate, "
    "integrated from no adapter to the whole one",
    "taylor": "how much the loss would rise without its update, estimated from the slope and the "
    "curvature of its gate near one",
    "learn": "a gate on each frozen update is learnt by gradient descent; what stays open matters",
    "sparse": "gates on the frozen updates are learnt at a price for each that is open",
    "leave_one_out": "how much the loss rises when its update is left out",
    "shapley": "its mean gain over sampled sets of others that are left out",
    "block_influence": "how far it turns the hidden states that pass through",
    "snr": "its singular values above the noise over those below",
    "delta_norm": "the size of its update; no data is looked at",
    "lora_drop": "the size of what its update adds to its outputs on the rows",
    "cosine": "the cosine of its update with the instruction update",
}
ADDED = ("integrate", "taylor", "leave_one_out", "shapley")
"""Ways whose values are losses, so that their sums mean something."""
WITHOUT_ROWS = ("delta_norm", "snr", "cosine")
"""Ways that draw no rows: every seed gives the same."""
OF_MODELS = ("snr", "cosine")
"""Ways that need no adapter, so that there may be none to leave anything out of."""
STABLE, AGREES, OFF = 0.95, 0.9, 0.05
"""Seeds and leave-one-out should agree so far (Spearman), and a whole be off by no more."""
_NOUNS = {"block": "block", "sublayer": "sub-layer", "module": "module"}


def units_words(ranked: Ranked, many: int | None = None) -> str:
    """`56 modules`, `1 block`."""
    grain = ranked.main.granularity if ranked.main else "module"
    total = len(ranked.main.values) if ranked.main and many is None else many or 0
    return f"{count(total)} {_NOUNS.get(grain, 'unit')}{'' if total == 1 else 's'}"


def title_of(ranked: Ranked) -> str:
    """The headline of the page."""
    grain = _NOUNS.get(ranked.main.granularity if ranked.main else "module", "unit")
    by = f", by {ranked.way}" if ranked.way else ""
    return f"Which {grain}s of {model_of(ranked)} matter{by}"


def model_of(ranked: Ranked) -> str:
    """The last part of the model's or adapter's path."""
    value = ranked.run.recipe.get("model")
    return PurePath(value).name or "the model" if isinstance(value, str) else "the model"


def between_seeds(ranked: Ranked) -> float | None:
    """The lowest Spearman correlation of two seeds."""
    if _one_only(ranked):
        return None
    if ranked.agreement is not None and ranked.agreement.lowest_between_seeds is not None:
        return ranked.agreement.lowest_between_seeds
    seeds = ranked.main.seeds if ranked.main else ()
    found = [spearman(a, b) for a, b in combinations(seeds, 2) if a and a.keys() == b.keys()]
    return min(found, default=None)


def _one_only(ranked: Ranked) -> bool:
    return ranked.main is not None and len(ranked.main.values) < 2


def removed_of(ranked: Ranked) -> tuple[dict[str, float], float | None]:
    """What leaving out each unit costs, and how far the ranking agrees with it."""
    main, read = ranked.main, ranked.agreement
    if main is None:
        return {}, read.removed_spearman if read else None
    values = dict(read.removed) if read else {}
    if not values and "leave_one_out" in ranked.beside:
        values = dict(ranked.beside["leave_one_out"].values)
    known = read.removed_spearman if read else None
    if known is None and values.keys() == main.values.keys():
        known = spearman(main.values, values)
    return {unit: values[unit] for unit in main.values if unit in values}, known


def warnings_of(ranked: Ranked) -> list[str]:
    """What is wrong with the files, what the run warned of, and what the ranking has not shown."""
    told = []
    if not ranked.run.finished:
        told.append("Not finished: this folder has no manifest; the run was stopped, or goes on.")
    if ranked.run.status not in ("", "complete", "done"):
        told.append(f"The run did not come to its end: its status is `{ranked.run.status}`.")
    told += [*ranked.problems[:12], *ranked.run.warnings]
    if len(ranked.problems) > 12:
        told.append(f"{len(ranked.problems) - 12} more parts of the files cannot be read.")
    if ranked.main is not None:
        said = " ".join(ranked.run.warnings)
        told += [own for word, own in [*_unsure(ranked), *_unfit(ranked)] if word not in said]
    return list(dict.fromkeys(sentence(one) for one in told))


def _unsure(ranked: Ranked) -> list[tuple[str, str]]:
    """Seeds that disagree, and the missing or failed check against leaving out.

    Each with a word that the run's own warning of the same would have.
    """
    told = []
    lowest, removed = between_seeds(ranked), removed_of(ranked)[1]
    if _one_only(ranked):
        return []
    if lowest is None and ranked.way not in WITHOUT_ROWS:
        text = "One seed only: how far the ranking depends on the rows drawn is not known."
        told.append(("one seed", text))
    elif lowest is not None and lowest < STABLE:
        text = (
            f"The seeds disagree: their rankings correlate by {number(lowest, 2)} only, below "
            f"{STABLE}. More batches or more seeds make the ranking surer."
        )
        told.append(("seeds", text))
    if ranked.way == "leave_one_out":
        return told
    if removed is None:
        text = (
            "No leave-one-out check: nothing here shows that what ranks high is missed when it "
            "is left out."
        )
        if ranked.main and ranked.main.granularity == "module" and ranked.way not in OF_MODELS:
            text += " `beside: [leave_one_out]` measures it."
        told.append(("leave-one-out", text))
    elif removed < AGREES:
        text = (
            f"The ranking and leave-one-out correlate by {number(removed, 2)} only, below {AGREES}."
        )
        told.append(("leave-one-out", text))
    return told


def _unfit(ranked: Ranked) -> list[tuple[str, str]]:
    """An integral that does not add up, an adapter that gains nothing, a stage 1 cut short."""
    told = []
    read, results = ranked.agreement, ranked.run.results
    error = read.completeness_error if read else None
    if error is not None and abs(error) > OFF:
        text = (
            f"The values do not add up to the adapter's gain: off by {percent(abs(error))}. More "
            "points of the integral (`gates.points`) bring them nearer."
        )
        told.append(("the integral", text))
    without, with_ = _plain(results.get("loss_without")), _plain(results.get("loss_with"))
    if without is not None and with_ is not None and with_ >= without:
        text = (
            f"The adapter does not lower the loss on these rows ({number(without)} without it, "
            f"{number(with_)} with it): a ranking of what does not help says little."
        )
        told.append(("does not lower", text))
    steps = read.cost.get("stage_one_steps") if read else None
    if read is not None and steps and "stable_at" not in read.cost:
        text = (
            f"Stage 1 ended after {count(steps)} steps before its loss was stable: the ranking of "
            "a longer one may differ."
        )
        told.append(("stage 1", text))
    return told


def _plain(value: object) -> float | None:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if ok else None  # type: ignore[arg-type]


def reading(ranked: Ranked) -> list[Part]:
    """The whole reading; parts of which no file tells are left out."""
    parts = [Part("What was ranked", ranked_words(ranked))]
    if ranked.main is None:
        text = "There are no scores here: the ranking did not come to its end."
        return [*parts, Part("What matters most", text)]
    parts.append(Part("What matters most", top_words(ranked)))
    parts.append(Part("How stable it is", stable_words(ranked)))
    parts.append(Part("Is it true?", true_words(ranked)))
    others = others_words(ranked)
    if others:
        parts.append(Part("Beside other rankings", others))
    parts.append(Part("What tuning only these saves", saving_words(ranked)))
    cost = cost_words(ranked)
    return [*parts, Part("What it cost", cost)] if cost else parts


def in_short(ranked: Ranked) -> str:
    """For a page of several runs: the top, and how sure it is."""
    if ranked.main is None:
        return "The ranking did not come to its end."
    return f"{top_words(ranked)} {stable_words(ranked)}"


def ranked_words(ranked: Ranked) -> str:
    how = f": {WAYS[ranked.way]}" if ranked.way in WAYS else ""
    what = units_words(ranked) if ranked.main is not None else "modules"
    text = f"The {what} of {model_of(ranked)}{f' by {ranked.way}' if ranked.way else ''}{how}."
    without = _plain(ranked.run.results.get("loss_without"))
    with_ = _plain(ranked.run.results.get("loss_with"))
    if without is not None and with_ is not None:
        text += (
            f" The whole adapter moves the loss from {number(without)} to {number(with_)} nats a "
            f"token ({signed(with_ - without)})."
        )
    stopped = ranked.run.results.get("stage_one_stopped")
    if isinstance(stopped, str) and stopped:
        text += f" Stage 1 came to its end ({stopped.rstrip('.')})."
    return text


def top_words(ranked: Ranked) -> str:
    """Which types and blocks the top set is, beside chance; how much of it could change sides."""
    assert ranked.main is not None
    many = f"{len(ranked.top)} of {units_words(ranked)}"
    text = f"The top {percent(ranked.share)} ({many}): {listing(ranked.top, most=6)}."
    if len(ranked.top) == len(ranked.main.values):
        return f"{text} That is all of them: nothing is left out."
    types, blocks = sums.by_type(ranked), sums.by_block(ranked)
    if len(types) > 1:
        more = sums.more_than_chance(types)
        told = [
            f"{module_words(one.name)} ({one.chosen} of {len(one.units)}; "
            f"{number(one.expected, 1)} by chance)"
            for one in sorted(more, key=lambda one: -one.chosen)
        ]
        text += f" More often in it than chance gives: {listing(told)}." if told else (
            " No type of module is in it more often than chance gives."
        )  # fmt: skip
        none = [module_words(one.name) for one in types if not one.chosen]
        text += f" Not in it at all: {listing(none)}." if none else ""
    halves = sums.halves(ranked)
    if len(blocks) > 1 and halves is not None:
        taken = runs(int(one.name) for one in blocks if one.chosen)
        text += (
            f" It lies in the blocks {taken} of 0 to {blocks[-1].name}: {halves[0]} in the lower "
            f"half, {halves[1]} in the upper ({number(halves[2], 1)} in the lower by chance)."
        )
    cut = sums.cut_of(ranked)
    if cut is not None and ranked.main.spread:
        text += f" {_unsure_words(len(cut.unsure))}"
    return text


def _unsure_words(many: int) -> str:
    if not many:
        return "None is within one spread of the cut."
    told = "One is" if many == 1 else f"{many} are"
    may = "it may change its side" if many == 1 else "they may change sides"
    return f"{told} within one spread of the cut: with other seeds {may}."


def stable_words(ranked: Ranked) -> str:
    lowest = between_seeds(ranked)
    seeds = len(ranked.main.seeds) if ranked.main else 0
    if ranked.way in WITHOUT_ROWS and (lowest is None or lowest == 1.0):
        return "No rows are drawn for it: every seed gives the same."
    if lowest is None:
        what = "unit to rank" if _one_only(ranked) else "seed"
        return f"Not known: there is one {what} only."
    many = f"{seeds} seeds" if seeds > 1 else "the seeds"
    verdict = "they agree" if lowest >= STABLE else "they do not agree well"
    word = "Between" if seeds <= 2 else "Between the two least alike of"
    return f"{word} {many}, Spearman {number(lowest, 2)}: {verdict} (wanted: {STABLE})."


def true_words(ranked: Ranked) -> str:
    """The check against leaving each out, and whether the values add up."""
    if ranked.way == "leave_one_out":
        text = "It is the exact answer for each alone; what several do together is not in it."
    else:
        values, known = removed_of(ranked)
        read = ranked.agreement
        if known is None:
            text = "Not checked: leaving out each unit in turn was not measured."
        else:
            rows = read.removed_examples if read else None
            on = f", on {count(rows)} rows" if rows else ""
            many = f" of all {len(values)}" if values else ""
            verdict = "it agrees" if known >= AGREES else "it does not agree well"
            text = (
                f"Against leaving out each{many} in turn{on}, Spearman {number(known, 2)}: "
                f"{verdict} (wanted: {AGREES})."
            )
    error = ranked.agreement.completeness_error if ranked.agreement else None
    if error is not None:
        text += (
            f" The values add up to the adapter's gain but for {percent(abs(error))}"
            f"{', which is too far off' if abs(error) > OFF else ''}."
        )
    return text


def others_words(ranked: Ranked) -> str:
    """The top set beside those of the other rankings, with chance taken out."""
    read = ranked.agreement
    if read is None or len(read.names) < 2 or not read.shared:
        return ""
    told = []
    for place, name in enumerate(read.names):
        shared = read.shared[0][place]
        if not place or shared is None:
            continue
        fixed = read.corrected[0][place] if read.corrected else None
        more = f" (corrected {number(fixed, 2)})" if fixed is not None else ""
        told.append(f"{percent(shared)}{more} with that of {name}")
    if not told:
        return ""
    text = f"Its top {percent(ranked.share)} shares {listing(told)}."
    if read.chance is None:
        return text
    return f"{text} Chance alone gives {percent(read.chance)}; corrected, that is 0."


def cost_words(ranked: Ranked) -> str:
    cost = ranked.agreement.cost if ranked.agreement else {}
    told = []
    batches = cost.get("batches", _plain(ranked.run.results.get("batches")))
    if ranked.way in WITHOUT_ROWS and not batches:
        told.append("The ranking: no batches, as it looks at no rows.")
    elif batches is not None:
        tokens = cost.get("tokens")
        on = f" on {count(tokens)} trained tokens" if tokens else ""
        told.append(f"The ranking: {count(batches)} forward and backward batches{on}.")
    steps = cost.get("stage_one_steps", _plain(ranked.run.results.get("stage_one_steps")))
    if steps:
        stable = cost.get("stable_at")
        at = f"; its loss was stable at step {count(stable)}" if stable is not None else ""
        told.append(f"Stage 1: {count(steps)} optimiser steps{at}.")
    elif steps is not None and ranked.way not in OF_MODELS:
        told.append("Stage 1 was not needed: the adapter was there.")
    return " ".join(told)


def stage_one_losses(ranked: Ranked) -> list[float]:
    """The loss of the probe rows at each look of stage 1, the start first."""
    given = ranked.run.results.get("stage_one_losses")
    read = [_plain(one) for one in given] if isinstance(given, list | tuple) else []
    return [one for one in read if one is not None and abs(one) < 1e6]


def gain_words(ranked: Ranked) -> str:
    """What part of all positive values the top set holds, where values are losses."""
    if ranked.main is None or ranked.way not in ADDED:
        return ""
    total = math.fsum(value for value in ranked.main.values.values() if value > 0.0)
    held = math.fsum(ranked.main.values[unit] for unit in ranked.top)
    return f"{percent(held / total)} of all positive values" if total > 0.0 else ""
