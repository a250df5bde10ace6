"""Did the ranking of the layers carry information? LATA's merge against three controls.

A merge that scales its layers down differs from plain task arithmetic in strength, too, so every
LATA merge is held against: task arithmetic of the same total norm, the same coefficients dealt to
the layers at random (several draws), and the ranking reversed. Each control is a whole merge,
measured on the same held-out text and removed again.
"""

import math
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError
from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores
from lamina.evaluate.compare import Difference, mean_difference, paired_difference
from lamina.evaluate.perplexity import TextLoss, measure
from lamina.evaluate.run import metrics_of, paired_with, warnings_of
from lamina.evaluate.text import Document, read_documents
from lamina.jobs.prepare import Prepared
from lamina.merge.values import numbers_in
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.checkpoint import exists
from lamina.weights.locate import expanded

if TYPE_CHECKING:
    from lamina.jobs.merge import Options

Losses = Mapping[str, TextLoss]
"""One model's loss per domain."""
MERGE = "LATA"
ALL_ALIKE = (
    "Nothing to put to the test: the rule gave every layer the same coefficient, so there is no "
    "ranking to permute or to reverse."
)


def read_texts(prepared: Prepared) -> dict[str, tuple[Document, ...]]:
    """The held-out text of the recipe (`heldout:`), else the text that comes with lamina.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    named = prepared.recipe.heldout
    if named:
        return {d: read_documents(locate_text(p, prepared.home)) for d, p in named.items()}
    return {domain: read_documents(path) for domain, path in bundled_texts().items()}


def locate_text(text: str, home: Path) -> Path:
    """A text's path, from the recipe's folder or the working folder."""
    path = expanded(text)
    return path if path.is_absolute() or not exists(home / path) else home / path


def bundled_texts() -> dict[str, Path]:
    """Domain -> file of the held-out text that comes with lamina.

    Raises:
        DataError: the installation lacks it.
    """
    folder = Path(str(files("lamina"))) / "demo" / "heldout"
    found = {path.name.removesuffix(".jsonl.gz"): path for path in folder.glob("*.jsonl.gz")}
    if not found:
        raise DataError(f"no held-out text in {folder}; name some in the recipe under `heldout:`.")
    return dict(sorted(found.items()))


def same_norm_plan(scores: LayerScores, plan: LayerPlan) -> LayerPlan:
    """One coefficient for all layers, so that the whole update has the norm it has under `plan`.

    q = sqrt(sum_i c_i^2 B_i / sum_i B_i), B_i = |t_i|^2 of layer i.
    """
    squares = scores.columns["B"]
    total = math.fsum(squares.values())
    taken = math.fsum(plan.coefficients[unit] ** 2 * squares[unit] for unit in scores.values)
    q = math.sqrt(taken / total) if total else 0.0
    return _dealt(plan, dict.fromkeys(scores.values, q), "same_norm")


def permuted_plan(scores: LayerScores, plan: LayerPlan, seed: str) -> LayerPlan:
    """The same coefficients dealt to the layers at random."""
    dealt = [plan.coefficients[unit] for unit in scores.values]
    random.Random(seed).shuffle(dealt)
    return _dealt(plan, dict(zip(scores.values, dealt, strict=True)), "permuted")


def reversed_plan(scores: LayerScores, plan: LayerPlan) -> LayerPlan:
    """The same coefficients in the opposite order of rank: first is last."""
    ranks = scores.rank()
    by_rank = sorted(ranks, key=lambda unit: ranks[unit])
    dealt = {
        unit: plan.coefficients[other]
        for unit, other in zip(by_rank, reversed(by_rank), strict=True)
    }
    return _dealt(plan, dealt, "reversed")


def _dealt(plan: LayerPlan, dealt: Mapping[str, float], rule: str) -> LayerPlan:
    """The plan with other coefficients for the layers that were ranked; norms keep theirs."""
    return plan.model_copy(update={"coefficients": plan.coefficients | dict(dealt), "rule": rule})


def run_controls(
    prepared: Prepared,
    folder: Path,
    scores: Mapping[str, LayerScores],
    plans: Mapping[str, LayerPlan],
    options: "Options",
) -> dict[str, Any]:
    """Measure all members, the merge in `folder` and its controls; gives `metrics.json`."""
    recipe, watch = prepared.recipe, options.watch
    texts = read_texts(prepared)
    losses: dict[str, Losses] = {}
    for name, (path, base) in members(prepared).items():
        watch.stage(f"measuring {name}", 0)
        losses[name] = measure(path, texts, base=base)
    watch.stage(f"measuring {MERGE}", 0)
    losses[MERGE] = measure(folder, texts)
    drawn = [f"permuted_{i + 1}" for i in range(recipe.controls.permutations)]
    seed = recipe.controls.seed
    variants = {"same_norm": {n: same_norm_plan(scores[n], plans[n]) for n in plans}}
    variants |= {
        name: {n: permuted_plan(scores[n], plans[n], f"{seed}/{name}/{n}") for n in plans}
        for name in drawn
    }
    variants["reversed"] = {n: reversed_plan(scores[n], plans[n]) for n in plans}
    measured: dict[str, Losses] = {}
    for name, variant in variants.items():
        watch.stage(f"control: {name.replace('_', ' ')}", 0)
        measured[name] = _measure_control(prepared, folder, variant, texts, options)
    signs = domain_signs(prepared, texts)
    warnings = [w for name, by in losses.items() for w in warnings_of(name, by)]
    table = controls_table(losses[MERGE], measured, signs)
    if all(len({plans[n].coefficients[u] for u in scores[n].values}) == 1 for n in plans):
        table["text"] = ALL_ALIKE
    return {
        "schema": "lamina.metrics/1",
        "domains": list(texts),
        "order": list(losses),
        "models": {name: metrics_of(by_domain) for name, by_domain in losses.items()},
        "paired": paired_with(losses, "instruct"),
        "controls": table,
        "warnings": warnings + unnamed_forgetting(prepared, texts),
    }


def members(prepared: Prepared) -> dict[str, tuple[Path, Path | None]]:
    """Every input once: name -> (folder, base of an adapter); a plain instruct model as itself."""
    inputs = prepared.inputs
    found: dict[str, tuple[Path, Path | None]] = {}
    if inputs.base is not None:
        found["base"] = (inputs.base.path, None)
    if inputs.reference is not None:
        found["instruct"] = (inputs.reference.path, None)
    if inputs.target is not inputs.reference:
        found["target"] = (inputs.target.path, None)
    for name, model in inputs.experts.items():
        base = model.base.path if isinstance(model, AdaptedCheckpoint) else None
        found[name] = (model.path, base)
    return found


def domain_signs(prepared: Prepared, texts: Iterable[str]) -> dict[str, float]:
    """+1 where a low loss is wanted; -1 for a domain that bears the name of a forgotten expert."""
    names = forgotten(prepared)
    return {domain: -1.0 if domain in names else 1.0 for domain in texts}


def forgotten(prepared: Prepared) -> set[str]:
    """The experts that are taken away, by name."""
    return {
        entry.name
        for entry in prepared.recipe.models
        if entry.weight and all(number < 0 for number in numbers_in(entry.weight))
    }


def unnamed_forgetting(prepared: Prepared, texts: Iterable[str]) -> list[str]:
    """A warning where no text shows whether an expert was forgotten."""
    missing = ", ".join(f"`{name}`" for name in sorted(forgotten(prepared) - set(texts)))
    if not missing:
        return []
    return [
        f"no held-out text bears the name of the forgotten {missing}, so low losses count as good "
        "everywhere and nothing here shows the forgetting. Name its text so under `heldout:`."
    ]


def _measure_control(
    prepared: Prepared,
    folder: Path,
    plans: Mapping[str, LayerPlan],
    texts: Mapping[str, Sequence[Document]],
    options: "Options",
) -> Losses:
    from lamina.jobs.merge import merge_prepared
    from lamina.jobs.watch import Watcher

    # Inside the unfinished output: whatever ends the run, nothing is left elsewhere.
    out = folder / "control"
    shutil.rmtree(out, ignore_errors=True)
    quiet = replace(options, watch=Watcher(), controls=False, report=False)
    try:
        merge_prepared(prepared, out, quiet, plans=plans)
        return measure(out, texts)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def controls_table(
    merge: Losses, measured: Mapping[str, Losses], signs: Mapping[str, float]
) -> dict[str, Any]:
    """The controls against the merge, and what they say."""

    def mean(losses: Losses) -> float:
        return math.fsum(signs[d] * loss.loss for d, loss in losses.items()) / len(losses)

    rows = [{"name": "lata", "mean_loss": mean(merge), "difference": 0.0, "se": 0.0}]
    differences = {
        name: signed_difference(losses, merge, signs) for name, losses in measured.items()
    }
    rows += [
        {
            "name": name,
            "mean_loss": mean(measured[name]),
            "difference": found.value,
            "se": found.se,
        }
        for name, found in differences.items()
    ]
    drawn = [name for name in measured if name.startswith("permuted")]
    permuted = against_permuted([measured[name] for name in drawn], merge, signs)
    return {
        "lata": MERGE,
        "rows": rows,
        "permuted": {"difference": permuted.value, "se": permuted.se, "draws": len(drawn)},
        "text": verdict(permuted, differences, drawn, signs),
    }


def signed_difference(first: Losses, second: Losses, signs: Mapping[str, float]) -> Difference:
    """Mean over domains of `first - second`, domains to be forgotten with the opposite sign."""
    found = [paired_difference(first[d], second[d]) for d in first]
    return mean_difference(
        [Difference(signs[d] * one.value, one.se) for d, one in zip(first, found, strict=True)]
    )


def against_permuted(
    permuted: Sequence[Losses], merge: Losses, signs: Mapping[str, float]
) -> Difference:
    """Mean of the permuted merges minus LATA; its error counts documents and draws."""
    averaged = {
        domain: replace(
            loss,
            loss_sum=math.fsum(p[domain].loss_sum for p in permuted) / len(permuted),
            row_sums=tuple(
                math.fsum(values) / len(permuted)
                for values in zip(*(p[domain].row_sums for p in permuted), strict=True)
            ),
        )
        for domain, loss in merge.items()
    }
    found = signed_difference(averaged, merge, signs)
    each = [signed_difference(p, merge, signs).value for p in permuted]
    if found.se is None or len(each) < 2:
        return found
    middle = math.fsum(each) / len(each)
    variance = math.fsum((value - middle) ** 2 for value in each) / (len(each) - 1)
    return Difference(found.value, math.sqrt(found.se**2 + variance / len(each)))


def verdict(
    permuted: Difference,
    differences: Mapping[str, Difference],
    drawn: Sequence[str],
    signs: Mapping[str, float],
) -> str:
    """In words: did the ranking carry information on the held-out text?"""
    beaten = sum(1 for name in drawn if differences[name].value > 0)
    numbers = (
        f"{permuted.value:+.4f}"
        + (f" ± {permuted.se:.4f}" if permuted.se is not None else "")
        + " nats a token on average over the domains"
        + (" (domains to be forgotten counted with a minus)" if min(signs.values()) < 0 else "")
        + f", LATA better than {beaten} of {len(drawn)} draws"
    )
    if permuted.shown and permuted.value > 0:
        first = (
            f"The ranking carried information: dealt at random, the same weights lose {numbers}."
        )
    elif permuted.shown:
        first = (
            "The ranking did harm here: dealt to the layers at random, the same weights do better "
            f"({numbers})."
        )
    else:
        first = (
            "No information shown: dealt to the layers at random, the same weights do as well "
            f"({numbers}). On this text the ranking cannot be told from chance."
        )
    norm, back = differences["same_norm"], differences["reversed"]
    return (
        f"{first} Task arithmetic of the same norm: {_words(norm)}. The ranking reversed: "
        f"{_words(back)}."
    )


def _words(found: Difference) -> str:
    error = "" if found.se is None else f" ± {found.se:.4f}"
    if not found.shown:
        return f"no difference shown ({found.value:+.4f}{error})"
    return f"{'worse' if found.value > 0 else 'better'} than LATA by {abs(found.value):.4f}{error}"
