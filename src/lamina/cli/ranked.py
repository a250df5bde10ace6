"""The verb `rank`. Everything heavy is imported inside it."""

import signal
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

RankOverrides = Annotated[
    tuple[str, ...],
    Parameter(name=["--set", "-s"], negative=(), help="Change a key: -s gates.batches=32."),
]
Files = Annotated[tuple[str, ...], Parameter(negative=())]


def rank(
    model: str,
    /,
    *,
    out: Path,
    data: Files = (),
    way: str | None = None,
    seeds: int | None = None,
    beside: Files = (),
    share: float | None = None,
    base: str | None = None,
    instruct: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    set_: RankOverrides = (),
) -> None:
    """Rank every module of a model or adapter by how much it matters for your data (ILA).

    Parameters
    ----------
    model
        A folder or hub name; a PEFT adapter's folder, ranked as it is; or a ranking's recipe.yaml.
    out
        The folder for scores.json, the adapter, report.html and the manifest.
    data
        Rows to tune and measure on: a file, a folder or a hub set; may be given several times.
    way
        taylor (default), integrate, learn (the paper's), sparse, leave_one_out, shapley,
        block_influence, snr, delta_norm, lora_drop or cosine.
    seeds
        Measurements with other rows; their spread is told. Default 2.
    beside
        Other ways to measure and compare with; leave_one_out is the exact answer.
    share
        The top set that is marked and compared. Default 0.3.
    base
        An adapter's base; for cosine the raw model.
    instruct
        For cosine: the instruct model that this one was tuned from.
    resume
        Go on with the unfinished ranking in OUT.
    overwrite
        Delete the earlier ranking in OUT first.
    """
    from lamina.cli import again
    from lamina.cli.output import print_ranked
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.rank import run_rank

    flags = {"way": way, "seeds": seeds, "share": share, "base": base, "instruct": instruct}
    try:
        with progress_watcher() as watch:
            told = run_rank(
                model,
                out,
                data=data,
                flags=flags | {"beside": list(beside) or None},
                resume=resume,
                overwrite=overwrite,
                overrides=set_,
                watch=watch,
            )
    except KeyboardInterrupt as stop:
        if again.is_first():
            given = {"data": data, "beside": beside, **{k: [str(v)] for k, v in flags.items() if v}}
            words = [word for key in given for one in given[key] for word in (f"--{key}", one)]
            told = again.line("rank", model, "--out", str(out), *words, "--resume", overrides=set_)
            print(f"stopped. Go on with: {told}", file=sys.stderr, flush=True)
        raise SystemExit(128 + (stop.args[0] if stop.args else signal.SIGINT)) from None
    from lamina.engine import parallel

    main = parallel.is_main()
    parallel.stop()
    if main:
        print_ranked(out, told)
