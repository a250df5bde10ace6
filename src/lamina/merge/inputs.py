"""The models of a recipe, opened and held against each other before a byte of data is read."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lamina.core.errors import CheckpointError
from lamina.core.layers import LayerMap
from lamina.merge.nouns import MergeRecipe
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.checkpoint import Checkpoint, exists, open_checkpoint
from lamina.weights.compare import Fit, check_dtypes, compare, require_fit
from lamina.weights.locate import expanded, locate, open_model

Model = Checkpoint | AdaptedCheckpoint


@dataclass(frozen=True)
class Inputs:
    """Every model of one merge, checked."""

    target: Checkpoint
    """What is edited; for linear and slerp the one whose config and tokenizer are carried over."""
    reference: Checkpoint | None
    """What task vectors are counted from; None for linear and slerp."""
    base: Checkpoint | None
    """LATA: the raw language model; None where a file ranks the layers."""
    experts: Mapping[str, Model]
    typed: Mapping[str, str]
    """Role or expert name -> what the user wrote."""
    rows: Mapping[str, Mapping[str, int]]
    """Role or expert name -> tensor -> rows it has in common with the target, where fewer."""
    warnings: tuple[str, ...]

    @property
    def layers(self) -> LayerMap:
        return self.target.layers

    def named(self) -> dict[str, Model]:
        """Every input once, by role or expert name."""
        roles = {"target": self.target, "reference": self.reference, "base": self.base}
        found = {name: model for name, model in roles.items() if model is not None}
        return {**found, **self.experts}


def open_inputs(recipe: MergeRecipe, home: Path | None) -> Inputs:
    """Open all models of a recipe; `home` is the recipe's folder, where its paths begin.

    Raises:
        CheckpointError: a model cannot be opened or does not fit; everything that does not fit in
            one message.
    """
    typed: dict[str, str] = {}
    if recipe.method == "lata":
        assert recipe.instruct_model, "checked by the recipe"
        typed["reference"] = recipe.instruct_model
        if recipe.base_model is not None:
            typed["base"] = recipe.base_model
        typed["target"] = recipe.target_model or recipe.instruct_model
    elif recipe.base_model is not None:
        typed["target"] = recipe.base_model
        if recipe.method not in ("linear", "slerp"):
            typed["reference"] = recipe.base_model
    opened: dict[str, Checkpoint] = {}
    for text in dict.fromkeys(typed.values()):
        opened[text] = open_checkpoint(locate(text, home))
    adapter_base = opened.get(typed.get("reference", typed.get("target", "")))
    experts: dict[str, Model] = {}
    for entry in recipe.models:
        typed[entry.name] = entry.model
        experts[entry.name] = open_model(entry.model, home, adapter_base)
    if "target" in typed:
        target = opened[typed["target"]]
    else:
        first = next(iter(experts.values()))
        target = first.base if isinstance(first, AdaptedCheckpoint) else first
    if recipe.method == "slerp":
        experts = {"base": target, **experts}
    reference = opened.get(typed.get("reference", ""))
    base = opened.get(typed.get("base", ""))
    others: dict[str, Model] = {"reference": reference, "base": base, **experts}  # type: ignore
    others = {name: model for name, model in others.items() if model is not None}
    checked = {target.path: target}
    checked |= {c.path: c for c in opened.values()}
    checked |= {
        (m.base if isinstance(m, AdaptedCheckpoint) else m).path: (
            m.base if isinstance(m, AdaptedCheckpoint) else m
        )
        for m in experts.values()
    }
    for checkpoint in checked.values():
        check_dtypes(checkpoint)
    strict = recipe.vocabulary == "strict"
    fits = {
        name: compare(target, model, strict_vocabulary=strict) for name, model in others.items()
    }
    require_fit(
        target, {typed.get(name, str(others[name].path)): fit for name, fit in fits.items()}
    )
    if recipe.method in ("linear", "slerp") and any(fit.rows for fit in fits.values()):
        raise CheckpointError(
            f"`{recipe.method}` needs one vocabulary in all models; these differ:\n  "
            + "\n  ".join(w for fit in fits.values() for w in fit.warnings)
        )
    warnings = [w for model in checked.values() for w in model.warnings]
    warnings += [w for fit in fits.values() for w in fit.warnings]
    warnings += _sameness(typed, reference, base, target, experts)
    warnings += _other_bases(experts)
    return Inputs(
        target=target,
        reference=reference,
        base=base,
        experts=experts,
        typed=typed,
        rows=_common_rows(fits, reference, experts),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _common_rows(
    fits: Mapping[str, Fit], reference: Checkpoint | None, experts: Mapping[str, Model]
) -> dict[str, dict[str, int]]:
    """Rows every input has in common with the target; an expert's also with the reference."""
    rows = {name: dict(fit.rows) for name, fit in fits.items()}
    if reference is not None:
        for name in experts:
            for tensor, count in fits["reference"].rows.items():
                rows[name][tensor] = min(count, rows[name].get(tensor, count))
    return rows


def _sameness(
    typed: Mapping[str, str],
    reference: Checkpoint | None,
    base: Checkpoint | None,
    target: Checkpoint,
    experts: Mapping[str, Model],
) -> list[str]:
    """Refuse a base that is the instruct model; tell of an expert that is one of the others."""
    if base is not None and reference is not None and same_files(base, reference):
        raise CheckpointError(
            f"base_model {typed['base']} and instruct_model {typed['reference']} are the same "
            "weights: there is no instruction vector to compare with. base_model is the raw "
            "language model that the instruct model was tuned from."
        )
    origin = reference or target
    return [
        f"expert `{name}` ({typed.get(name, model.path)}) is the same files as {origin.path}: its "
        "task vector is zero and adds nothing"
        for name, model in experts.items()
        if isinstance(model, Checkpoint) and reference is not None and same_files(model, origin)
    ]


def _other_bases(experts: Mapping[str, Model]) -> list[str]:
    """Tell of an adapter that names another base, here on this disk, than the one it is put on."""
    told = []
    for name, model in experts.items():
        if not isinstance(model, AdaptedCheckpoint) or model.adapter.base_name is None:
            continue
        said = expanded(model.adapter.base_name)
        found = next((p for p in (model.path / said, said) if exists(p / "config.json")), None)
        if found is None or found.resolve() == model.base.path.resolve():
            continue
        with suppress(CheckpointError):
            if open_checkpoint(found).fingerprint == model.base.fingerprint:
                continue
        told.append(
            f"adapter `{name}` says it was trained on {said}, and is put on {model.base.path}; is "
            "that right? `base+adapter` names another base"
        )
    return told


def same_files(first: Checkpoint, second: Checkpoint) -> bool:
    """The same folder, or the same file reached twice."""
    if first.path.resolve() == second.path.resolve():
        return True
    pairs = zip(first.headers, second.headers, strict=False)
    same = all(a.file.resolve() == b.file.resolve() for a, b in pairs)
    return same and len(first.headers) == len(second.headers)
