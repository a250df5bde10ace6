"""`lamina tune`: a recipe becomes a run folder. Rank 0 writes and talks; all ranks train.

    OUT/  recipe.yaml data.json [plan.json] [prefix/] [detect/] [reference.json] checkpoints/ logs/
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

from lamina.core.errors import RecipeError
from lamina.core.manifest import write_atomic, write_json_atomic
from lamina.core.yaml import dump_yaml
from lamina.jobs.paths import moved as moved_to
from lamina.jobs.paths import on_disk, parts
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
        out: the run's folder; made once the recipe's model and rows are read.
        resume: go on with the unfinished run that stands there (or begin, if there is none).
        overwrite: delete the earlier run that stands there first.
        allowed: `data`, `recipe`, `processes`: what may have changed since the checkpoint.

    Raises:
        RecipeError, DataError, CheckpointError, OutputError: each with all it found, before
            training where that is possible; then the folder is as it was before.
        KeyboardInterrupt: stopped before or between trainings, or at once; its argument is the
            signal, where it is not Ctrl-C.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    recipe = read_tune_recipe(recipe_path, overrides)
    _check_flags(allowed, resume=resume, overwrite=overwrite)
    from lamina.engine import parallel
    from lamina.jobs.claimed import leave, standing
    from lamina.jobs.tuning import tune

    parallel.check_can_shard()
    parallel.start()
    tell = _teller(watch)
    place = Place(out.absolute(), recipe_path.parent.absolute(), resume)
    finished = None
    if parallel.is_main():
        inputs = [recipe_path, *local_paths(recipe, place.home)]
        inputs = [path for path in inputs if path.resolve() != (out / "recipe.yaml").resolve()]
        finished = standing(out, inputs, resume=resume, overwrite=overwrite)
    finished = parallel.decided(finished)
    if finished is not None:
        tell(f"{out} is a finished run: nothing is left to do")
        return finished
    try:
        return tune(recipe, place, frozenset(allowed), watch or Watcher(), tell)
    except BaseException:
        if parallel.is_main():
            leave(out)
        raise


def _teller(watch: Watcher | None) -> Callable[[str], None]:
    from lamina.engine import parallel

    if watch is None or not parallel.is_main():
        return lambda line: None
    return watch.tell


def _check_flags(allowed: Sequence[str], *, resume: bool, overwrite: bool) -> None:
    from lamina.core.errors import did_you_mean

    known = ("data", "recipe", "processes")
    wrong = [f"`{name}` ({did_you_mean(name, known)})" for name in allowed if name not in known]
    if wrong:
        raise RecipeError(f"--allow-changed does not know {', '.join(wrong)}.")
    if resume and overwrite:
        raise RecipeError(
            "--resume goes on with the run that stands in --out, --overwrite deletes it. Give one "
            "of them."
        )


def local_paths(recipe: TuneRecipe, home: Path) -> list[Path]:
    """Every file and folder on this disk that the recipe reads."""
    texts = parts(recipe.model, home)
    for domain in recipe.domains.values():
        texts += [source.path for source in (*domain.sources, *domain.heldout)]
    texts += [stage.detected for stage in recipe.mixture if stage.detected is not None]
    named = [recipe.general, recipe.data.chat_template]
    named += [] if recipe.layerwise is None else [recipe.layerwise.scores]
    if recipe.plan is not None:
        named += [recipe.plan.file, recipe.plan.scores, recipe.plan.start]
    texts += [text for text in named if text is not None]
    found = [on_disk(text, home) for text in texts]
    return [path for path in found if path is not None]


def write_recipe(recipe: TuneRecipe, place: Place) -> None:
    """`recipe.yaml` with defaults and overrides; its paths lead from there to the same files."""
    values = recipe.to_mapping()

    def moved(text: str) -> str:
        return moved_to(text, place.home, place.out)

    values["model"] = "+".join(moved(part) for part in parts(values["model"], place.home))
    if recipe.general not in (None, "default"):
        values["general"] = moved(values["general"])
    for domain in values["domains"].values():
        for key in ("sources", "heldout"):
            for source in domain.get(key) or ():
                source["path"] = moved(source["path"])
    for stage in values["mixture"]:
        if stage.get("detected"):
            stage["detected"] = moved(stage["detected"])
    if "model" in values["detect"]:
        values["detect"]["model"]["path"] = moved(values["detect"]["model"]["path"])
    for key in {"file", "scores", "start"} & values.get("plan", {}).keys():
        values["plan"][key] = moved(values["plan"][key])
    template = values.get("data", {}).get("chat_template")
    if template:
        values["data"]["chat_template"] = moved(template)
    if values.get("layerwise", {}).get("scores"):
        values["layerwise"]["scores"] = moved(values["layerwise"]["scores"])
    write_atomic(place.out / "recipe.yaml", dump_yaml(values).encode())


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    import json

    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_atomic(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """JSON in the order of the keys, whole or not at all."""
    write_json_atomic(path, value, sort_keys=False)
