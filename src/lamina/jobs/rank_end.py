"""The end of a ranking: scores, agreement, page, and the manifest last."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lamina.core.agreement import compare, spearman
from lamina.core.manifest import Manifest, write_atomic
from lamina.core.modules import Linears
from lamina.core.rules import count_of, ordered
from lamina.core.scores import LayerScores
from lamina.ila.ways import KINDS, Found
from lamina.jobs.rank import DONE
from lamina.jobs.tune import write_json
from lamina.jobs.tuned import account

if TYPE_CHECKING:
    from lamina.jobs.rank_prepare import Ranking

STABLE = 0.95
"""Agreement between seeds below which a warning is told."""
WHOLE = 0.05
"""Relative error of the integral's sum above which a warning is told."""


def finish(run: Ranking, tables: Mapping[str, Sequence[Found]], known: Linears) -> dict[str, Any]:
    """Writes scores, agreement, page and manifest; gives the manifest."""
    from lamina.report.page import write_report

    out, way = run.out, run.recipe.way
    every = {name: scores_of(run, name, found, known) for name, found in tables.items()}
    write_atomic(out / "scores.json", every[way].to_json().encode())
    shutil.rmtree(out / "scores", ignore_errors=True)  # of a run that ended here with other ways
    if len(every) > 1:
        (out / "scores").mkdir(exist_ok=True)
        for name, table in every.items():
            if name != way:
                write_atomic(out / "scores" / f"{name}.json", table.to_json().encode())
    agreement = agreement_of(run, every, tables)
    write_json(out / "agreement.json", agreement)
    results = results_of(run, every[way], agreement, known)
    shutil.rmtree(out / "measured", ignore_errors=True)
    manifest = Manifest(
        kind="rank",
        status=DONE,
        versions={
            name: version(name)
            for name in ("lamina", "torch", "transformers", "peft", "tokenizers", "numpy")
        },
        recipe=run.recipe.model_dump(mode="json", exclude_none=True),
        inputs={
            "model": {"path": run.recipe.model, "fingerprint": run.identity.model},
            "data": {"fingerprint": run.identity.data},
        },
        outputs=account(out),
        results=results,
        warnings=warnings_of(agreement, run),
    )
    write_report(out, manifest.model_dump())
    manifest.write(out)
    return manifest.model_dump()


def scores_of(run: Ranking, way: str, found: Sequence[Found], known: Linears) -> LayerScores:
    """Means over the seeds, with their standard deviations and every seed's own numbers."""
    kind = KINDS[way]
    units = list(found[0].values)
    seeds = [one.values for one in found]
    columns: dict[str, dict[str, float]] = {}
    if len(found) > 1:
        columns |= {f"seed_{number}": dict(values) for number, values in enumerate(seeds)}
    for name in found[0].columns:
        tables = [one.columns[name] for one in found]
        columns[name] = {
            unit: statistics.fmean(table[unit] for table in tables)
            for unit in tables[0]
            if all(unit in table for table in tables)
        }
    if kind.grain == "module":
        columns["parameters"] = {
            unit: float(known.by_id[unit].lora_parameters(run.rank_of(unit))) for unit in units
        }
        columns["weights"] = {unit: float(known.by_id[unit].weights) for unit in units}
    prints = {"model": run.identity.model.split("+")[0], "data": run.identity.data}
    if run.source.adapter is not None:
        prints["adapter"] = run.identity.model
    return LayerScores(
        method=way,
        unit=kind.unit,
        granularity=kind.grain,
        higher_means=kind.higher_means,
        values={unit: statistics.fmean(values[unit] for values in seeds) for unit in units},
        columns=columns,
        spread={unit: statistics.stdev(values[unit] for values in seeds) for unit in units}
        if len(found) > 1
        else None,
        model=run.recipe.model,
        inputs=prints,
        prefix=known.prefix,
    )


