"""A run in plain words: what was merged, what the scores said, which layers carry it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from lamina.report.formats import is_block, listing, number, percent, runs, short
from lamina.report.nouns import Expert, Run
from lamina.report.verdicts import Part, measured_reading, merges_of

METHODS = {
    "lata": "LATA (layer-aware task arithmetic)",
    "linear": "a linear average",
    "slerp": "spherical interpolation (slerp)",
    "task_arithmetic": "plain task arithmetic",
    "ties": "TIES",
    "dare_linear": "DARE",
    "dare_ties": "DARE with TIES",
}
ROLES = ("base", "instruct", "reference", "target")
RULES = {
    "linear_drop": "the linear rule (a layer's weight is its rank over the number of layers)",
    "log_drop": "the logarithmic rule (the weight grows with the logarithm of the rank)",
    "threshold": "the threshold rule (a layer is taken whole below a similarity of {}, else not)",
    "scores": "the ranking of a file (the most important layer is taken whole)",
}


def method_of(run: Run) -> str:
    return str(run.setting("merge_method", "method") or "")


def adds_updates(run: Run) -> bool:
    """Whether differences from a model are added to it; else whole models are mixed."""
    return method_of(run) not in ("linear", "slerp")


def rule_of(run: Run) -> str:
    chosen = [expert.rule for expert in run.experts if expert.rule]
    return chosen[0] if chosen else str(run.setting("rule") or "")


def threshold_of(run: Run) -> float | None:
    value = run.setting("threshold")
    return float(value) if isinstance(value, int | float) and rule_of(run) == "threshold" else None


def is_forgetting(run: Run) -> bool:
    weights = [expert.weight for expert in run.experts if expert.weight is not None]
    return run.kind == "forget" or (bool(weights) and all(weight < 0 for weight in weights))


def target_of(run: Run) -> str:
    """The short name of the model that is edited."""
    for key in ("target_model", "instruct_model", "base_model"):
        value = run.setting(key)
        if isinstance(value, str) and PurePath(value).name:
            return PurePath(value).name
    return "the target"


def title_of(run: Run) -> str:
    names = [expert.name for expert in run.experts] or [
        name for name in run.inputs if name not in ROLES
    ]
    method = METHODS.get(method_of(run), method_of(run)).split(" (")[0]
    by = f", by {method}" if method else ""
    if is_forgetting(run):
        return f"{target_of(run)} without {listing(names)}{by}"
    into = f" into {target_of(run)}" if adds_updates(run) else ""
    return f"{' + '.join(names) or run.name}{into}{by}"


def overview(sections: Sequence[tuple[str, Run]]) -> Part:
    """What a page of several merges holds."""
    told = [f"{title} ({title_of(run)})" for title, run in sections]
    many = f"{len(told)} merges of one family" if len(told) > 1 else "One merge"
    return Part(
        "What was done", f"{many}, written and then measured on the same text: {listing(told)}."
    )


def warnings_of(runs_by_title: Sequence[tuple[str, Run]]) -> list[str]:
    """The warnings of all runs; one that not all runs have says whose it is."""
    said: dict[str, list[str]] = {}
    for title, run in runs_by_title:
        unfinished = "Not finished: this folder has no manifest; the run was stopped, or goes on."
        for warning in (*(() if run.finished else (unfinished,)), *run.warnings):
            said.setdefault(warning, []).append(title)
    return [
        warning if len(titles) == len(runs_by_title) else f"{listing(titles)}: {warning}"
        for warning, titles in said.items()
    ]


def reading(run: Run, *, losses_elsewhere: bool = False) -> list[Part]:
    """The whole reading of one merge; without its losses where those stand `losses_elsewhere`."""
    parts = [Part("What was done", _what(run))]
    if run.experts:
        if any(expert.by_similarity for expert in run.experts):
            parts.append(Part("What the similarity said", _similarity(run)))
        carried = _carried(run)
        if carried and adds_updates(run):
            parts.append(Part("Which layers carry it", carried))
    if losses_elsewhere:
        return parts
    if run.metrics is None:
        text = (
            "No held-out text was measured: here stands what was merged, not whether that helped."
        )
        parts.append(Part("What it did to the losses", text))
        return parts
    return parts + measured_reading(run.metrics, merges_of(run.metrics, list(run.inputs)))


def _what(run: Run) -> str:
    method = METHODS.get(method_of(run), method_of(run))
    target = target_of(run)
    experts = [
        expert.name + (f" (weight {short(expert.weight)})" if expert.weight is not None else "")
        for expert in run.experts
    ]
    if not experts:
        names = [name for name in run.inputs if name not in ROLES]
        return f"{listing(names) or 'The inputs'} were merged" + (
            f" by {method}." if method else "."
        )
    was = "was" if len(experts) == 1 else "were"
    if is_forgetting(run):
        text = f"The task vector of {listing(experts)} {was} taken away from {target}"
    elif not adds_updates(run):
        text = f"{listing(experts)} {was} merged"
    else:
        vectors = "task vector" if len(experts) == 1 else "task vectors"
        text = f"The {vectors} of {listing(experts)} {was} added to {target}"
    text += f" by {method}" if method else ""
    rule = RULES.get(rule_of(run))
    if rule:
        threshold = threshold_of(run)
        text += (
            f" with {rule.format(short(threshold) if threshold is not None else 'the threshold')}"
        )
    whole = run.setting("lambda", "lambda_")
    if isinstance(whole, int | float) and whole != 1.0:
        text += f", all of it times {short(whole)}"
    layers = len(run.experts[0].values)
    unit = run.experts[0].granularity or "layer"
    text += f"; {layers} {unit}{'s' if layers != 1 else ''} were measured."
    return text + (_outside(run) if adds_updates(run) else "")


def _outside(run: Run) -> str:
    """What happened to embeddings, final norm and head, and how much of the update is there."""
    shares = run.results.get("others_share")
    if not isinstance(shares, Mapping):
        return ""
    held = [
        f"{percent(float(share))} of the update of {name}"
        for name, share in shares.items()
        if isinstance(share, int | float) and math.isfinite(share)
    ]
    taken = {expert.others for expert in run.experts}
    if not held or len(taken) != 1:
        return ""
    others = taken.pop()
    if others == 0.0:
        return (
            f" Embeddings, final norm and head kept the values of {target_of(run)}: "
            f"left out there is {listing(held)}."
        )
    weight = "as it is" if others in (1.0, None) else f"with weight {short(others)}"
    return f" Outside the blocks, where {listing(held)} sits, the update was taken {weight}."


def _similarity(run: Run) -> str:
    compared = [expert for expert in run.experts if expert.by_similarity]
    ranges: list[str] = []
    close = False
    for expert in compared:
        finite = {key: value for key, value in expert.values.items() if math.isfinite(value)}
        if not finite:
            continue
        low, high = (
            min(finite, key=lambda key: finite[key]),
            max(finite, key=lambda key: finite[key]),
        )
        close = close or finite[high] - finite[low] < 0.01
        ranges.append(
            f"for {expert.name} from {number(finite[high])} in {_layer(high)} down to "
            f"{number(finite[low])} in {_layer(low)}"
        )
    text = f"The similarity to the instruction vector runs {listing(ranges)}."
    if close:
        text += " These are very close: a ranking rests on differences below a hundredth."
    return text + _agreement(compared)


def _agreement(experts: Sequence[Expert]) -> str:
    """How alike the experts' rankings are, over all pairs."""
    pairs = [
        rank_correlation(first.ranks(), second.ranks())
        for place, first in enumerate(experts)
        for second in experts[place + 1 :]
    ]
    known = sorted(pair for pair in pairs if pair is not None)
    if not known:
        return ""
    least = known[0]
    word = "almost agree" if least > 0.9 else "are alike" if least > 0.6 else "differ"
    many = "two" if len(experts) == 2 else str(len(experts))
    ends = dict.fromkeys((number(known[0], 2), number(known[-1], 2)))
    return f" The {many} rankings {word} (rank correlation {' to '.join(ends)})."


def rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Spearman's, over the layers that both have."""
    common = sorted(set(first) & set(second))
    if len(common) < 3:
        return None
    a, b = [first[key] for key in common], [second[key] for key in common]
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    products = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    squares = math.fsum((x - mean_a) ** 2 for x in a) * math.fsum((y - mean_b) ** 2 for y in b)
    return products / math.sqrt(squares) if squares > 0.0 else None


def fewest_for_half(shares: Mapping[str, float]) -> list[str]:
    """The fewest layers that together hold half."""
    taken: list[str] = []
    total = 0.0
    for layer in sorted(shares, key=lambda key: -shares[key]):
        if total >= 0.5 - 1e-9:
            break
        taken.append(layer)
        total += shares[layer]
    return taken


def _carried(run: Run) -> str:
    sentences: list[str] = []
    for expert in run.experts:
        before, after = fewest_for_half(expert.shares()), fewest_for_half(expert.carried())
        if not after:
            continue
        sentence = f"For {expert.name}, half of what is merged sits in {_layers(after)}"
        sentence += f" (of {len(expert.values)}"
        sentence += f"; as tuned, {len(before)} hold half)" if len(before) != len(after) else ")"
        weights = expert.coefficients or {}
        dropped = [key for key in expert.values if weights.get(key) == 0.0]
        if dropped:
            left = math.fsum(expert.shares().get(key, 0.0) for key in dropped)
            were = "layers were" if len(dropped) > 1 else "layer was"
            sentence += f"; {len(dropped)} {were} left out, with {percent(left)} of the update"
        sentences.append(sentence + ".")
    return " ".join(sentences)


def _layer(layer: str) -> str:
    return f"block {layer}" if is_block(layer) else layer


def _layers(layers: Sequence[str]) -> str:
    if all(is_block(layer) for layer in layers):
        return ("block " if len(layers) == 1 else "blocks ") + runs(int(layer) for layer in layers)
    return f"{len(layers)} modules, {listing(layers, most=4)}"
