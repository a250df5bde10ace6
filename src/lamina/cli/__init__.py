"""The verbs, and the only place that prints. Everything heavy is imported inside a verb.

Exit codes: 0 done, 1 the answer is no (`verify`), 2 something the user can mend, 3 the gate on
forgetting ended a tune run, 130 Ctrl-C (143 SIGTERM).
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

import lamina
from lamina.cli.again import wait_for_the_first
from lamina.cli.cutting import cut
from lamina.cli.evaluating import evaluate
from lamina.cli.exporting import export
from lamina.cli.planning import compare, plan
from lamina.cli.ranked import rank
from lamina.cli.sandboxing import sandbox
from lamina.cli.shifting import shift
from lamina.cli.tuning import detect, order, tune
from lamina.core.errors import LaminaError

app = App(
    name="lamina",
    version=lamina.__version__,
    help="Tune a language model with domain weights that move; measure each layer, merge or forget "
    "by it; see what that did.",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)

Threads = Annotated[int | None, Parameter(help="Readers at once; default: the cores, 8 at most.")]
Overrides = Annotated[
    tuple[str, ...],
    Parameter(name=["--set", "-s"], negative=(), help="Change a key: -s parameters.rule=log_drop."),
]


@app.command
def merge(
    config: Path,
    out: Path,
    /,
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    controls: bool = False,
    threads: Threads = None,
    allow_nonfinite: bool = False,
    allow_unrelated: bool = False,
    set_: Overrides = (),
) -> None:
    """Merge models by a recipe (mergekit's YAML, or merge_method: lata) into a new folder OUT.

    Parameters
    ----------
    config
        The recipe, a YAML file.
    out
        The new model folder; also gets the scores, the plan, a manifest and report.html.
    dry_run
        Only check, and tell what would be read and written.
    overwrite
        Replace OUT if it is an output of lamina.
    controls
        LATA: also test whether the ranking of the layers carried information.
    allow_nonfinite
        Write the output although some values are NaN or infinite.
    allow_unrelated
        Merge models that have no common ancestor.
    """
    _merge(
        config,
        out,
        forget=False,
        dry_run=dry_run,
        overwrite=overwrite,
        controls=controls,
        threads=threads,
        allow_nonfinite=allow_nonfinite,
        allow_unrelated=allow_unrelated,
        overrides=set_,
    )


@app.command
def forget(
    config: Path,
    out: Path,
    /,
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    controls: bool = False,
    threads: Threads = None,
    allow_nonfinite: bool = False,
    allow_unrelated: bool = False,
    set_: Overrides = (),
) -> None:
    """Take what experts learnt away from a model: LATA with a minus and the paper's threshold.

    Parameters
    ----------
    config
        The recipe, as for merge; weights are given without the minus, 1 if missing.
    out
        The new model folder.
    dry_run
        Only check, and tell what would be read and written.
    overwrite
        Replace OUT if it is an output of lamina.
    controls
        Also test whether the ranking of the layers carried information.
    allow_nonfinite
        Write the output although some values are NaN or infinite.
    allow_unrelated
        Use models that have no common ancestor.
    """
    _merge(
        config,
        out,
        forget=True,
        dry_run=dry_run,
        overwrite=overwrite,
        controls=controls,
        threads=threads,
        allow_nonfinite=allow_nonfinite,
        allow_unrelated=allow_unrelated,
        overrides=set_,
    )


@app.command
def check(
    file: Path,
    out: Path | None = None,
    /,
    *,
    forget: bool = False,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
    set_: Overrides = (),
) -> None:
    """Check a recipe (or a model folder) from headers alone: what fits, what a merge would need.

    Parameters
    ----------
    file
        A recipe, or the folder of a model or adapter.
    out
        The output that is planned; its disk is asked for room.
    forget
        Read the recipe as `lamina forget` does.
    as_json
        Print JSON.
    """
    from lamina.cli.output import print_check
    from lamina.jobs.check import check_folder, check_recipe

    told = check_folder(file) if file.is_dir() else check_recipe(file, out, forget, set_)
    print(json.dumps(told, indent=1)) if as_json else print_check(told)


app.command(evaluate, name="eval")
for verb in (rank, tune, detect, order, plan, compare, shift, cut, export, sandbox):
    app.command(verb)


@app.command
def show(path: Path, /) -> None:
    """Draw a run's folder in the terminal: layers, domains, weights, losses, warnings.

    Parameters
    ----------
    path
        A folder that lamina wrote.
    """
    from rich.console import Console

    from lamina.report.show import render_show

    Console().print(render_show(path))


@app.command
def verify(path: Path, /) -> None:
    """Read an output again and compare every file with the checksums of its manifest.

    Parameters
    ----------
    path
        A folder that lamina wrote.
    """
    from lamina.jobs.verify import verify_folder

    problems = verify_folder(path)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise SystemExit(1)
    print(f"{path}: every file is as it was written")


@app.command
def demo(
    out: Path = Path("runs/demo"),
    /,
    *,
    list_: Annotated[bool, Parameter(name="--list", negative=())] = False,
) -> None:
    """The whole of lamina on its own small models: merge, forget, measure, report.

    Parameters
    ----------
    out
        Where the demo writes; what an earlier demo wrote there is replaced.
    list_
        Only print the folders of the demo's models, as JSON.
    """
    from lamina.jobs.demo import list_members, run_demo

    if list_:
        print(json.dumps(list_members(), indent=1))
        return
    from lamina.cli.progress import progress_watcher

    with progress_watcher() as watch:
        result = run_demo(out, watch)
    from lamina.cli.output import print_demo

    print_demo(result)


def _merge(config: Path, out: Path, *, dry_run: bool, **options: object) -> None:
    from lamina.cli.output import print_check, print_merged
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.merge import run_merge

    with progress_watcher() as watch:
        told = run_merge(config, out, dry_run=dry_run, watch=watch, **options)  # type: ignore
    print_check(told) if dry_run else print_merged(out, told)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The `lamina` command."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # 12 ms of looking for them
    try:
        app(
            list(sys.argv[1:] if arguments is None else arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        told = str(error)
        if isinstance(error, UnusedCliTokensError):
            told = f"too many arguments: {' '.join(error.unused_tokens or ())}."
        _tell(f"error: {told}\nSee `lamina --help`.")
        raise SystemExit(2) from None
    except LaminaError as error:
        wait_for_the_first()
        _tell(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _tell("stopped. Run the same command again to go on.")
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _tell(f"error: {place}{error.strerror or error}.")
        raise SystemExit(2) from None
