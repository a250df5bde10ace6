"""A run in plain words: what was merged, what the scores said, what it did to the losses.

A difference is called one only where it is larger than two standard errors.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from lamina.report.formats import listing, number, percent, runs, short, signed
from lamina.report.read import Control, Controls, Expert, Measured, Metrics, Run

METHODS = {
    "lata": "LATA (layer-aware task arithmetic)",
    "linear": "a linear average",
    "slerp": "spherical interpolation (slerp)",
    "task_arithmetic": "plain task arithmetic",
    "ties": "TIES",
    "dare_linear": "DARE",
    "dare_ties": "DARE with TIES",
}
RULES = {
    "linear_drop": "the linear rule (a layer's weight is its rank over the number of layers)",
    "log_drop": "the logarithmic rule (the weight grows with the logarithm of the rank)",
    "threshold": "the threshold rule (a layer is taken whole below a similarity of {}, else not)",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the reading: a question and its answer."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """A loss against the reference; `paired`: the error is that of the same rows' differences."""

    value: float
    se: float | None
    paired: bool

    @property
    def clear(self) -> bool:
        return self.se is not None and abs(self.value) > 2.0 * self.se


def method_of(run: Run) -> str:
    return str(run.setting("merge_method", "method") or "")


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
        if isinstance(value, str) and value:
            names = [name for name, one in run.inputs.items() if one.get("path") == value]
            return names[0] if names else PurePath(value).name
    return "the target" if "target" not in run.inputs else "target"


def title_of(run: Run) -> str:
    names = [expert.name for expert in run.experts] or [
        name for name in run.inputs if name not in ("base", "instruct", "target")
    ]
    method = METHODS.get(method_of(run), method_of(run)).split(" (")[0]
    by = f", by {method}" if method else ""
    if is_forgetting(run):
        return f"{target_of(run)} without {listing(names)}{by}"
    return f"{' + '.join(names) or run.name} into {target_of(run)}{by}"


def control_words(name: str) -> str:
    """A control's name as a person would say it."""
    known = {
        "lata": "LATA",
        "same_norm": "task arithmetic, same norm",
        "reversed": "ranking reversed",
    }
    draw = re.fullmatch(r"permuted[_ ]?([0-9]*)", name)
    if draw:
        return f"weights permuted {draw[1]}".strip()
    return known.get(name, name.replace("_", " "))


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
        if carried:
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


def measured_reading(metrics: Metrics, merges: Sequence[str]) -> list[Part]:
    """What the losses and the controls say."""
    parts = [Part("What it did to the losses", losses_words(metrics, merges))]
    if metrics.controls is not None:
        words = metrics.controls.text or verdict(metrics.controls)
        parts.append(Part("Did the ranking matter?", words))
    elif any("lata" in name.lower() for name in merges):
        words = (
            "No controls were run, so nothing here tells what the ranking added over any other "
            "merge of the same strength. Run it again with --controls to find out."
        )
        parts.append(Part("Did the ranking matter?", words))
    if metrics.forget is not None and metrics.forget.text:
        parts.append(Part("What was forgotten", metrics.forget.text))
    return parts


def _what(run: Run) -> str:
    method = METHODS.get(method_of(run), method_of(run))
    target = target_of(run)
    experts = [
        expert.name + (f" (weight {short(expert.weight)})" if expert.weight is not None else "")
        for expert in run.experts
    ]
    if not experts:
        names = [name for name in run.inputs if name not in ("base", "instruct", "target")]
        return f"{listing(names) or 'The inputs'} were merged" + (
            f" by {method}." if method else "."
        )
    was = "was" if len(experts) == 1 else "were"
    if is_forgetting(run):
        text = f"The task vector of {listing(experts)} {was} taken away from {target}"
    elif method_of(run) in ("linear", "slerp"):
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
    layers = len(run.experts[0].values)
    unit = run.experts[0].granularity or "layer"
    text += f"; {layers} {unit}{'s' if layers != 1 else ''} were scored."
    return text + _outside(run)


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
        dropped = [key for key, weight in (expert.coefficients or {}).items() if weight == 0.0]
        if dropped:
            left = math.fsum(expert.shares().get(key, 0.0) for key in dropped)
            were = "layers were" if len(dropped) > 1 else "layer was"
            sentence += f"; {len(dropped)} {were} left out, with {percent(left)} of the update"
        sentences.append(sentence + ".")
    return " ".join(sentences)


def _layer(layer: str) -> str:
    return f"block {layer}" if layer.isdigit() else layer


def _layers(layers: Sequence[str]) -> str:
    if all(layer.isdigit() for layer in layers):
        return ("block " if len(layers) == 1 else "blocks ") + runs(int(layer) for layer in layers)
    return f"{len(layers)} modules, {listing(layers, most=4)}"


def reference_of(metrics: Metrics) -> str | None:
    """The model that losses are compared with."""
    return next((name for name in ("instruct", "target", "base") if name in metrics.models), None)


