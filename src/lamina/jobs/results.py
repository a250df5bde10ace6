"""From the journal's records to what a person is told: totals, scores, plans, the manifest."""

import math
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lamina.core.errors import CheckpointError
from lamina.core.layers import LayerMap
from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores
from lamina.jobs.prepare import Prepared
from lamina.lata.choose import choose
from lamina.lata.measure import Grams, scores
from lamina.merge.apply import Output
from lamina.merge.inputs import Inputs
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.compare import listed
from lamina.weights.sources import combined_digest
from lamina.weights.writer import PartialOutput

Records = Mapping[str, Mapping[str, Any]]
"""Tensor name -> its journal record."""


def versions() -> dict[str, str]:
    """What an output's bytes may depend on."""
    found = {name: version(name) for name in ("lamina", "numpy", "numba", "llvmlite")}
    return {**found, "python": platform.python_version()}


def records_of(partial: PartialOutput, folder: str) -> dict[str, Mapping[str, Any]]:
    """The finished tensors of one output, sorted by name."""
    return {name: partial.done[sub, name] for sub, name in sorted(partial.done) if sub == folder}


def refuse_broken(partial: PartialOutput, inputs: Inputs, *, allow: bool) -> list[str]:
    """NaN and Inf: refused with the tensors named, or told.

    Raises:
        CheckpointError: values that are not finite, in an input or in the output.
    """
    lines: dict[str, None] = {}
    for (_, name), record in sorted(partial.done.items()):
        for role, count in record.get("nonfinite_in", {}).items():
            where = inputs.typed.get(role, role)
            lines[f"{name}: {count:,} in {role} ({where})"] = None
        if record.get("nonfinite") and not record.get("nonfinite_in"):
            lines[
                f"{name}: {record['nonfinite']:,} in the output only: too large for its dtype"
            ] = None
    if not lines:
        return []
    told = f"NaN or infinite values in {len(lines)} place(s):\n{listed(list(lines))}"
    if allow:
        return [told]
    raise CheckpointError(
        f"{told}\nSuch a model answers nothing. Use a sound checkpoint or a wider out_dtype, or "
        "give --allow-nonfinite to write them all the same. Nothing was written."
    )


def lata_scores(prepared: Prepared, grams: Mapping[str, Grams]) -> dict[str, LayerScores]:
    """The similarity of every layer of every expert."""
    inputs = prepared.inputs
    assert inputs.base is not None and inputs.reference is not None
    prints = {"base": inputs.base.fingerprint, "instruct": inputs.reference.fingerprint}
    return {
        name: scores(
            table,
            inputs.layers,
            prepared.recipe.granularity,
            model=inputs.typed[name],
            inputs={**prints, "expert": inputs.experts[name].fingerprint},
        )
        for name, table in grams.items()
    }


def lata_plans(prepared: Prepared, found: Mapping[str, LayerScores]) -> dict[str, LayerPlan]:
    """The coefficient of every layer of every expert, by the recipe's rule."""
    recipe = prepared.recipe
    if recipe.method != "lata":
        return {}
    if prepared.given:
        return {name: one.plan for name, one in prepared.given.items()}
    assert recipe.rule is not None
    others = recipe.others_coefficient
    return {
        name: choose(table, recipe.rule, others=others, sigma=recipe.threshold)
        for name, table in found.items()
    }


def idle_threshold(prepared: Prepared, found: Mapping[str, LayerScores]) -> list[str]:
    """Warnings where the rule `threshold` tells no layer of an expert from another."""
    recipe, told = prepared.recipe, []
    if recipe.rule != "threshold" or recipe.threshold is None:
        return []
    for name, table in found.items():
        low, high = min(table.values.values()), max(table.values.values())
        seen = f"the similarities of `{name}` run from {low:.3f} to {high:.3f}"
        if high < recipe.threshold:
            told.append(
                f"{seen}, all below the threshold {recipe.threshold:g}: every layer is taken "
                "whole, as plain task arithmetic would"
            )
        elif low >= recipe.threshold:
            told.append(f"{seen}, none below the threshold {recipe.threshold:g}: no layer is taken")
    return told


def norm_scores(prepared: Prepared, output: Output, records: Records) -> dict[str, LayerScores]:
    """For methods that rank nothing: how far each layer of each expert is from the reference."""
    inputs = prepared.inputs
    found = {}
    for name in inputs.experts:
        squares = {t: r["delta_squares"][name] for t, r in records.items() if "delta_squares" in r}
        units = inputs.layers.units("block")
        values = {
            unit: math.sqrt(
                math.fsum(squares.get(t, 0.0) for t in inputs.layers.tensors(unit, "block"))
            )
            for unit in units
        }
        total = math.fsum(squares.values())
        share = {unit: value**2 / total if total else 0.0 for unit, value in values.items()}
        if not all(map(math.isfinite, values.values())):
            continue
        found[name] = LayerScores(
            method="delta_norm",
            unit="l2",
            granularity="block",
            higher_means="this expert moved this layer further from the reference"
            if inputs.reference is not None
            else "this layer of this model has the larger norm",
            values=values,
            columns={"norm_share": share},
            model=inputs.typed.get(name, str(inputs.experts[name].path)),
            inputs={"expert": inputs.experts[name].fingerprint},
        )
    return found


