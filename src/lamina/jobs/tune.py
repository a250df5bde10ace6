"""`lamina tune`: a recipe becomes a run folder. Rank 0 writes and talks; all ranks train.

    OUT/  recipe.yaml data.json [detect/] [reference.json] checkpoints/ logs/
          model/ domains.jsonl ledger.json log.jsonl report.html manifest.json (last)

A folder without `manifest.json` is an unfinished run: `--resume` goes on from its newest whole
checkpoint, and ends with the same files as a run that nothing disturbed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import OutputError, RecipeError
from lamina.core.manifest import NAME as MANIFEST
from lamina.core.manifest import read_json, write_atomic, write_json_atomic
from lamina.core.yaml import dump_yaml
from lamina.jobs.watch import Watcher
from lamina.versatune.recipe import TuneRecipe, read_tune_recipe

DONE, INTERRUPTED, FORGOT = "done", "interrupted", "forgot"
"""How a run may end: all windows, a signal, the gate on forgetting."""


@dataclass(frozen=True, slots=True)
class Place:
    """A run's folder and what stands in it."""

    out: Path
    home: Path
    """Where the recipe lies: its relative paths begin there."""
    resume: bool


def run_tune(
    recipe_path: Path,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allowed: Sequence[str] = (),
    overrides: Sequence[str] = (),
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Tunes as a recipe says and gives the manifest; `results.status` says how it ended.

    Args:
        out: the run's folder; made here.
        resume: go on with the unfinished run that stands there (or begin, if there is none).
        overwrite: delete the earlier run that stands there first.
        allowed: `data`, `recipe`, `processes`: what may have changed since the checkpoint.

    Raises:
        RecipeError, DataError, CheckpointError, OutputError: each with all it found, before
            training where that is possible.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    recipe = read_tune_recipe(recipe_path, overrides)
    _check_allowed(allowed)
    from lamina.engine import parallel
    from lamina.jobs.tuning import tune

    parallel.start()
    tell = _teller(watch)
    finished = parallel.decided(_claim(out, resume, overwrite) if parallel.is_main() else None)
    if finished is not None:
        tell(f"{out} is a finished run: nothing is left to do")
        return finished
    place = Place(out.absolute(), recipe_path.parent.absolute(), resume)
    return tune(recipe, place, frozenset(allowed), watch or Watcher(), tell)


def _teller(watch: Watcher | None) -> Callable[[str], None]:
    from lamina.engine import parallel

    if watch is None or not parallel.is_main():
        return lambda line: None
    return watch.tell


def _check_allowed(allowed: Sequence[str]) -> None:
    from lamina.core.errors import did_you_mean

    known = ("data", "recipe", "processes")
    wrong = [f"`{name}` ({did_you_mean(name, known)})" for name in allowed if name not in known]
    if wrong:
        raise RecipeError(f"--allow-changed does not know {', '.join(wrong)}.")


def _claim(out: Path, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Makes the run's folder, or gives the manifest of the finished run that stands there.

    Raises:
        OutputError: something else stands there, or an unfinished run and no word to go on.
    """
    import shutil

    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; --out needs the name of a folder.")
    if out.is_dir() and any(out.iterdir()):
        finished = (out / MANIFEST).is_file()
        ours = (out / "recipe.yaml").is_file() and (finished or not (out / "config.json").exists())
        if not ours:
            raise OutputError(
                f"{out} is not empty and holds no tune run. Give another folder for --out."
            )
        if overwrite:
            shutil.rmtree(out)
        elif finished and resume:
            manifest = read_json(out / MANIFEST)
            if manifest.get("kind") != "tune":
                raise OutputError(f"{out} holds a run of another kind. Give another --out.")
            return manifest
        elif finished:
            raise OutputError(
                f"{out} holds a finished run. Give another --out, or --overwrite to delete it."
            )
        elif not resume:
            raise OutputError(
                f"{out} holds a run that is not finished. Go on with it by --resume, delete it by "
                "--overwrite, or give another --out."
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror}.") from None
    return None


def write_recipe(recipe: TuneRecipe, place: Place) -> None:
    """`recipe.yaml` with defaults and overrides; its paths lead from there to the same files."""
    values = recipe.to_mapping()

    def moved(text: str) -> str:
        for found in (place.home / text, Path(text)):
            if not Path(text).is_absolute() and found.exists():
                return Path(os.path.relpath(found.resolve(), place.out.resolve())).as_posix()
        return text

    values["model"] = moved(values["model"])
    if recipe.general not in (None, "default"):
        values["general"] = moved(values["general"])
    for domain in values["domains"].values():
        for key in ("sources", "heldout"):
            for source in domain.get(key) or ():
                source["path"] = moved(source["path"])
    for stage in values["mixture"]:
        if stage.get("detected"):
            stage["detected"] = moved(stage["detected"])
    template = values.get("data", {}).get("chat_template")
    if template:
        values["data"]["chat_template"] = moved(template)
    write_atomic(place.out / "recipe.yaml", dump_yaml(values).encode())


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    import json

    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_atomic(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """JSON in the order of the keys, whole or not at all."""
    write_json_atomic(path, value, sort_keys=False)
