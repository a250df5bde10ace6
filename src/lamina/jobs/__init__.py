"""Recipe in, run folder out: what each verb of the command line does, without the printing."""

from pathlib import Path
from typing import Any


def run_merge(config: Path | str, out: Path | str, **options: Any) -> dict[str, Any]:
    """Merge by a recipe file into a new model folder; see `lamina.jobs.merge.run_merge`."""
    from lamina.jobs.merge import run_merge as run

    return run(Path(config), Path(out), **options)
