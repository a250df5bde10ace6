"""The verb cut: a model without its top blocks."""

from pathlib import Path


def cut(model: str, /, *, keep: int, out: Path, overwrite: bool = False) -> None:
    """Keep a model's lowest blocks, its final norm and its head, as a model to tune.

    Parameters
    ----------
    model
        A model's folder, or a hub name.
    keep
        Blocks that stay, counted from the lowest.
    out
        The new model folder; also gets a manifest.
    overwrite
        Replace OUT if it is an output of lamina.
    """
    from lamina.cli.output import _console, print_warnings
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.cut import run_cut

    with progress_watcher() as watch:
        told = run_cut(model, out, keep=keep, overwrite=overwrite, watch=watch)
    results, console = told["results"], _console()
    console.print(
        f"{out}: {results['blocks']} of {results['of_blocks']} blocks, {results['values']:,} of "
        f"{results['of_values']:,} values, as they were",
        soft_wrap=True,
    )
    print_warnings(console, told["warnings"])
