"""`lamina eval --tasks`: models on benchmarks, with intervals and paired differences.

    OUT.json             the result, written last
    OUT.samples.jsonl.gz each question as it was asked, each answer as it came
    OUT.html             the page
    OUT.json.partial/    only while it is unfinished: the same command goes on from there

Everything that can be refused is refused before weights are read: tasks, rows, models' small files,
tokenizers, results to compare with, the sandbox. One model is in memory at a time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lamina
from lamina.core.errors import RecipeError
from lamina.core.manifest import write_json_atomic
from lamina.jobs.evaluate_find import Plan, find_all
from lamina.jobs.evaluate_journal import forget_partial
from lamina.jobs.evaluate_model import Measured, measure_model
from lamina.jobs.evaluate_request import Request, check_request
from lamina.jobs.watch import Watcher


def run_evaluation(asked: Request, watch: Watcher | None = None) -> dict[str, Any]:
    """Measures, compares and writes; gives what the result file holds.

    Raises:
        RecipeError, DataError, CheckpointError, OutputError: each with all it found, before the
            first model is loaded where that is possible.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    watch = watch or Watcher()
    check_request(asked)
    from lamina.evaluate import results

    if not asked.models:  # only earlier results are compared
        assert asked.compare, "nothing to do"
        return results.compare_results(*asked.compare)
    plan = find_all(asked, watch)
    if asked.compare:
        for earlier in asked.compare:
            results.read_result(earlier)
    measured = Measured()
    for name in plan.sources:
        measure_model(plan, name, measured, watch)
    result = _result(plan, measured)
    if asked.out is not None:
        _write(asked.out, result, measured)
    if asked.compare:
        result["compared"] = results.compare_results(*asked.compare, _own(asked))
    if asked.out is not None:
        forget_partial(asked.out)
    return result


def _own(asked: Request) -> Path:
    if asked.out is None:
        raise RecipeError("--compare with an earlier result needs --out for this one.")
    return asked.out


def _result(plan: Plan, measured: Measured) -> dict[str, Any]:
    from lamina.evaluate import results

    asked = plan.asked
    texts = _texts(plan, measured) if measured.texts else None
    return results.make_result(
        version=lamina.__version__,
        models={
            name: {"path": source.name, "fingerprint": plan.fingerprints[name]}
            for name, source in plan.sources.items()
        },
        chosen=plan.tasks,
        chat=asked.chat,
        limit=asked.limit,
        values=measured.values,
        cut=measured.cut,
        skipped=dict(plan.skipped),
        reference=plan.reference,
        seed=asked.seed,
        texts=texts,
        harness=measured.harness or None,
        settings={**asked.as_settings(), "max_lengths": measured.lengths},
        sandbox=plan.protection,
        samples=None if asked.out is None else samples_path(asked.out).name,
        warnings=[
            *(warning for chosen in plan.tasks for warning in chosen.warnings),
            *measured.warnings,
        ],
    )


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


def samples_path(out: Path) -> Path:
    """Where questions and answers of a result are."""
    return out.with_name(f"{out.stem}.samples.jsonl.gz")


def _write(out: Path, result: dict[str, Any], measured: Measured) -> None:
    """Samples first, the result last; then the page, which can be made again from them."""
    from lamina.evaluate.results import write_samples
    from lamina.report.eval import write_eval_page

    write_samples(samples_path(out), measured.samples)
    write_json_atomic(out, result, sort_keys=False)
    write_eval_page(out)
