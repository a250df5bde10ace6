"""The end of a tune run: model, lines, ledger, page, and the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lamina.core.errors import OutputError
from lamina.core.manifest import Manifest, read_json
from lamina.core.plan import LayerPlan
from lamina.data.templates import choose_template
from lamina.engine.load import Source
from lamina.engine.run import Finished
from lamina.engine.tunable import (
    save_model,
    stored_dtypes,
    trained_parameters,
)
from lamina.jobs.carried import OF_THE_MODEL, carried_files
from lamina.jobs.tune import DONE, FORGOT, write_json, write_lines
from lamina.jobs.tune_run import Run
from lamina.jobs.tuned import account, model_card
from lamina.versatune.ledger import StageEnd, ledger
from lamina.versatune.recipe import TuneRecipe
from lamina.versatune.steer import Mixture, Stage
from lamina.weights.checkpoint import read_config

if TYPE_CHECKING:
    pass


def finish(
    run: Run,
    model: Any,
    steering: Mixture,
    stages: tuple[Stage, ...],
    finished: Finished,
    notes: Mapping[str, Any],
    *,
    weights: dict[str, torch.Tensor] | None,
) -> dict[str, Any]:
    """Writes model, lines, ledger, page and manifest; gives the manifest."""
    from lamina.report.page import write_report

    out, recipe = run.out, run.recipe
    lines = steering.history
    write_lines(out / "domains.jsonl", lines)
    told = ledger(
        _stage_ends(run, steering, stages),
        steering.losses,
        unit=steering.unit,
        general_path=_general_name(recipe) if run.watched else None,
        max_forgetting=recipe.max_forgetting,
    )
    write_json(out / "ledger.json", told)
    status = DONE if finished.stopped is None else FORGOT
    card = model_card(recipe, run.source, lines, told, stopped=finished.stopped)
    _write_model(run, model, card, weights=weights)
    results = {
        "status": status,
        "stopped": finished.stopped,
        "steps": finished.step,
        "windows": len(lines),
        "trained_parameters": trained_parameters(model),
        **_planned(run.plan),
        "trained_tokens": {n: sum(line["tokens"][n] for line in lines) for n in run.data},
        "start": {n: row[0]["loss"] for n, row in told["losses"].items()},
        "end": {n: row[-1]["loss"] for n, row in told["losses"].items()},
        "weights": lines[-1]["weights"],
        **({"mean_weights": steering.memory["mean"]} if "mean" in steering.memory else {}),
        **notes.get("results", {}),
    }
    warnings = [*notes.get("warnings", []), *steering.told]
    manifest = Manifest(
        kind="tune",
        status=status,
        versions={
            name: version(name)
            for name in ("lamina", "torch", "transformers", "peft", "tokenizers", "numpy")
        },
        recipe=recipe.to_mapping(),
        inputs={
            "model": {"path": recipe.model, "fingerprint": run.identity.model},
            "data": {"fingerprint": run.identity.data},
        },
        outputs=account(out),
        results=results,
        warnings=warnings,
    )
    write_report(out, manifest.model_dump())
    manifest.write(out)
    return manifest.model_dump()


def _planned(plan: LayerPlan | None) -> dict[str, Any]:
    """What the manifest says of a plan."""
    if plan is None:
        return {}
    whole = [unit for unit in plan.full if unit not in plan.chosen]
    return {
        "planned_modules": len(plan.chosen) + len(whole),
        "lowest_planned_block": int(plan.price["lowest_block"]),
    }


def _stage_ends(run: Run, steering: Mixture, stages: tuple[Stage, ...]) -> list[StageEnd]:
    """The start and every stage that was ended, or was in work when the run stopped."""

    def at(number: int) -> dict[str, Any]:
        general = steering.watched[number] if steering.watched else None
        return {
            "losses": steering.losses[number],
            "general": None if general is None else next(iter(general.by_domain.values())),
        }

    ends = [StageEnd(name="start", **at(0))]
    windows = 0
    for stage in stages:
        begun, windows = windows, min(windows + stage.windows, len(steering.history))
        if windows > begun:
            target = stage.section.parameters.get("target")
            ends.append(
                StageEnd(
                    name=stage.section.title,
                    policy=stage.section.policy,
                    domains=None if target is None else (target,),
                    **at(windows),
                )
            )
    return ends


def _general_name(recipe: TuneRecipe) -> str:
    return (
        "general text that comes with lamina"
        if recipe.general == "default"
        else str(recipe.general)
    )


def _write_model(
    run: Run, model: Any, card: str, *, weights: dict[str, torch.Tensor] | None
) -> None:
    """`model/`: weights, config, tokenizer and card, under another name until it is whole."""
    final = run.out / "model"
    part = run.out / ".model.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    home = run.source.tokenizer_folder
    stored = read_config(run.source.folder)
    name = stored.get("dtype", stored.get("torch_dtype", "float32"))
    dtype = getattr(torch, name) if name in ("bfloat16", "float16", "float32") else torch.float32
    try:
        held_in_less = run.plan is not None and run.train.dtype != "float32"
        source = run.source if held_in_less else None
        frozen = None if run.plan is None else stored_dtypes(run.source)
        save_model(model, part, dtype=dtype, weights=weights, source=source, frozen=frozen)
        if home != run.source.folder:
            for file in set(carried_files(run.source.folder)) & set(OF_THE_MODEL):
                shutil.copyfile(run.source.folder / file, part / file)
        for file in carried_files(home):
            (part / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(home / file, part / file)
        if run.train.method == "full":  # as it was: dtype, use_cache and all
            shutil.copyfile(run.source.folder / "config.json", part / "config.json")
        else:
            name_base(run.source, part)
        if run.recipe.data.chat_template is not None:
            _write_template(run, part)
        (part / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{final} cannot be written: {error.strerror or error}. Free the disk, then run the "
            "same command with --resume."
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    part.rename(final)


def name_base(source: Source, adapter: Path) -> None:
    """An adapter names a base from the hub as the hub does, not by a place in this disk's cache."""
    if Path(source.name).exists():
        return
    name, _, revision = source.name.partition("@")
    known = {"base_model_name_or_path": name, "revision": revision or None}
    file = adapter / "adapter_config.json"
    write_json(file, {**read_json(file), **known})


def _write_template(run: Run, folder: Path) -> None:
    """The template that was trained with, in place of the tokenizer's: answers need the same."""
    template = choose_template(run.recipe.data.chat_template, run.tokenizer, home=run.place.home)
    assert template is not None
    (folder / "chat_template.jinja").write_text(template.text, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    if file.is_file():
        config = read_json(file)
        if config.pop("chat_template", None) is not None:
            write_json(file, config)
