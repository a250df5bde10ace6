"""A tuning in plain words: what was done, what moved, what was learnt, what was forgotten.

A change is called one only where its 95 % interval leaves zero out; else no difference is shown.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from lamina.report.formats import count, listing, number, percent, short, signed
from lamina.report.tune import sums
from lamina.report.tune.nouns import Detection, Estimate, Ledger, Tuned
from lamina.report.tune.words_plan import plan_parts
from lamina.report.verdicts import Part

POLICIES = {
    "uniform": "every domain gets the same share throughout",
    "inverse": "the less the model knew of a domain, the more of it it gets, throughout",
    "constant": "the weights of the start stay throughout",
    "foster": "a domain gets more the further its loss still is above its reference",
    "expand": "one domain grows for as long as the others do not forget",
    "doremi": "a domain gets more the further its loss is above its reference, step by step",
    "sheared": "a domain gets more the further its loss is above its target",
    "odm": "a bandit gives more to the domains whose training loss is high",
    "velocity": "a domain gets more the slower it comes down to its target",
}
STARTS = {
    "detected": "what the model was found to know",
    "uniform": "equal shares",
    "by_size": "the sizes of the domains",
}
_STILL = 0.005


def title_of(tuned: Tuned) -> str:
    """The headline of the page."""
    model = model_of(tuned)
    if tuned.run.kind == "detect":
        return f"What {model} knows, by domain"
    many = len(tuned.domains)
    on = f" on {many} domains" if many > 1 else f" on {tuned.domains[0]}" if many else ""
    policies = list(dict.fromkeys(window.policy for window in tuned.windows if window.policy))
    return f"{model} tuned{on}" + (f", weights by {listing(policies)}" if policies else "")


def model_of(tuned: Tuned) -> str:
    """The last part of the model's path."""
    for key in ("model", "base_model"):
        value = tuned.run.recipe.get(key)
        if isinstance(value, str) and PurePath(value.split("+")[0]).name:
            return PurePath(value.split("+")[0]).name
    return "the model"


