"""Tables of the LATA study from its results: differences with their errors over seeds and items.

A difference is called shown where two things hold: the 95 % interval over training seeds (Student's
t) leaves out zero, and so does chance over the items (sign flips, p below .05 after Holm's
correction for all comparisons of a table). Losses of an item are its mean over seeds.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "lata.jsonl"
KEPT = ("instruct", "general", "law", "medicine", "finance", "science")
RULES = ("linear_drop", "log_drop", "threshold")
PLAIN = ("task arithmetic", "TIES", "DARE")
PERMUTED = "permuted"
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""Student's t, two-sided 95 %, by degrees of freedom."""

Shares = dict[str, float]
"""How much each domain counts in a measure; low is good."""
Losses = Mapping[str, Mapping[str, Sequence[float]]]
KEPT_SHARES: Shares = {name: 1 / len(KEPT) for name in KEPT}
LEARNING: Mapping[str, Shares] = {
    "all three": {"GSM8K test": 1 / 3, "MBPP test": 1 / 3}
    | {name: share / 3 for name, share in KEPT_SHARES.items()},
    "math": {"GSM8K test": 1.0},
    "code": {"MBPP test": 1.0},
    "kept": KEPT_SHARES,
}
FORGETTING: Mapping[str, Shares] = {
    "forgotten authors": {"forgotten": 1.0},
    "retained authors": {"retained": 1.0},
    "unseen authors": {"unseen": 1.0},
    "kept": KEPT_SHARES,
}
SPARED: Mapping[str, Shares] = {
    "retained": {"retained": 1.0, "forgotten": -1.0},
    "kept": KEPT_SHARES | {"forgotten": -1.0},
}
"""What forgetting costs elsewhere, less the little that merges differ in what they forgot."""