def agreement_of(
    run: Ranking, every: Mapping[str, LayerScores], tables: Mapping[str, Sequence[Found]]
) -> dict[str, Any]:
    """`agreement.json`: between seeds, with leave-one-out, and between the ways."""
    way, share = run.recipe.way, run.recipe.share
    grain = every[way].granularity
    alike = {name: table for name, table in every.items() if table.granularity == grain}
    seeds = [found.values for found in tables[way]]
    between = [[spearman(a, b) for b in seeds] for a in seeds]
    pairs = [between[a][b] for a in range(len(seeds)) for b in range(a)]
    exact = alike.get("leave_one_out") if way != "leave_one_out" else None
    notes = [found.notes for found in tables[way]]
    matrices: dict[str, Any] = {
        "rankings": [way], "spearman": [[1.0]], "shared": [[1.0]], "corrected": [[1.0]],
        "jaccard": [[1.0]], "chance": None, "jaccard_chance": None,
    }  # fmt: skip
    if len(alike) > 1:
        told = compare(alike, share)
        matrices = {
            "rankings": list(told.names),
            "spearman": told.spearman,
            "shared": told.shared,
            "corrected": told.corrected,
            "jaccard": told.jaccard,
            "chance": told.chance,
            "jaccard_chance": told.jaccard_chance,
        }
    return {
        "schema": "lamina.agreement/1",
        "way": way,
        "share": share,
        "seeds": list(range(len(seeds))),
        "between_seeds": {"spearman": between, "lowest": min(pairs)} if pairs else None,
        **matrices,
        "leave_one_out": None
        if exact is None
        else {
            "spearman": spearman(every[way].values, exact.values),
            "examples": run.recipe.gates.rows * run.recipe.gates.batches * run.recipe.seeds,
            "values": exact.values,
        },
        "completeness": _worst([note["completeness"] for note in notes if "completeness" in note]),
        "notes": {name: [found.notes for found in table] for name, table in tables.items()},
        "cost": {
            "batches": run.passes.get(way, 0),
            "tokens": run.tokens if run.passes.get(way) else 0,
            "stage_one_steps": run.stage.get("steps", 0),
            "stable_at": run.stage.get("stable_at"),
            "passes": dict(run.passes),
        },
    }


def _worst(tests: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    return max(tests, key=lambda test: test["relative_error"] or 0.0) if tests else None


def results_of(
    run: Ranking, scores: LayerScores, agreement: Mapping[str, Any], known: Linears
) -> dict[str, Any]:
    """`results` of the manifest."""
    count = count_of(run.recipe.share, len(scores.values))
    between, exact = agreement["between_seeds"], agreement["leave_one_out"]
    return {
        "status": DONE,
        "way": run.recipe.way,
        "granularity": scores.granularity,
        "modules": len(scores.values),
        "blocks": known.num_blocks,
        "share": run.recipe.share,
        "top": ordered(scores.values)[:count],
        "spearman_between_seeds": None if between is None else between["lowest"],
        "spearman_leave_one_out": None if exact is None else exact["spearman"],
        "batches": agreement["cost"]["batches"],
        "stage_one_steps": run.stage.get("steps", 0),
        "stage_one_stopped": run.stage.get("stopped"),
        "stage_one_losses": run.stage.get("losses"),
        "loss_without": run.losses.get("loss_without"),
        "loss_with": run.losses.get("loss_with"),
    }


def warnings_of(agreement: Mapping[str, Any], run: Ranking) -> list[str]:
    """What a user should know before trusting the ranking."""
    told = []
    between, complete = agreement["between_seeds"], agreement["completeness"]
    if between is not None and between["lowest"] < STABLE:
        told.append(
            f"two seeds' rankings agree by {between['lowest']:.3f} (Spearman) only, less than "
            f"{STABLE}: more rows (gates.batches, gates.rows) or more --seeds make it firmer"
        )
    if complete is not None and (complete["relative_error"] or 0.0) > WHOLE:
        told.append(
            f"the integral's sum misses the adapter's worth by {complete['relative_error']:.1%}: "
            "more gates.points are needed"
        )
    worth = run.losses.get("loss_without", 0.0) - run.losses.get("loss_with", 0.0)
    if run.losses and worth <= 0:
        told.append(
            "the adapter does not lower the loss of these rows: its modules are ranked by what "
            "little they do; are these the rows that it was tuned on?"
        )
    if run.stage.get("steps") and run.stage.get("stopped") is None:
        told.append(
            "stage 1 came to its last step before the loss was stable: the ranking may still "
            "move (train.windows)"
        )
    return told