def with_norms(
    found: Mapping[str, LayerScores], layers: LayerMap, squares: Mapping[str, Mapping[str, float]]
) -> dict[str, LayerScores]:
    """Scores from a file, with what the merge saw: B = |t|^2 of each layer and its share of all.

    The same columns that LATA's own scores have, so the page and the controls need no other case.
    """
    told = {}
    for name, table in found.items():
        grain = "block" if table.granularity == "block" else "module"
        sums = {
            unit: math.fsum(squares[name].get(t, 0.0) for t in layers.tensors(unit, grain))
            for unit in table.values
        }
        total = math.fsum(squares[name].values())
        share = {unit: value / total if total else 0.0 for unit, value in sums.items()}
        columns = {**table.columns, "B": sums, "norm_share": share}
        told[name] = table.model_copy(update={"columns": columns})
    return told


def where_it_sits(inputs: Inputs, squares: Mapping[str, float]) -> dict[str, float]:
    """Share of a task vector's squared norm by the role of the tensors (attention, mlp, ...)."""
    total = math.fsum(squares.values())
    shares = dict.fromkeys(("attention", "mlp", "norm", "embedding", "head"), 0.0)
    for name, square in sorted(squares.items()):
        role = inputs.layers.of(name).role
        shares[role] = shares.get(role, 0.0) + (square / total if total else 0.0)
    return shares


def squares_of(
    inputs: Inputs, grams: Mapping[str, Grams], records: Records
) -> dict[str, dict[str, float]]:
    """Expert -> tensor -> |delta|^2: from LATA's first pass, else from the merge's own sums."""
    if grams:
        return {n: {t: g.gram.B for t, g in table.items()} for n, table in grams.items()}
    return {
        name: {t: r["delta_squares"][name] for t, r in records.items() if "delta_squares" in r}
        for name in inputs.experts
    }


def totals(
    inputs: Inputs, records: Records, squares: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """What an output is, in numbers: how much changed, how much vanished."""
    merged = [record for record in records.values() if "elements" in record]
    update = math.fsum(record["update_square"] for record in merged)
    target = math.fsum(record["target_square"] for record in merged)
    layers = inputs.layers
    others = {}
    for name, table in squares.items():
        total = math.fsum(table.values())
        outside = math.fsum(v for t, v in table.items() if layers.of(t).block is None)
        others[name] = outside / total if total else 0.0
    relative = math.sqrt(update / target) if target > 0 else 1.0
    return {
        "tensors": len(records),
        "tensors_copied": sum(1 for record in records.values() if "copied" in record),
        "tensors_changed": sum(1 for record in merged if record["changed"]),
        "values": sum(record["elements"] for record in merged),
        "values_changed": sum(record["changed"] for record in merged),
        "values_vanished": sum(record["vanished"] for record in merged),
        "values_not_finite": sum(record["nonfinite"] for record in merged),
        "relative_change": relative if math.isfinite(relative) else 0.0,
        "norms": {
            name: math.sqrt(total) if math.isfinite(total := math.fsum(table.values())) else 0.0
            for name, table in squares.items()
        },
        "others_share": others,
    }


def input_entries(
    prepared: Prepared, records: Records, grams: Mapping[str, Grams]
) -> dict[str, dict[str, Any]]:
    """Every input with its path, licence, fingerprint and checksum of all its tensors."""
    inputs = prepared.inputs
    entries: dict[str, dict[str, Any]] = {}
    for role, model in inputs.named().items():
        if inputs.reference is None and role == "target":
            continue
        if role == "target" and inputs.reference is model:
            continue
        sums = {
            t: r["inputs"][role] for t, r in records.items() if role in r.get("inputs", {})
        } or _measured_sums(role, grams)
        adapted = isinstance(model, AdaptedCheckpoint)
        lata = prepared.recipe.method == "lata"
        entries["instruct" if role == "reference" and lata else role] = {
            "path": inputs.typed.get(role, str(model.path)),
            "kind": "lora" if adapted else "model",
            "license": model.license,
            "fingerprint": model.fingerprint,
            "tensors": len(model.tensors),
            "checksum": combined_digest(sums.items()),
        }
    return entries


def _measured_sums(role: str, grams: Mapping[str, Grams]) -> dict[str, str]:
    """The base takes part in LATA's first pass only."""
    for table in grams.values():
        return {t: g.checksums[role] for t, g in table.items() if role in g.checksums}
    return {}


def output_entries(prepared: Prepared, output: Output, records: Records) -> dict[str, Any]:
    """Every weight file with its size and the checksum of its tensors."""
    layout = prepared.layouts[output.folder]
    return {
        shard.file: {
            "bytes": shard.size,
            "checksum": combined_digest(
                (p.name, records[p.name]["checksum"])
                for p in layout.places.values()
                if p.file == shard.file
            ),
        }
        for shard in layout.shards
    }
