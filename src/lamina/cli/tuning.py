"""The verbs about domains: tune, detect, order. Everything heavy is imported inside a verb."""

import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

TuneOverrides = Annotated[
    tuple[str, ...],
    Parameter(name=["--set", "-s"], negative=(), help="Change a key: -s train.windows=4."),
]


def tune(
    recipe: Path,
    /,
    *,
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
    allow_changed: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    set_: TuneOverrides = (),
) -> None:
    """Tune a model on domains whose weights move while it learns (VersaTune).

    With several processes: torchrun --nproc-per-node N -m lamina tune RECIPE --out DIR.

    Parameters
    ----------
    recipe
        A YAML file: model, domains, train, mixture. See recipes/foster.yaml.
    out
        The run's folder: model/, domains.jsonl, ledger.json, report.html, checkpoints/.
    resume
        Go on with the unfinished run in OUT, to the bit where it stopped.
    overwrite
        Delete the earlier run in OUT first.
    allow_changed
        Go on although this changed since the checkpoint: data, recipe or processes.
    """
    from lamina.cli import again
    from lamina.cli.output import print_tuned
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.tune import FORGOT, INTERRUPTED, run_tune

    go_on = f"Go on with: {again.command(recipe, out, set_)}"
    try:
        with progress_watcher() as watch:
            told = run_tune(
                recipe,
                out,
                resume=resume,
                overwrite=overwrite,
                allowed=allow_changed,
                overrides=set_,
                watch=watch,
            )
    except KeyboardInterrupt as stop:
        if again.is_first():
            _tell(f"stopped. {go_on}")
        raise SystemExit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    from lamina.engine import parallel

    parallel.stop()
    results = told["results"]
    if results["status"] == INTERRUPTED:
        if again.is_first():
            _tell(f"stopped at step {results['step']} of {results['steps']}. {go_on}")
        raise SystemExit(128 + results["signal"])
    if again.is_first():
        print_tuned(out, told)
    if results["status"] == FORGOT:
        raise SystemExit(3)


def detect(
    model: str,
    /,
    *,
    domains: Path,
    out: Path,
    judge: str | None = None,
    texts: int | None = None,
    repeats: int | None = None,
    seed: int | None = None,
    base: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    set_: TuneOverrides = (),
) -> None:
    """What a model knows: sample texts from it and judge which of your domains each belongs to.

    Parameters
    ----------
    model
        A folder of a model or adapter, or a hub name.
    domains
        A YAML file with `domains:` (a recipe of tune will do), and `detect:` if you like.
    out
        The folder for shares.json, the texts with their judgement, and report.html.
    judge
        classifier (trained on your rows), model, endpoint, or none (by losses on your rows).
    texts
        Texts of each repeat; default 2,000.
    repeats
        How often; fewer where the error is small enough. Default 5.
    seed
        Another seed gives other texts.
    base
        The model that an adapter belongs to; default: the one it names.
    dtype
        float32, bfloat16, float16 or auto.
    overwrite
        Delete the earlier detection in OUT first.
    """
    from lamina.cli.output import print_detected
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.detect import run_detect

    flags = {"judge": judge, "texts": texts, "repeats": repeats, "seed": seed}
    with progress_watcher() as watch:
        told = run_detect(
            model,
            domains,
            out,
            overrides=set_,
            flags=flags,
            base=base,
            dtype=dtype,
            overwrite=overwrite,
            watch=watch,
        )
    print_detected(out, told)


def order(
    recipe: str,
    /,
    *,
    out: Path,
    domains: Path | None = None,
    target: str | None = None,
    repeats: int = 8,
    rows: int = 8,
    seed: int = 0,
    overwrite: bool = False,
    set_: TuneOverrides = (),
) -> None:
    """Which domain should be trained on first: the commutator of two domains' gradients.

    Parameters
    ----------
    recipe
        A recipe of tune; with --domains, a model.
    out
        The folder for order.json and the manifest.
    domains
        A file of domains, for a model without a recipe.
    target
        The domain whose held-out loss counts; default: the mean of all.
    repeats
        Fresh batches; their spread is the error.
    rows
        Packed rows of each domain in a batch.
    seed
        Another seed gives other batches.
    overwrite
        Delete the earlier answer in OUT first.
    """
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.order import run_order

    with progress_watcher() as watch:
        run_order(
            recipe,
            out,
            domains=domains,
            target=target,
            repeats=repeats,
            rows=rows,
            seed=seed,
            overrides=set_,
            overwrite=overwrite,
            watch=watch,
        )
    print(out / "order.json")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
