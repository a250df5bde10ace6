"""What a tune run needs around its training: where weights start, the card, the checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError, RecipeError
from lamina.core.manifest import read_json
from lamina.core.yaml import dump_yaml
from lamina.engine import parallel
from lamina.jobs.controls import bundled_texts
from lamina.jobs.tune import write_json
from lamina.versatune.project import start_weights
from lamina.versatune.recipe import USES_REFERENCE, StageSection, TuneRecipe
from lamina.versatune.reference import reference_losses
from lamina.versatune.steer import Stage, unit_of

if TYPE_CHECKING:
    from lamina.core.domains import DomainLosses
    from lamina.data.encode import Examples
    from lamina.engine.load import Source
    from lamina.jobs.tune_run import Run

GENERAL_ROWS = 64


def settle_stages(
    run: Run, *, tune_alone: Callable[..., None], losses_at_start: Callable[[], DomainLosses]
) -> tuple[tuple[Stage, ...], dict[str, Any]]:
    """Measures what the stages need first: detected shares and reference losses.

    Returns the stages, and `warnings` and `results` for the manifest.
    """
    notes: dict[str, Any] = {"warnings": [], "results": {}}
    detected: dict[str | None, Mapping[str, float]] = {}
    start: DomainLosses | None = None
    settled = []
    references: dict[str, dict[str, Any]] = {}
    for number, (section, windows) in enumerate(
        zip(run.recipe.mixture, run.recipe.stage_windows, strict=True)
    ):
        given = "start" in section.model_fields_set or number == 0
        weights, reason = None, f"{section.title}: goes on where the stage before stopped"
        if given:
            if section.start == "detected" and section.detected not in detected:
                detected[section.detected] = _detected(run, section)
                notes["results"].setdefault("detected", dict(detected[section.detected]))
            sizes = {n: int(d.train.trained_tokens.sum()) for n, d in run.data.items()}
            weights = start_weights(
                section.start,
                domains=tuple(run.data),
                detected=detected.get(section.detected),
                sizes=sizes,
            ).weights
            reason = f"start: {section.start if isinstance(section.start, str) else 'given'}"
        reference = None
        if section.policy in USES_REFERENCE:
            key = f"{section.loss_unit} {section.reference.model_dump_json()}"
            if key not in references:
                if start is None and section.reference.way != "tuned":
                    start = losses_at_start()
                references[key] = _reference(run, section, start, tune_alone)
                notes["warnings"] += references[key]["warnings"]
            reference = references[key]["losses"]
        settled.append(Stage(section, windows, weights, reference, reason))
    if references:
        first = next(iter(references.values()))
        if parallel.is_main():
            write_json(run.out / "reference.json", first)
    return tuple(settled), notes


def _reference(
    run: Run, section: StageSection, start: DomainLosses | None, tune_alone: Callable[..., None]
) -> dict[str, Any]:
    known = run.out / "reference.json"
    if run.place.resume and known.is_file() and len(run.recipe.mixture) == 1:
        return read_json(known)  # the same run measured it before it was stopped
    return reference_losses(
        section.reference,
        run.data,
        run.train,
        start,
        tune_alone=tune_alone,
        folder=run.out / "reference",
        model=run.identity.model,
        tell=run.tell,
        unit=unit_of(section),
    )


def _detected(run: Run, section: StageSection) -> Mapping[str, float]:
    """What the model knows of each domain: from a folder of `lamina detect`, or measured now.

    Raises:
        RecipeError: the folder's domains are not the recipe's.
    """
    folder = run.out / "detect"
    if section.detected is not None:
        file = shares_file(section.detected, run.place.home)
        if not file.is_file():
            raise RecipeError(
                f"mixture.detected is {section.detected}, but {file} is no file. Give a folder "
                "that `lamina detect` wrote, or leave the key out to detect now."
            )
    else:
        if parallel.is_main():
            from lamina.jobs.detect import detect_for_tuning

            detect_for_tuning(run, folder)
        parallel.barrier()
        file = folder / "shares.json"
    told = read_json(file)
    shares = told.get("shares") if isinstance(told, dict) else None
    if not isinstance(shares, dict):
        raise DataError(f"{file} is not from `lamina detect`: it has no `shares`.")
    if set(shares) != set(run.data):
        raise RecipeError(
            f"{file} has shares of {', '.join(shares)}; the recipe's domains are "
            f"{', '.join(run.data)}. Detect again with these domains."
        )
    return {name: float(shares[name]) for name in run.data}


def shares_file(detected: str, home: Path) -> Path:
    """The file that `mixture.detected` means: beside the recipe first, then from here."""
    near = home / detected
    folder = near if near.exists() else Path(detected)
    return folder / "shares.json" if folder.is_dir() else folder


def watched_text(recipe: TuneRecipe, home: Path, tokenizer: Any) -> dict[str, Examples]:
    """A slice of general text, encoded as plain text, for the ledger."""
    if recipe.general is None:
        return {}
    from lamina.data.domains import read_records
    from lamina.data.encode import encode
    from lamina.data.recipe import DomainSpec

    path = str(bundled_texts()["general"]) if recipe.general == "default" else recipe.general
    spec = DomainSpec.model_validate({"path": path, "type": "text"})
    records = read_records(spec, home=home)[:GENERAL_ROWS]
    examples, _ = encode(
        records, tokenizer, max_length=recipe.data.max_length, template=None, too_long="truncate"
    )
    if not len(examples):
        raise DataError(f"general: {path} has no text to measure a loss on.")
    return {"general": examples}


def account(out: Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of every file of the run that a rerun would write again the same."""
    skipped = ("checkpoints", "logs", "reference", "log.jsonl", "manifest.json", "report.html")
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = path.relative_to(out).as_posix()
        if name.split("/")[0] in skipped or name.startswith("."):
            continue
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        found[name] = {"bytes": path.stat().st_size, "checksum": f"sha256:{sha}"}
    return found


def model_card(
    recipe: TuneRecipe,
    source: Source,
    lines: Sequence[Mapping[str, Any]],
    told: Mapping[str, Any],
    *,
    stopped: str | None,
) -> str:
    """The card of the tuned model: what it was tuned on, what that did, and the recipe."""
    adapter = recipe.train.method == "lora"
    front = ["---", "library_name: peft" if adapter else "library_name: transformers", "tags:"]
    front += ["- lamina", *(["- lora"] if adapter else []), "---"]
    rows = [
        f"| {name} | {sum(line['tokens'][name] for line in lines):,} "
        f"| {losses[0]['loss']:.4f} | {losses[-1]['loss']:.4f} "
        f"| {lines[-1]['repeats'][name]:.2f} |"
        for name, losses in told["losses"].items()
    ]
    policies = ", ".join(dict.fromkeys(line["policy"] for line in lines))
    return "\n".join(
        [
            *front,
            "# A model tuned with domain weights that move",
            "",
            f"{'A LoRA adapter for' if adapter else 'Tuned from'} `{recipe.model}`, over "
            f"{len(lines)} windows; weights by `{policies}`.",
            *([f"The run ended early: {stopped}."] if stopped else []),
            "",
            "| domain | trained tokens | held-out loss before | after | times read |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            "## Recipe",
            "",
            "```yaml",
            dump_yaml(recipe.to_mapping()).rstrip(),
            "```",
            "",
        ]
    )
