"""One merge from recipe to finished folder: check, measure, choose, stream, verify, tell."""

import hashlib
import json
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import CheckpointError, OutputError, RecipeError
from lamina.core.manifest import Manifest, write_atomic, write_json_atomic
from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores
from lamina.jobs import results
from lamina.jobs.files import card, missing_code_warning, relocated, write_model_files
from lamina.jobs.given import refuse_sublayers
from lamina.jobs.prepare import Prepared, check_place, describe, prepare
from lamina.jobs.related import require_related
from lamina.jobs.watch import Watcher
from lamina.lata.measure import Grams, lineage_warning, measure
from lamina.merge.apply import Output, apply
from lamina.merge.global_threshold import model_thresholds
from lamina.merge.sources import Sources
from lamina.weights import kernels
from lamina.weights.compare import listed
from lamina.weights.place import check_output
from lamina.weights.stream import default_threads
from lamina.weights.writer import PartialOutput, commit, partial_output


@dataclass(frozen=True)
class Options:
    """How a merge runs, apart from what it computes."""

    threads: int
    watch: Watcher
    controls: bool = False
    allow_nonfinite: bool = False
    allow_unrelated: bool = False
    overwrite: bool = False
    report: bool = True


def run_merge(
    config: Path,
    out: Path,
    *,
    forget: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    threads: int | None = None,
    controls: bool = False,
    allow_nonfinite: bool = False,
    allow_unrelated: bool = False,
    overrides: Sequence[str] = (),
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Merge by a recipe into `out`; returns the manifest, or, for a dry run, what `check` tells.

    Raises:
        RecipeError: the recipe or an option cannot be followed.
        CheckpointError: a model cannot be used, or the models do not fit together.
        DataError: a held-out text for the controls cannot be read.
        OutputError: the output cannot be written there. After any of these nothing stands under
            the output's name.
    """
    prepared = prepare(config, forget=forget, overrides=overrides)
    threads = default_threads() if threads is None else threads
    if threads < 1:
        raise RecipeError(f"--threads is {threads}; at least 1 is needed.")
    if controls and (prepared.recipe.method != "lata" or prepared.recipe.sweep):
        seen = prepared.recipe.method + (" with a sweep" if prepared.recipe.sweep else "")
        raise RecipeError(
            "--controls puts a ranking of layers to the test: it needs `merge_method: lata` and no "
            f"sweep; this recipe has {seen}."
        )
    if controls:
        refuse_sublayers(prepared.given)
    check_place(prepared, out, overwrite=overwrite, controls=controls)
    if dry_run:
        return describe(prepared, out, threads)
    options = Options(
        threads=threads,
        watch=watch or Watcher(),
        controls=controls,
        allow_nonfinite=allow_nonfinite,
        allow_unrelated=allow_unrelated,
        overwrite=overwrite,
    )
    return merge_prepared(prepared, out, options)


def merge_prepared(
    prepared: Prepared,
    out: Path,
    options: Options,
    *,
    plans: Mapping[str, LayerPlan] | None = None,
) -> dict[str, Any]:
    """The merge after `prepare` and `check_place`; `plans` stand in for what LATA would choose."""
    began, cpu_began = time.monotonic(), time.process_time()
    inputs, watch = prepared.inputs, options.watch
    if options.controls:
        from lamina.jobs.controls import read_texts

        read_texts(prepared)
    if not kernels.all_ready():
        watch.stage("compiling the kernels for this machine, once", 0)
        watch.tell("compiling the kernels for this machine: some seconds, only this once")
        kernels.compile_all()
    sources = Sources(inputs)
    warnings = [*prepared.recipe.warnings, *inputs.warnings, *missing_code_warning(prepared)]
    warnings += require_related(inputs, sources, allow=options.allow_unrelated)
    grams: dict[str, Grams] = {}
    found: dict[str, LayerScores] = {}
    if prepared.given:
        found = {name: one.scores for name, one in prepared.given.items()}
    elif prepared.recipe.method == "lata":
        grams = _measure(prepared, sources, options)
        warnings += [w for n, g in grams.items() if (w := lineage_warning(n, g))]
        warnings += _unmoved(grams, inputs.typed)
        found = results.lata_scores(prepared, grams)
        warnings += results.idle_threshold(prepared, found)
    chosen = dict(plans) if plans is not None else results.lata_plans(prepared, found)
    outputs = [
        Output(folder, one, chosen, model_thresholds(one, inputs, sources, chosen, options.threads))
        for folder, one in prepared.settings.items()
    ]
    run = _run_id(prepared, chosen, options.allow_nonfinite)
    with partial_output(out, run, prepared.layouts) as (partial, resumed):
        check_output(out, [], overwrite=options.overwrite)  # another run may have ended since
        if resumed:
            watch.tell(f"going on with an earlier run: {len(partial.done)} tensors are done")
        watch.stage("merging", _bytes_left(prepared, partial))
        apply(inputs, sources, outputs, partial, threads=options.threads, progress=watch.advance)
        watch.stage("checking what was written", 0)
        warnings += results.refuse_broken(partial, inputs, allow=options.allow_nonfinite)
        _read_back(partial, out)
        manifests = {
            output.folder: _finish(prepared, out, partial, output, found, grams, warnings, options)
            for output in outputs
        }
        if "" not in manifests:
            manifests[""] = _finish_sweep(prepared, out, partial, manifests)
        _log(partial.folder, began, cpu_began, options.threads)
        check_output(out, [], overwrite=options.overwrite)  # whoever wrote there loses nothing
        commit(out)
    return manifests[""]


def _measure(prepared: Prepared, sources: Sources, options: Options) -> dict[str, Grams]:
    """LATA's first pass, refused where it met values that are not finite."""
    inputs = prepared.inputs
    assert inputs.reference is not None
    elements = sum(tensor.num_elements for tensor in inputs.reference.tensors.values())
    options.watch.stage("measuring every layer", elements)
    grams = measure(inputs, sources, threads=options.threads, progress=options.watch.advance)
    broken: dict[str, None] = {}
    for expert, table in grams.items():
        for name, tensor in table.items():
            for role, count in tensor.nonfinite.items():
                who = expert if role == "expert" else role
                broken[f"{name}: {count:,} in {who} ({inputs.typed[who]})"] = None
    if broken:
        raise CheckpointError(
            f"NaN or infinite values in {len(broken)} place(s):\n{listed(list(broken))}\nA layer "
            "with such values has no similarity to rank. Use a sound checkpoint."
        )
    first = next(iter(grams.values()))
    if not any(tensor.gram.A for tensor in first.values()):
        raise CheckpointError(
            f"base_model {inputs.typed['base']} and instruct_model {inputs.typed['reference']} "
            "have the same weights: there is no instruction vector to compare with. base_model is "
            "the raw language model that the instruct model was tuned from."
        )
    return grams


def _unmoved(grams: Mapping[str, Grams], typed: Mapping[str, str]) -> list[str]:
    """Experts that are their instruct model, found by their values."""
    return [
        f"expert `{name}` ({typed[name]}) has the instruct model's very values: its task vector is "
        "zero and adds nothing"
        for name, table in grams.items()
        if not any(tensor.gram.B for tensor in table.values())
    ]


def _run_id(prepared: Prepared, plans: Mapping[str, LayerPlan], allow: bool) -> str:
    """What a resumed run must share with the one that was interrupted."""
    told = {
        "versions": results.versions(),
        "recipe": prepared.recipe.to_dict(),
        "forget": prepared.forget,
        "allow_nonfinite": allow,
        "inputs": {name: m.identity for name, m in prepared.inputs.named().items()},
        "plans": {name: plan.model_dump(exclude_defaults=True) for name, plan in plans.items()},
        "files": {
            folder: [[s.file, s.size, hashlib.sha256(s.header).hexdigest()] for s in layout.shards]
            for folder, layout in prepared.layouts.items()
        },
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _bytes_left(prepared: Prepared, partial: PartialOutput) -> int:
    places = [prepared.layouts[folder].places[name] for folder, name in partial.done]
    return prepared.bytes_to_write - sum(place.end - place.begin for place in places)


def _read_back(partial: PartialOutput, out: Path) -> None:
    problems = partial.read_back()
    if problems:
        raise OutputError(
            f"{out} does not read back as it was written:\n{listed(problems)}\nNothing was left "
            "behind. Is the disk sound?"
        )


def _finish(
    prepared: Prepared,
    out: Path,
    partial: PartialOutput,
    output: Output,
    found: Mapping[str, LayerScores],
    grams: Mapping[str, Grams],
    warnings: list[str],
    options: Options,
) -> dict[str, Any]:
    """Everything beside the weights, the manifest last."""
    inputs, folder = prepared.inputs, partial.folder / output.folder
    records = results.records_of(partial, output.folder)
    squares = results.squares_of(inputs, grams, records)
    told = results.totals(inputs, records, squares)
    if not told["tensors_changed"] and inputs.reference is not None:
        warnings = [*warnings, "the output is the target, bit for bit: nothing was added"]
    write_model_files(prepared, folder, output.recipe, prepared.layouts[output.folder])
    if prepared.given:
        found = results.with_norms(found, inputs.layers, squares)
    all_scores = dict(found) or results.norm_scores(prepared, output, records)
    write_json_atomic(
        folder / "scores.json",
        {
            "schema": "lamina.scores/1",
            "experts": {name: table.model_dump() for name, table in all_scores.items()},
            "where": {
                name: results.where_it_sits(inputs, table) for name, table in squares.items()
            },
        },
        sort_keys=False,
    )
    plan = _plan_table(prepared, output)
    write_json_atomic(
        folder / "plan.json", {"schema": "lamina.plan/1", "experts": plan}, sort_keys=False
    )
    rerun = relocated(output.recipe, prepared.home, out / output.folder)
    write_atomic(folder / "recipe.yaml", rerun.to_yaml().encode())
    entries = results.input_entries(prepared, records, grams)
    files = results.output_entries(prepared, output, records)
    if options.controls:
        from lamina.jobs.controls import run_controls

        metrics = run_controls(prepared, folder, found, output.plans, options)
        write_json_atomic(folder / "metrics.json", metrics, sort_keys=False)
    text = card(
        prepared,
        output.recipe,
        output.folder or out.name,
        told,
        entries,
        files,
        results.versions(),
        {name: one.coefficients for name, one in output.plans.items()},
        warnings,
    )
    write_atomic(folder / "README.md", text.encode())
    manifest = Manifest(
        kind="forget" if prepared.forget else "merge",
        status="complete",
        versions=results.versions(),
        recipe=output.recipe.to_dict(),
        inputs=entries,
        outputs=files,
        results=told,
        warnings=warnings,
    )
    if options.report:
        from lamina.report.page import write_report

        write_report(folder, manifest.model_dump())
    manifest.write(folder)
    return manifest.model_dump()


def _plan_table(prepared: Prepared, output: Output) -> dict[str, Any]:
    """plan.json: each expert's coefficient per layer and its weight."""
    from lamina.merge.values import is_constant, write_value

    table: dict[str, Any] = {}
    for entry in output.recipe.models:
        plan = output.plans.get(entry.name)
        if plan is None:
            units = prepared.inputs.layers.units("block")
            plan = LayerPlan(
                granularity="block",
                coefficients=dict.fromkeys(units, 1.0),
                others=1.0,
                rule=output.recipe.method,
                from_scores="",
            )
        weight = None if entry.weight is None else write_value(entry.weight)
        known = entry.weight is not None and is_constant(entry.weight)
        table[entry.name] = {
            **plan.model_dump(exclude_defaults=True),
            "weight": weight if known else None,
        }
    return table


def _finish_sweep(
    prepared: Prepared, out: Path, partial: PartialOutput, manifests: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The manifest of a whole sweep: its outputs are folders."""
    manifest = Manifest(
        kind="sweep",
        status="complete",
        versions=results.versions(),
        recipe=prepared.recipe.to_dict(),
        inputs=next(iter(manifests.values()))["inputs"],
        outputs={
            f"{folder}/{file}": entry
            for folder, one in manifests.items()
            for file, entry in one["outputs"].items()
        },
        results={folder: one["results"] for folder, one in manifests.items()},
        warnings=list(dict.fromkeys(w for one in manifests.values() for w in one["warnings"])),
    )
    rerun = relocated(prepared.recipe, prepared.home, out)
    write_atomic(partial.folder / "recipe.yaml", rerun.to_yaml().encode())
    manifest.write(partial.folder)
    return manifest.model_dump()


def _peak_bytes() -> int:
    """The most resident memory so far. getrusage's also counts what the program that started this
    one held, so Linux's own account is asked first.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else []:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _log(folder: Path, began: float, cpu_began: float, threads: int) -> None:
    """How the run went: the only file that differs from run to run."""
    line = {
        "seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(time.process_time() - cpu_began, 3),
        "peak_rss_bytes": _peak_bytes(),
        "threads": threads,
    }
    write_atomic(folder / "log.jsonl", (json.dumps(line) + "\n").encode())