def read_lines(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The results so far."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


# ---- Numbers ------------------------------------------------------------------------------------


def loss(found: Losses, shares: Shares) -> float:
    """The weighted sum of domains' mean losses, nats a token."""
    return math.fsum(
        share * math.fsum(found[name]["nats"]) / math.fsum(found[name]["tokens"])
        for name, share in shares.items()
    )


def items(found: Losses, shares: Shares) -> list[tuple[float, float]]:
    """A sum and a count for each document, so that sum by count over all is the weighted loss.

    The counts of a domain add up to the size of its share, whatever the number of its tokens.
    """
    rows = []
    size = math.fsum(map(abs, shares.values()))
    for name, share in shares.items():
        scale = 1 / math.fsum(found[name]["tokens"])
        rows += [
            (share * scale * nats, abs(share) / size * scale * tokens)
            for nats, tokens in zip(found[name]["nats"], found[name]["tokens"], strict=True)
        ]
    return rows


def averaged(many: Sequence[Losses]) -> Losses:
    """Document by document the mean over merges, of the texts that all of them were asked."""
    return {
        name: {
            "tokens": of["tokens"],
            "nats": [
                statistics.fmean(values)
                for values in zip(*(one[name]["nats"] for one in many), strict=True)
            ],
        }
        for name, of in many[0].items()
        if all(name in one for one in many)
    }


def by_seed(
    lines: Sequence[Mapping[str, Any]], part: str, method: str, control: str
) -> dict[int, Losses]:
    """One merge of each seed; the permuted ones are averaged over their draws."""
    found: dict[int, list[Losses]] = {}
    for one in lines:
        if (one["part"], one["method"]) == (part, method):
            same = one["control"] == control
            if same or (control == PERMUTED and one["control"].startswith(PERMUTED)):
                found.setdefault(one["seed"], []).append(one["losses"])
    return {seed: averaged(many) for seed, many in sorted(found.items())}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and half of its 95 % interval by Student's t."""
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def compared(
    first: Mapping[int, Losses], second: Mapping[int, Losses], shares: Shares
) -> dict[str, Any]:
    """The first's measure less the second's: over seeds, and over items of the seeds' means."""
    from lamina.evaluate.nouns import Metric
    from lamina.evaluate.statistics_paired import paired

    seeds = sorted(first.keys() & second.keys())
    gaps = [loss(first[seed], shares) - loss(second[seed], shares) for seed in seeds]
    value, half = interval(gaps)
    one, two = (averaged([many[seed] for seed in seeds]) for many in (first, second))
    found = paired(
        Metric("loss", higher_is_better=False), items(one, shares), items(two, shares), seed=0
    )
    return {"value": value, "half": half, "low": found.low, "high": found.high, "p": found.p,
            "wins": sum(gap < 0 for gap in gaps), "seeds": len(gaps)}  # fmt: skip


def corrected(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons of one table with Holm's p and what may be said."""
    from lamina.evaluate.statistics import holm

    told = []
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        over_seeds = abs(row["value"]) > row["half"]
        shown = p is not None and p < 0.05 and over_seeds
        word = ("lower" if row["value"] < 0 else "higher") if shown else "no difference shown"
        told.append(row | {"holm": p, "verdict": word})
    return told


def comparisons(
    lines: Sequence[Mapping[str, Any]], part: str, shares: Shares
) -> list[dict[str, Any]]:
    """Every rule against its controls and against the plain methods."""
    rows = []
    of = partial(by_seed, lines, part)
    for rule in RULES:
        against = [(rule, PERMUTED), (rule, "reversed"), (rule, "same norm")]
        against += [(method, "") for method in PLAIN]
        for method, control in against:
            other = of(method, control)
            if other:
                name = f"its {control}" if control else method
                found = compared(of(rule, ""), other, shares)
                rows.append({"first": rule, "second": name, **found})
    return corrected(rows)


# ---- Tables -------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    head = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in head)


def told(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half interval over seeds; what has no spread, or one seed, without."""
    if len(values) < 2 or len(set(values)) == 1:
        return f"{values[0]:.{digits}f}"
    value, half = interval(values)
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def losses_table(
    lines: Sequence[Mapping[str, Any]], part: str, measures: Mapping[str, Shares]
) -> str:
    """Every model and merge: weight and measures, mean over seeds."""
    names = dict.fromkeys((one["method"], one["control"]) for one in lines if one["part"] == part)
    listed = dict.fromkeys(
        (method, PERMUTED if control.startswith(PERMUTED) else control) for method, control in names
    )
    rows = []
    for method, control in listed:
        merges = by_seed(lines, part, method, control)
        weights = [
            one["weight"] for one in lines
            if (one["part"], one["method"]) == (part, method) and "weight" in one
            and one["control"].startswith(control) and bool(one["control"]) == bool(control)
        ]  # fmt: skip
        cells = [told([loss(one, of) for one in merges.values()]) for of in measures.values()]
        name = f"– {control}" if control else method
        rows.append([name, f"{statistics.fmean(weights):.2f}" if weights else "–", *cells])
    return table(["merge", "weight", *measures], rows)


def comparison_table(lines: Sequence[Mapping[str, Any]], part: str, shares: Shares) -> str:
    rows = [
        [
            f"{row['first']} / {row['second']}",
            f"{row['value']:+.4f} ± {row['half']:.4f}",
            f"{row['wins']} of {row['seeds']}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            f"{row['holm']:.3f}",
            row["verdict"],
        ]
        for row in comparisons(lines, part, shares)
    ]
    header = ["first / second", "difference, seeds", "lower in", "items", "p, Holm", "the first is"]
    return table(header, rows)


def sweep_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The validation objective at every coefficient; the chosen one is bold."""
    swept = [one for one in lines if one["part"] == "sweep"]
    weights = sorted({one["weight"] for one in swept})
    rows = []
    for method in dict.fromkeys(one["method"] for one in swept):
        of = {one["weight"]: one["objective"] for one in swept if one["method"] == method}
        best = min(of, key=lambda weight: of[weight])
        cells = [f"**{of[w]:.3f}**" if w == best else f"{of[w]:.3f}" for w in weights]
        rows.append([method, *cells])
    return table(["method", *(f"{weight:g}" for weight in weights)], rows)


def choices_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Right answers to choices: mean over seeds, and the items' interval against instruct."""
    from lamina.evaluate.nouns import Metric
    from lamina.evaluate.statistics import holm
    from lamina.evaluate.statistics_paired import paired

    asked = [one for one in lines if "choices" in one and "embedding" not in one["method"]]
    columns = [("arc_easy", "acc"), ("arc_easy", "acc_norm"), ("basic_skills", "acc")]
    found: dict[str, list[Any]] = {}
    for method in dict.fromkeys(one["method"] for one in asked):
        found[method] = []
        for task, metric in columns:
            marks = [one["choices"][task][metric] for one in asked if one["method"] == method]
            found[method].append([
                (statistics.fmean(int(mark) for mark in of), 1.0) for of in zip(*marks, strict=True)
            ])  # fmt: skip
    others = [method for method in found if method != "instruct"]
    measure = Metric("acc", higher_is_better=True)
    gaps = {
        (method, column): paired(measure, found[method][column], found["instruct"][column], seed=0)
        for method in others
        for column in range(len(columns))
    }
    ps = dict(zip(gaps, holm([gap.p for gap in gaps.values()]), strict=True))
    rows = []
    for method, of in found.items():
        cells = []
        for column, values in enumerate(of):
            mean = statistics.fmean(value for value, _ in values)
            cells.append(f"{mean:.3f}")
            if method == "instruct":
                cells.append("–")
                continue
            gap, p = gaps[method, column], ps[method, column] or 0.0
            cells.append(f"{gap.difference:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}), {p:.2f}")
        rows.append([method, *cells])
    header = ["model"]
    for task, metric in columns:
        header += [f"{task}, {metric}", "less instruct, p"]
    return table(header, rows)


def sums_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """How many sums were right, by the two ways to find the answer in what was written."""
    asked = [one for one in lines if one["part"] == "sums"]
    ways = list(asked[0]["right"]) if asked else []
    rows = []
    for method in dict.fromkeys(one["method"] for one in asked):
        of = [one for one in asked if one["method"] == method]
        count = sum(one["rows"] for one in of)
        rows.append(
            [method, *(f"{sum(one['right'][way] for one in of)} of {count}" for way in ways)]
        )
    return table(["model", *(way.replace("_", " ") for way in ways)], rows)


def step_length(of: Mapping[str, Sequence[float]]) -> float:
    """What the coefficients leave of the length of an expert's step."""
    pairs = zip(of["coefficient"], of["squares"], strict=True)
    return math.sqrt(math.fsum(c * c * square for c, square in pairs) / math.fsum(of["squares"]))


def layers_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The ranking of each expert: the block most like the instruction vector first."""
    rows = []
    for one in lines:
        if (one["part"], one["method"], one.get("control")) == ("learning", "linear_drop", ""):
            for expert, of in one["layers"].items():
                order = sorted(range(len(of["cosine"])), key=lambda block: -of["cosine"][block])
                low, high = min(of["cosine"]), max(of["cosine"])
                cells = [str(one["seed"]), " ".join(map(str, order)), f"{low:.3f} to {high:.3f}"]
                rows.append([expert, *cells, f"{step_length(of):.3f}"])
    even = math.sqrt(statistics.fmean((place / 8) ** 2 for place in range(1, 9)))
    header = ["expert", "seed", "blocks, the one most like it first", "cosines"]
    header.append(f"length that `linear_drop` leaves ({even:.3f} of blocks alike)")
    return table(header, sorted(rows))


TABLES: Mapping[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    "Coefficients, validation rows, first seed (low is good, the chosen one bold):": sweep_table,
    "Learning math and code, test rows, nats a token:": partial(
        losses_table, part="learning", measures=LEARNING
    ),
    "Learning, the first's *all three* less the second's:": partial(
        comparison_table, part="learning", shares=LEARNING["all three"]
    ),
    "Choices, means over seeds, and less instruct (items' interval, p):": choices_table,
    "Sums of GSM8K in writing, all seeds:": sums_table,
    "How each expert's blocks are ranked:": layers_table,
    "Forgetting, every merge at its weight of equal forgetting, nats a token:": partial(
        losses_table, part="forgetting", measures=FORGETTING
    ),
    "Forgetting, loss of the *retained authors*, the first's less the second's:": partial(
        comparison_table, part="forgetting", shares=SPARED["retained"]
    ),
    "Forgetting, loss of *kept*, the first's less the second's:": partial(
        comparison_table, part="forgetting", shares=SPARED["kept"]
    ),
    "First try, embeddings merged, first seed:": partial(
        losses_table, part="first try", measures=LEARNING
    ),
}


def tables(path: Path = RESULTS) -> str:
    """All tables as Markdown, from the results file."""
    lines = read_lines(path)
    return "\n\n".join(f"{title}\n\n{make(lines)}" for title, make in TABLES.items())
