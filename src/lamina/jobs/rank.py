"""`lamina rank`: which modules of a model matter for some data, as a run folder.

    OUT/  recipe.yaml data.json checkpoints/ measured/ (while it runs)
          adapter/ scores.json scores/WAY.json agreement.json log.jsonl report.html
          manifest.json (last)

A model is tuned first (stage 1 of ILA), an adapter is ranked as it is. `--resume` goes on with an
unfinished run, from its newest checkpoint and with every measurement that was done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.core.errors import RecipeError
from lamina.core.manifest import write_atomic
from lamina.core.recipe import apply_overrides, load_mapping, validate
from lamina.core.yaml import dump_yaml
from lamina.ila.recipe import RankRecipe
from lamina.jobs.watch import Watcher

DONE, INTERRUPTED = "done", "interrupted"


@dataclass(frozen=True, slots=True)
class Place:
    """A ranking's folder, and where relative paths of its recipe begin."""

    out: Path
    home: Path
    resume: bool


def read_rank_recipe(
    target: str,
    *,
    data: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> tuple[RankRecipe, Path]:
    """The recipe of a ranking and the folder where its relative paths begin.

    Args:
        target: a model, an adapter, or a YAML file with all of it, such as a run's recipe.yaml.
        data: files of rows, or hub names; each a domain by its name.
        flags: keys of the recipe that were given as flags; None: not given.

    Raises:
        RecipeError: every problem in one message.
    """
    path = Path(target).expanduser()
    is_recipe = path.suffix in (".yaml", ".yml")
    values: dict[str, Any] = dict(load_mapping(path)) if is_recipe else {"model": target}
    if data:
        values["domains"] = _domains(data)
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    what = target if is_recipe else "lamina rank"
    recipe = validate(RankRecipe, apply_overrides(values, overrides), what)
    return recipe, path.absolute().parent if is_recipe else Path.cwd()


def _domains(data: Sequence[str]) -> dict[str, str]:
    names = [Path(one).name.split(".")[0] or one for one in data]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(
            f"--data gives two files of one name: {', '.join(twice)}. Name their domains in a "
            "recipe: `domains: {one: a/rows.jsonl, other: b/rows.jsonl}`."
        )
    return dict(zip(names, data, strict=True))


def run_rank(
    target: str,
    out: Path,
    *,
    data: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Ranks the modules of a model into the folder `out`; gives the manifest.

    Raises:
        RecipeError, DataError, CheckpointError, LayerError, OutputError: each with all it found,
            before anything is trained where that is possible; the folder is then as it was.
        KeyboardInterrupt: stopped; the same command with `resume` goes on.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    recipe, home = read_rank_recipe(target, data=data, flags=flags, overrides=overrides)
    if resume and overwrite:
        raise RecipeError(
            "--resume goes on with the ranking that stands in --out, --overwrite deletes it. Give "
            "one of them."
        )
    from lamina.engine import parallel
    from lamina.jobs.claimed import RANKING, leave, standing
    from lamina.jobs.paths import on_disk
    from lamina.jobs.rank_run import rank

    parallel.start()
    place = Place(out.absolute(), home, resume)
    finished = None
    if parallel.is_main():
        found = (on_disk(text, home) for text in read_paths(recipe, home))
        texts = [path for path in found if path is not None]
        if home != place.out and Path(target).suffix in (".yaml", ".yml"):
            texts.append(Path(target))
        finished = standing(out, texts, resume=resume, overwrite=overwrite, kind=RANKING)
    finished = parallel.decided(finished)
    watch = watch or Watcher()
    if finished is not None:
        watch.tell(f"{out} is a finished ranking: nothing is left to do")
        return finished
    try:
        return rank(recipe, place, watch)
    except BaseException:
        if parallel.is_main():
            leave(out, kind=RANKING)
        raise


def read_paths(recipe: RankRecipe, home: Path) -> list[str]:
    """Every text of the recipe that may be a file or folder."""
    from lamina.jobs.paths import parts

    texts = [*parts(recipe.model, home), recipe.base, recipe.instruct, recipe.data.chat_template]
    for domain in recipe.domains.values():
        texts += [source.path for source in (*domain.sources, *domain.heldout)]
    return [text for text in texts if text is not None]


def write_recipe(recipe: RankRecipe, place: Place) -> None:
    """`recipe.yaml` with defaults and overrides; its paths lead from there to the same files."""
    from lamina.jobs.paths import moved, parts

    values = recipe.model_dump(mode="json", exclude_none=True)

    def seen(text: str) -> str:
        return moved(text, place.home, place.out)

    values["model"] = "+".join(seen(part) for part in parts(recipe.model, place.home))
    for key in ("base", "instruct"):
        if values.get(key):
            values[key] = seen(values[key])
    for domain in values["domains"].values():
        for key in ("sources", "heldout"):
            for source in domain.get(key) or ():
                source["path"] = seen(source["path"])
    if values["data"].get("chat_template"):
        values["data"]["chat_template"] = seen(values["data"]["chat_template"])
    if values["train"]["schedule"] == "constant":
        values["train"].pop("warmup")
    write_atomic(place.out / "recipe.yaml", dump_yaml(values).encode())
