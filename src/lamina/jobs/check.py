"""`lamina check`: everything that can be said from headers, of a recipe or of one folder."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError
from lamina.core.recipe import is_tune, load_mapping
from lamina.jobs.prepare import check_place, describe, prepare
from lamina.weights.adapter import is_adapter, open_adapter
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.compare import dtype_problems

HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def check_recipe(
    file: Path, out: Path | None, forget: bool, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """What a merge by this recipe would read, write and need.

    Raises:
        LaminaError: why it could not run; every problem of a kind at once.
    """
    if is_tune(load_mapping(file, overrides)):
        return _check_tune(file, overrides)
    prepared = prepare(file, forget=forget, overrides=overrides)
    if out is not None:
        check_place(prepared, out)
    threads = max(1, min(8, len(os.sched_getaffinity(0))))
    return {"file": str(file), **describe(prepared, out, threads)}


def _check_tune(file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What a tune recipe asks for; its rows are not read, and no hub is asked.

    Raises:
        RecipeError: what is wrong in it.
        CheckpointError: a model's folder that is none.
        DataError: files that are not there, all at once.
    """
    from lamina.engine.load import find_model
    from lamina.versatune.recipe import read_tune_recipe

    recipe = read_tune_recipe(file, overrides)
    named = [
        (f"domain {name}", source.path)
        for name, domain in recipe.domains.items()
        for source in (*domain.sources, *domain.heldout)
        if Path(source.path).suffix
    ]
    named += [("mixture.detected", s.detected) for s in recipe.mixture if s.detected is not None]
    if recipe.general not in (None, "default"):
        named.append(("general", str(recipe.general)))
    template = recipe.data.chat_template
    if template is not None and template.endswith((".jinja", ".j2")):
        named.append(("data.chat_template", template))
    missing = [
        f"{where}: {path}"
        for where, path in named
        if not any((home / path).exists() for home in (file.parent, Path()))
    ]
    if missing:
        raise DataError(f"not there, neither beside {file.name} nor here: {'; '.join(missing)}")
    near = file.parent / recipe.model
    if near.exists() or not HUB_NAME.fullmatch(recipe.model):
        find_model(str(near) if near.exists() else recipe.model)
    sources = {name: ", ".join(s.path for s in d.sources) for name, d in recipe.domains.items()}
    train = recipe.settled_train
    return {
        "file": str(file),
        "kind": "a recipe for lamina tune",
        "model": recipe.model,
        **{f"domain {name}": told for name, told in sources.items()},
        "policies": ", ".join(stage.title for stage in recipe.mixture),
        "windows": train.windows,
        "optimiser_steps": train.steps,
        "rows_a_step": train.batch_size * train.accumulate,
        "trains": "an adapter" if train.method == "lora" else "every weight",
        "bytes": 0,
        "warnings": [],
    }


def check_folder(folder: Path) -> dict[str, Any]:
    """What a model's or an adapter's folder holds.

    Raises:
        CheckpointError: what is wrong with it.
    """
    if is_adapter(folder):
        adapter = open_adapter(folder)
        ranks = Counter(a.shape[0] for a, _, _ in adapter.modules.values())
        return {
            "file": str(folder),
            "kind": "LoRA adapter",
            "base": adapter.base_name,
            "modules": len(adapter.modules),
            "replaced_tensors": len(adapter.replaced),
            "ranks": {str(rank): count for rank, count in sorted(ranks.items())},
            "bytes": adapter.header.size,
            "license": adapter.license,
            "warnings": [],
        }
    checkpoint = open_checkpoint(folder)
    roles: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        roles[checkpoint.layers.of(name).role] += tensor.num_elements
        dtypes[tensor.dtype] += tensor.num_elements
    broken = dtype_problems(checkpoint)
    return {
        "file": str(folder),
        "kind": "model",
        "architecture": checkpoint.architecture,
        "blocks": checkpoint.layers.num_blocks,
        "tensors": len(checkpoint.tensors),
        "parameters": sum(t.num_elements for t in checkpoint.tensors.values()),
        "parameters_by_role": dict(roles),
        "parameters_by_dtype": dict(dtypes),
        "files": [header.file.name for header in checkpoint.headers],
        "bytes": checkpoint.num_bytes,
        "license": checkpoint.license,
        "warnings": [*checkpoint.warnings, *(f"cannot be merged: {line}" for line in broken[:5])],
    }
