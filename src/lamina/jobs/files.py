"""What lies beside the weights of an output: config, tokenizer, model card."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.core.manifest import write_atomic
from lamina.jobs.carried import carried_files
from lamina.jobs.prepare import Prepared
from lamina.merge.nouns import MergeRecipe, ModelEntry
from lamina.weights.checkpoint import INDEX
from lamina.weights.layout import Layout


def write_model_files(
    prepared: Prepared, folder: Path, recipe: MergeRecipe, layout: Layout
) -> None:
    """Config, index, tokenizer, generation config and licence, as the target has them."""
    home = prepared.inputs.target.path
    for name in carried_files(home):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(home / name, folder / name)
    write_atomic(folder / "config.json", config_bytes(prepared, recipe))
    if layout.index is not None:
        write_atomic(folder / INDEX, layout.index)


def config_bytes(prepared: Prepared, recipe: MergeRecipe) -> bytes:
    """The target's config.json, with the output's dtype where the recipe asks for another."""
    raw = (prepared.inputs.target.path / "config.json").read_bytes()
    config = json.loads(raw)
    asked = recipe.output_dtype
    key = "dtype" if "dtype" in config else "torch_dtype"
    if asked is None or config.get(key) == asked:
        return raw
    config[key] = asked
    return (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def relocated(recipe: MergeRecipe, home: Path, out: Path) -> MergeRecipe:
    """The recipe as it stands in the output: relative paths lead from there to the same folders."""

    def moved(text: str | None) -> str | None:
        if text is None:
            return None
        parts = [text] if (home / text).exists() else text.split("+")
        return "+".join(_seen_from(part, home, out) for part in parts)

    def place(entry: ModelEntry) -> dict[str, str | None]:
        scores = None if entry.scores is None else _seen_from(entry.scores, home, out)
        return {"model": moved(entry.model), "scores": scores}

    models = tuple(entry.model_copy(update=place(entry)) for entry in recipe.models)
    roles = ("base_model", "instruct_model", "target_model")
    paths = {role: moved(getattr(recipe, role)) for role in roles}
    heldout = {domain: _seen_from(text, home, out) for domain, text in recipe.heldout.items()}
    return recipe.model_copy(update={**paths, "models": models, "heldout": heldout})


def _seen_from(text: str, home: Path, out: Path) -> str:
    found = home / text
    if Path(text).is_absolute() or not found.exists():
        found = Path(text)
        if found.is_absolute() or not found.exists():
            return text
    return Path(os.path.relpath(found.resolve(), out.resolve())).as_posix()


def missing_code_warning(prepared: Prepared) -> list[str]:
    """A model with code of its own: the code is not carried over."""
    config = prepared.inputs.target.config
    if not config.get("auto_map"):
        return []
    return [
        f"{prepared.inputs.target.path.name} needs its own Python code to load (auto_map); lamina "
        "does not copy code. Copy the .py files yourself if you trust them."
    ]


def summary(method: str, results: Mapping[str, Any]) -> str:
    """What an output is, in a sentence or two."""
    if method in ("linear", "slerp"):
        return (
            f"{results['tensors']} tensors with {results['values']:,} values, weighed together; "
            f"{results['tensors_copied']} tables copied."
        )
    return (
        f"{results['tensors_changed']} of {results['tensors']} tensors and "
        f"{results['values_changed']:,} of {results['values']:,} values differ from the target; "
        f"the whole update has {100 * results['relative_change']:.3g} % of the target's norm. "
        f"{results['values_vanished']:,} values of the update vanished in rounding."
    )


def card(
    prepared: Prepared,
    recipe: MergeRecipe,
    name: str,
    results: Mapping[str, Any],
    inputs: Mapping[str, Mapping[str, Any]],
    outputs: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, str],
    coefficients: Mapping[str, Mapping[str, float]],
    warnings: Sequence[str],
) -> str:
    """The model card: what was merged how, with checksums and licences, and the recipe."""
    licenses = sorted({str(entry["license"] or "not stated") for entry in inputs.values()})
    front = ["---", "library_name: transformers", "tags:", "- merge", "- lamina"]
    if len(licenses) == 1 and licenses[0] != "not stated":
        front.append(f"license: {licenses[0]}")
    front.append("---")
    verb = "Forgetting" if prepared.forget else "Merge"
    lines = [
        *front,
        f"# {name}",
        "",
        f"{verb} by `{recipe.method}`, made with lamina {versions['lamina']}.",
        "",
        "| input | path | licence | checksum of all tensors |",
        "|---|---|---|---|",
        *(
            f"| {role} | `{entry['path']}` | {entry['license'] or 'not stated'} "
            f"| `{entry['checksum']}` |"
            for role, entry in inputs.items()
        ),
        "",
        "| file | bytes | checksum |",
        "|---|---:|---|",
        *(f"| {f} | {e['bytes']:,} | `{e['checksum']}` |" for f, e in sorted(outputs.items())),
        "",
        summary(recipe.method, results),
        "",
    ]
    if coefficients:
        lines += ["## How much of each layer was taken", ""]
        for expert, table in coefficients.items():
            numbers = ", ".join(f"{unit}: {value:.4g}" for unit, value in table.items())
            lines.append(f"* **{expert}** ({numbers})")
        lines.append("")
    if warnings:
        lines += ["## Warnings", "", *(f"* {warning}" for warning in warnings), ""]
    lines += ["## Recipe", "", "```yaml", recipe.to_yaml().rstrip(), "```", ""]
    lines.append("Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".")
    return "\n".join(lines) + "\n"