def section(settings: object, key: str) -> Mapping[str, object]:
    """A section of a recipe, empty where it is none."""
    value = settings.get(key) if isinstance(settings, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def stages_of(tuned: Tuned) -> list[Mapping[str, object]]:
    """The `mixture:` sections of the recipe: one, or one a stage."""
    mixture = tuned.run.recipe.get("mixture")
    listed = mixture if isinstance(mixture, list | tuple) else [mixture]
    return [one for one in listed if isinstance(one, Mapping)]


def warnings_of(tuned: Tuned) -> list[str]:
    """What is wrong with the files, what the run warned of, and what its reference is not."""
    told = []
    if not tuned.run.finished:
        told.append("Not finished: this folder has no manifest; the run was stopped, or goes on.")
    if tuned.run.status not in ("", "complete", "done", "forgot"):
        told.append(f"The run did not come to its end: its status is `{tuned.run.status}`.")
    if tuned.ledger and tuned.ledger.gate and tuned.ledger.gate.crossed:
        told.append(f"The gate: {gate_words(tuned.ledger)}")
    told += [*tuned.problems[:12], *tuned.run.warnings]
    if len(tuned.problems) > 12:
        told.append(f"{len(tuned.problems) - 12} more parts of the files cannot be read.")
    if tuned.reference is not None:
        told += tuned.reference.warnings
        if tuned.reference.degenerate and not tuned.reference.warnings:
            told.append(degenerate_words(tuned.reference.degenerate))
    if tuned.detection is not None:
        told += tuned.detection.warnings
    return list(dict.fromkeys(sentence(one) for one in told))


def degenerate_words(names: tuple[str, ...]) -> str:
    return (
        f"The reference of {listing(names)} is degenerate: almost as high as the loss at the "
        "start, or almost zero. Potentials computed from it say little."
    )


def reading(tuned: Tuned) -> list[Part]:
    """The whole reading; parts of which no file tells are left out."""
    if tuned.run.kind == "detect":
        return detection_reading(tuned)
    parts = [Part("What was done", _done(tuned)), *plan_parts(tuned)]
    if tuned.windows:
        parts.append(Part("How the weights moved", moved_words(tuned)))
    ledger = tuned.ledger
    if ledger is None or not ledger.total:
        text = "There is no ledger yet: nothing here says what the run did to the losses."
        return [*parts, Part("What was learnt", text)]
    parts.append(Part("What was learnt", learnt_words(ledger)))
    parts.append(Part("What was forgotten", forgotten_words(tuned, ledger)))
    if ledger.gate is not None:
        parts.append(Part("The gate", gate_words(ledger)))
    return [*parts, Part("How sure that is", sure_words(ledger))]


def in_short(runs: Sequence[tuple[str, Tuned]]) -> list[Part]:
    """What several runs found, a part for each, for the top of a page of many."""
    parts: list[Part] = []
    for title, tuned in runs:
        if tuned.run.kind == "detect":
            found = tuned.detection
            text = shares_words(found) if found and found.shares else "It did not come to its end."
        elif tuned.ledger is not None and tuned.ledger.total:
            text = f"{learnt_words(tuned.ledger)} {forgotten_words(tuned, tuned.ledger)}"
        else:
            text = "There is no ledger yet: nothing says what the run did to the losses."
        parts.append(Part(title, text))
    return parts


def _done(tuned: Tuned) -> str:
    train = section(tuned.run.recipe, "train")
    how = {"lora": " with LoRA", "full": " in full"}.get(str(train.get("method", "")), "")
    rank = train.get("rank")
    if how == " with LoRA" and isinstance(rank, int | float):
        how += f" (rank {short(rank)})"
    text = f"{model_of(tuned)} was tuned{how} on {listing(tuned.domains, most=12)}"
    windows = tuned.windows
    if not windows:
        return f"{text}. No window is finished, so there is nothing to show yet."
    tokens = math.fsum(math.fsum(window.tokens.values()) for window in windows)
    many = f"{len(windows)} windows" if len(windows) > 1 else "one window"
    text += f", in {many} and {count(windows[-1].step)} optimiser steps"
    text += f" on {count(tokens)} trained tokens" if tokens else ""
    names = list(dict.fromkeys(window.policy for window in windows if window.policy))
    told = [name + (f" ({POLICIES[name]})" if name in POLICIES else "") for name in names]
    many = "policies" if len(told) > 1 else "policy"
    if told:
        text += f". The weights followed the {many} {listing(told)}"
    start = next((one.get("start") for one in stages_of(tuned)), None)
    if isinstance(start, str) and start in STARTS:
        text += f"; they began at {STARTS[start]}"
    return text + "."


def moved_words(tuned: Tuned) -> str:
    """From the first window to the last, and whether the rows kept to the weights."""
    first, last = tuned.windows[0].weights, tuned.windows[-1].weights
    both = first.keys() & last.keys()
    moves = {name: last[name] - first[name] for name in tuned.domains if name in both}
    most = sorted((n for n in moves if abs(moves[n]) >= _STILL), key=lambda n: -abs(moves[n]))
    up = [_from_to(n, first, last) for n in most if moves[n] > 0]
    down = [_from_to(n, first, last) for n in most if moves[n] < 0]
    fixed = {window.policy for window in tuned.windows} <= {"uniform", "inverse", "constant"}
    if not most:
        text = "They stayed where they began" + (
            ", as this policy wants it." if fixed else ": no domain moved by half a point."
        )
    else:
        pieces = [f"up went {listing(up, most=4)}"] if up else []
        pieces += [f"down went {listing(down, most=4)}"] if down else []
        text = sentence("; ".join(pieces))
        still = [name for name in tuned.domains if name in moves and name not in most]
        text += f" {listing(still)} stayed." if still else ""
    reason = tuned.windows[-1].reason
    text += f" The reason given for the last window: {reason.rstrip('.')}." if reason else ""
    return text + _kept(tuned)


def _from_to(name: str, first: Mapping[str, float], last: Mapping[str, float]) -> str:
    return f"{name} ({percent(first[name])} to {percent(last[name])})"


def _kept(tuned: Tuned) -> str:
    """How far the rows that were read lie from the shares that were asked for."""
    rows = sums.asked_and_achieved(tuned)
    if not rows:
        return ""
    worst = max(rows, key=lambda name: abs(rows[name].achieved - rows[name].asked))
    gap = abs(rows[worst].achieved - rows[worst].asked)
    if gap < 0.01:
        return " The rows that were read kept to the weights within one point."
    return (
        f" The rows that were read did not quite keep to the weights: {worst} was to have "
        f"{number(100 * rows[worst].asked, 1)} % and got {number(100 * rows[worst].achieved, 1)} %."
    )


def interval(one: Estimate) -> str:
    """`−0.31 [−0.35, −0.27]`."""
    text = signed(one.value)
    if one.low is None or one.high is None:
        return text
    return f"{text} [{signed(one.low)}, {signed(one.high)}]"


def learnt_words(ledger: Ledger) -> str:
    """Domains whose loss fell for certain, and those of which that cannot be said."""
    total = ledger.total
    fell = sorted((d for d in total if total[d].clear and total[d].value < 0),
                  key=lambda d: total[d].value)  # fmt: skip
    rest = [d for d in total if not total[d].clear]
    if not fell:
        text = "No difference shown: no domain's held-out loss fell beyond its error"
        return f"{text}." if not rest else f"{text} ({listing(_told(total, rest))})."
    text = f"The held-out loss fell on {listing(_told(total, fell), most=12)}, in {ledger.unit}"
    text += " with 95 % intervals."
    if rest:
        text += f" No difference shown on {listing(_told(total, rest))}."
    return text


def _told(total: Mapping[str, Estimate], names: list[str]) -> list[str]:
    return [f"{name} {interval(total[name])}" for name in names]


def forgotten_words(tuned: Tuned, ledger: Ledger) -> str:
    """Domains whose loss rose, what was lost since each domain's best, and the general text."""
    total = ledger.total
    rose = sorted((d for d in total if total[d].clear and total[d].value > 0),
                  key=lambda d: -total[d].value)  # fmt: skip
    if rose:
        text = f"The held-out loss rose on {listing(_told(total, rose), most=12)}."
    else:
        text = "Over the whole run no domain's held-out loss rose beyond its error."
    text += _in_stages(ledger)
    lost = {name: value for name, value in ledger.forgetting.items() if value > 0}
    if lost:
        most = max(lost, key=lambda name: lost[name])
        text += (
            f" Since its own best window, {most} gave back most: {number(lost[most])}"
            " (a best of several noisy values is a little too low, so this is a little too high)."
        )
    elif ledger.forgetting:
        text += " Every domain ended at its own best."
    return text + _general(ledger)


def _in_stages(ledger: Ledger) -> str:
    """What rose in one of several stages, which the whole run can hide."""
    if len(ledger.stages) < 3:
        return ""
    told = ""
    for place, stage in enumerate(ledger.stages[1:]):
        moved = {
            name: one
            for name, changes in ledger.changes.items()
            if place < len(changes) and (one := changes[place]) is not None
        }
        rose = [name for name, one in moved.items() if one.clear and one.value > 0]
        rose.sort(key=lambda name: -moved[name].value)
        if rose:
            told += f" In the stage {stage.name} it rose on {listing(_told(moved, rose), most=5)}."
    return told or " Nor did any in a single stage."


def _general(ledger: Ledger) -> str:
    moved = sums.general_change(ledger)
    if moved is None:
        return ""
    if moved.low is None:
        return f" On general text the loss changed by {signed(moved.value)}; its error is unknown."
    if not moved.clear:
        return f" On general text no difference is shown ({interval(moved)})."
    word = "rose" if moved.value > 0 else "fell"
    return f" On general text the loss {word}: {interval(moved)}."


def gate_words(ledger: Ledger) -> str:
    gate = ledger.gate
    assert gate is not None
    if not gate.crossed:
        return (
            f"Held: no domain's loss rose more than {percent(gate.most)} above its own lowest for "
            "certain, which is what the recipe allows."
        )
    where = f" in window {gate.window:.0f}" if gate.window is not None else ""
    by = f" by {percent(gate.value)}" if gate.value is not None else ""
    return (
        f"Crossed{where}: the loss of {gate.domain or 'a domain'} rose{by} above its own "
        f"lowest; the recipe allows {percent(gate.most)}. The run ended there."
    )


def sure_words(ledger: Ledger) -> str:
    known = [one for one in ledger.total.values() if one.low is not None]
    clear = [one for one in known if one.clear]
    if not known:
        return "The ledger has no intervals, so nothing can be called a difference."
    if len(known) == 1:
        text = f"The change's 95 % interval {'leaves zero out' if clear else 'holds zero'}."
    else:
        many = {0: "None", len(known): "All"}.get(len(clear), str(len(clear)))
        text = f"{many} of the {len(known)} changes {'has' if len(clear) == 1 else 'have'} a 95 % "
        text += "interval that leaves zero out."
    if len(known) >= 4:
        text += f" With {len(known)} intervals, one in twenty misses by chance alone."
    one = len(known) == 1
    return text + (
        f" {'It covers' if one else 'They cover'} the choice of the held-out rows, which are the "
        "same before and after; another seed, or another order of the rows, is not in "
        f"{'it' if one else 'them'}."
    )


def detection_reading(tuned: Tuned) -> list[Part]:
    found = tuned.detection
    if found is None or not found.shares:
        text = "There are no shares here: the detection did not come to its end."
        return [Part("What the model knows", text)]
    parts = [Part("What the model knows", shares_words(found))]
    parts.append(Part("Can the judge be trusted?", judge_words(found)))
    if found.from_losses:
        return parts
    return [*parts, Part("How much was sampled", sampled_words(found))]


def shares_words(found: Detection) -> str:
    """The shares in falling order, and which neighbours cannot be told apart."""
    names = sorted(found.shares, key=lambda name: -found.shares[name])
    told = [
        f"{name} {percent(found.shares[name])}"
        + (f" ± {percent(found.se[name])}" if name in found.se else "")
        for name in names
    ]
    text = f"Left to write from nothing, the model writes {listing(told, most=12)}."
    if found.from_losses:
        text = f"By the model's losses on their rows, the shares are {listing(told, most=12)}."
    alike = [
        f"{a} and {b}"
        for a, b in itertools.pairwise(names)
        if a in found.se
        and b in found.se
        and found.shares[a] - found.shares[b] <= 2.0 * math.hypot(found.se[a], found.se[b])
    ]
    if alike and len(alike) == len(names) - 1:
        return f"{text} No difference is shown between any neighbours in this order."
    return text + (f" No difference is shown between {'; '.join(alike)}." if alike else "")


def judge_words(found: Detection) -> str:
    judge = found.judge
    if judge is None or found.from_losses:
        return (
            "No texts were judged: the shares come from the model's own losses on the domains, "
            "which says how well it predicts them, not how much of them it writes."
        )
    if judge.accuracy is None:
        return f"Unknown: the accuracy of the judge ({judge.kind}) was not measured."
    text = f"The judge ({judge.kind}) is right on {percent(judge.accuracy)}"
    text += f" ± {percent(judge.accuracy_se)}" if judge.accuracy_se is not None else ""
    text += f" of {count(judge.rows)} labelled rows" if judge.rows is not None else " of the rows"
    text += " that it had not seen."
    if found.corrected:
        shifts = {d: found.shares[d] - found.raw[d] for d in found.shares.keys() & found.raw.keys()}
        most = max(sorted(shifts), key=lambda d: abs(shifts[d]), default=None)
        text += " The shares are corrected for what it confuses"
        if most is not None:
            text += (
                f"; {most} moved most, from {percent(found.raw[most])} "
                f"to {percent(found.shares[most])}"
            )
        return text + "."
    return text + " The shares are not corrected for what it confuses."


def sampled_words(found: Detection) -> str:
    if not found.texts:
        return "Nothing was sampled."
    text = f"{count(found.texts)} texts"
    text += f" with {count(found.tokens)} tokens" if found.tokens is not None else ""
    text += f", in {len(found.repeats)} repeats" if len(found.repeats) > 1 else ""
    text += "."
    if found.finished is not None:
        text += f" The model came to an end by itself in {percent(found.finished / found.texts)}."
    if found.invalid:
        text += (
            f" For {count(found.invalid)} of them ({percent(found.invalid / found.texts)}) "
            "the judge gave no valid answer."
        )
    return text + (f" Sampling stopped: {found.stopped.rstrip('.')}." if found.stopped else "")


def sentence(text: str) -> str:
    """With a capital at its start (but for a file's name) and a full stop."""
    first = text.split(" ")[0].rstrip(":,")
    start = text[:1] if "." in first or "_" in first else text[:1].upper()
    return f"{start}{text[1:].rstrip('.')}." if text else ""
