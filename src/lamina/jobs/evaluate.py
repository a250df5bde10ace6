"""`lamina eval --tasks`: models on benchmarks, with intervals and paired differences.

    OUT.json             the result, written last
    OUT.samples.jsonl.gz each question as it was asked, each answer as it came
    OUT.html             the page
    OUT.json.partial/    only while it is unfinished: the same command goes on from there

Everything that can be refused is refused before weights are read: tasks, rows, models' small files,
tokenizers, results to compare with, the sandbox. One model is in memory at a time.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import lamina
from lamina.core.manifest import write_json_atomic
from lamina.evaluate.result_files import samples_path
from lamina.jobs.evaluate_find import Plan, find_all, task_entry_of
from lamina.jobs.evaluate_journal import forget_partial, partial_folder
from lamina.jobs.evaluate_model import Measured, measure_model
from lamina.jobs.evaluate_request import Request, check_request
from lamina.jobs.watch import Watcher
from lamina.weights.writer import locked


def run_evaluation(asked: Request, watch: Watcher | None = None) -> dict[str, Any]:
    """Measures, compares and writes; gives what the result file holds.

    With `compare`, the comparison with earlier results is under `compared`; it is not written.

    Raises:
        RecipeError, DataError, CheckpointError, OutputError: each with all it found, before the
            first model is loaded where that is possible.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    watch = watch or Watcher()
    check_request(asked)
    if not asked.models:  # only earlier results are compared
        return compare_earlier(asked)
    plan = find_all(asked, watch)
    if asked.out is None:
        return _result(plan, _measure(plan, Measured(), watch))
    with locked(asked.out):
        result = _measure_and_write(plan, asked.out, watch)
    if asked.compare:
        from lamina.evaluate.result_compare import compare_results

        result["compared"] = compare_results([*asked.compare, asked.out], seed=asked.seed)
    return result


def _measure_and_write(plan: Plan, out: Path, watch: Watcher) -> dict[str, Any]:
    """Samples while models are measured, the result last; then the page, which can be made again
    from them."""
    from lamina.evaluate.result_files import new_samples
    from lamina.report.page import write_eval_page

    partial = partial_folder(out)
    try:
        with new_samples(samples_path(out), partial / "samples") as samples:
            measured = _measure(plan, Measured(samples=samples), watch)
            result = _result(plan, measured)
            result["samples_sha256"] = samples.keep()
    finally:
        with contextlib.suppress(OSError):
            partial.rmdir()  # nothing was measured
    write_json_atomic(out, result, sort_keys=False)
    write_eval_page(out)
    forget_partial(out)
    return result


def _measure(plan: Plan, measured: Measured, watch: Watcher) -> Measured:
    for name in plan.sources:
        measure_model(plan, name, measured, watch)
    return measured


def compare_earlier(asked: Request) -> dict[str, Any]:
    """Earlier results against each other; written if that was asked."""
    from lamina.evaluate.result_compare import compare_results

    assert asked.compare, "nothing to do"
    told = compare_results(asked.compare, reference=asked.reference, seed=asked.seed)
    if asked.out is not None:
        write_json_atomic(asked.out, told, sort_keys=False)
    return told


def _result(plan: Plan, measured: Measured) -> dict[str, Any]:
    """The result file's content, schema `lamina.evaluation/1`."""
    from lamina.evaluate import results

    asked = plan.asked
    texts = _texts(plan, measured) if measured.texts else None
    groups = {c.task.name: {item.id: item.group for item in c.items} for c in plan.tasks}
    tasks = {chosen.task.name: task_entry_of(chosen, asked) for chosen in plan.tasks}
    metrics = {chosen.task.name: chosen.task.metrics for chosen in plan.tasks}
    return {
        "schema": results.SCHEMA,
        "lamina": lamina.__version__,
        "models": {
            name: {"path": source.name, "fingerprint": plan.fingerprints[name]}
            for name, source in plan.sources.items()
        },
        "order": list(plan.sources),
        "tasks": tasks,
        "results": {
            name: {
                task: results.summarise(
                    metrics[task], values, groups[task], cut=measured.cut[name][task]
                )
                for task, values in by_task.items()
            }
            for name, by_task in measured.values.items()
        },
        "skipped": dict(plan.skipped),
        "comparisons": []
        if plan.reference is None or not tasks
        else results.compare_models(
            metrics, measured.values, reference=plan.reference, seed=asked.seed
        ),
        "texts": texts,
        "forgetting": results.forgetting_of(texts),
        "harness": measured.harness or None,
        "settings": {
            **asked.as_settings(),
            "reference": plan.reference,
            "max_lengths": measured.lengths,
        },
        "sandbox": plan.protection,
        "samples": None if asked.out is None else samples_path(asked.out).name,
        "samples_sha256": None,
        "warnings": [
            *dict.fromkeys(warning for chosen in plan.tasks for warning in chosen.warnings),
            *_drawn_in_vain(plan),
            *measured.warnings,
            *(texts["warnings"] if texts else ()),
        ],
    }


def _drawn_in_vain(plan: Plan) -> list[str]:
    """What several or drawn answers were asked for that does not use them."""
    asked = plan.asked
    if not asked.sampled:
        return []
    by_kind = {"choices": list[str](), "write": list[str](), "text": list[str](), "code": []}
    for chosen in plan.tasks:
        by_kind[chosen.task.kind].append(chosen.task.name)
    told = []
    if scored := [*by_kind["choices"], *by_kind["text"]]:
        told.append(f"{', '.join(scored)}: nothing is drawn, as answers are scored, not written")
    if asked.samples > 1 and by_kind["write"]:
        told.append(
            f"{', '.join(by_kind['write'])}: of {asked.samples} answers to each question the first "
            "counts, as in lm-evaluation-harness; all are in the samples"
        )
    return told


def _texts(plan: Plan, measured: Measured) -> dict[str, Any]:
    """Losses by domain, as `lamina eval --text` alone gives them."""
    from lamina.evaluate.run import SCHEMA, metrics_of, paired_with, warnings_of

    losses = measured.texts
    return {
        "schema": SCHEMA,
        "domains": list(plan.documents),
        "order": list(losses),
        "models": {name: metrics_of(by_domain) for name, by_domain in losses.items()},
        "paired": paired_with(losses, plan.reference or next(iter(losses))),
        "texts": {
            domain: {"path": str(plan.asked.texts[domain]), "rows": len(documents)}
            for domain, documents in plan.documents.items()
        },
        "warnings": [
            warning
            for name, by_domain in losses.items()
            for warning in warnings_of(name, by_domain)
        ],
    }