def merges_of(metrics: Metrics, inputs: Iterable[str]) -> list[str]:
    """The models of a table that are not inputs; the one that has controls comes first."""
    known = {"base", "instruct", "target", *inputs}
    own = metrics.controls.merge if metrics.controls is not None else ""
    names = [name for name in metrics.models if name not in known]
    return sorted(names, key=lambda name: name != own)


def change(metrics: Metrics, model: str, domain: str) -> Change | None:
    """The loss less the reference's; without a paired error the two count as independent."""
    reference = reference_of(metrics)
    if reference is None or model == reference:
        return None
    own, other = metrics.models[model].get(domain), metrics.models[reference].get(domain)
    if own is None or other is None:
        return None
    if own.difference is not None:
        return Change(own.difference, own.difference_se, own.difference_se is not None)
    se = math.hypot(own.se, other.se) if own.se is not None and other.se is not None else None
    return Change(own.loss - other.loss, se, False)


def mean_loss(metrics: Metrics, model: str) -> float | None:
    """Over the domains, each counted once; None where one is missing."""
    cells: list[Measured] = [
        metrics.models[model][domain]
        for domain in metrics.domains
        if domain in metrics.models[model]
    ]
    if not cells or len(cells) < len(metrics.domains):
        return None
    return math.fsum(cell.loss for cell in cells) / len(cells)


def losses_words(metrics: Metrics, merges: Sequence[str]) -> str:
    """What each merge did, domain by domain, against the reference."""
    reference = reference_of(metrics)
    if reference is None:
        return (
            "The losses are in the table below; there is no instruct model in it to compare with."
        )
    sentences: list[str] = []
    for model in merges[:4]:
        changes = {domain: change(metrics, model, domain) for domain in metrics.domains}
        known = {domain: one for domain, one in changes.items() if one is not None}
        lower = [_told(d, one) for d, one in known.items() if one.clear and one.value < 0]
        higher = [_told(d, one) for d, one in known.items() if one.clear and one.value > 0]
        same = [d for d, one in known.items() if not one.clear]
        pieces = [f"falls on {listing(lower)}"] if lower else []
        pieces += [f"rises on {listing(higher)}"] if higher else []
        start = f"Against {reference}, the" if not sentences else "The"
        if not pieces:
            sentences.append(
                f"{start} loss of {model} changes on no domain by more than two standard errors."
            )
            continue
        rest = f"; on {listing(same)} it cannot be told apart" if same else ""
        sentences.append(f"{start} loss of {model} {' and '.join(pieces)}{rest}.")
    if len(merges) > 4:
        sentences.append("The other merges are in the table below.")
    return " ".join(sentences) or "The losses of the members are in the table below."


def _told(domain: str, one: Change) -> str:
    return f"{domain} ({signed(one.value, 2 if abs(one.value) >= 0.1 else 3)})"


def verdict(controls: Controls) -> str:
    """Whether the ranking carried information: the merge against its own weights, permuted."""
    permuted = [row for row in controls.rows if row.name.startswith("permuted")]
    if not permuted:
        return "The weights were not permuted over the layers: nothing can be said of the ranking."
    mean = math.fsum(row.difference for row in permuted) / len(permuted)
    se = _mean_se(permuted, mean)
    merge = controls.merge
    many = f"{len(permuted)} draws" if len(permuted) > 1 else "one draw"
    losses = f"{many} of the same weights permuted over the layers"
    by = f"{number(abs(mean), 4)} ± {number(se, 4)}"
    if mean > 2.0 * se:
        first = f"Yes, on this text: {losses} lose {by} more than {merge} on average."
    elif mean < -2.0 * se:
        first = f"No, it did harm: {losses} lose {by} less than {merge} on average."
    else:
        first = (
            f"There is no sign of it: {losses} do as well as {merge} (mean difference "
            f"{signed(mean, 4)} ± {number(se, 4)}). The ranking carried no information that this "
            "text can show."
        )
    return " ".join([first, *_other_controls(controls)])


def _mean_se(rows: Sequence[Control], mean: float) -> float:
    """Of the mean over draws: their own error, taken as common to all, and their spread."""
    own = math.fsum((row.se or 0.0) ** 2 for row in rows) / len(rows)
    spread = math.fsum((row.difference - mean) ** 2 for row in rows) / max(1, len(rows) - 1)
    return math.sqrt(own + spread / len(rows))


def _other_controls(controls: Controls) -> list[str]:
    names = {
        "same_norm": "Plain task arithmetic of the same total norm",
        "reversed": "The reversed ranking",
    }
    told: list[str] = []
    for row in controls.rows:
        if row.name not in names:
            continue
        clear = row.se is not None and abs(row.difference) > 2.0 * row.se
        if not clear:
            told.append(
                f"{names[row.name]} cannot be told apart from it ({signed(row.difference, 4)})."
            )
            continue
        word = "worse" if row.difference > 0 else "better"
        told.append(f"{names[row.name]} is {word} by {number(abs(row.difference), 4)}.")
    return told
