"""All that can be known of a merge before a data byte is read: `lamina check` ends here.

Headers only, no numpy: a fraction of a second for any number of models of any size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.core.errors import RecipeError
from lamina.jobs.carried import carried_files
from lamina.jobs.given import Given, given_scores
from lamina.merge.inputs import Inputs, open_inputs
from lamina.merge.nouns import MergeRecipe, named_filters, value_problems
from lamina.merge.recipe import load_forgetting, load_recipe
from lamina.merge.values import narrower
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.compare import is_table
from lamina.weights.headers import FLOATS
from lamina.weights.layout import Layout, plan_layout
from lamina.weights.place import check_disk, check_output, free_bytes

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CHUNK_BYTES = 8 << 20
PROCESS_BYTES = 170 << 20
"""Python, numpy and the compiled kernels, measured: docs/performance.md."""


@dataclass(frozen=True)
class Prepared:
    """A recipe whose models are open, fit together and fit the disk."""

    recipe: MergeRecipe
    source: Path
    inputs: Inputs
    settings: Mapping[str, MergeRecipe]
    """Sub-folder of the output ("" for the output itself) -> the recipe of what goes there."""
    layouts: Mapping[str, Layout]
    forget: bool
    given: Mapping[str, Given]
    """Rule `scores`: every expert's ranking and plan; else empty."""

    @property
    def home(self) -> Path:
        return self.source.parent

    @property
    def bytes_to_write(self) -> int:
        return sum(layout.num_bytes for layout in self.layouts.values())

    def bytes_to_read(self) -> int:
        """Over all passes; what is read twice from the page cache counts twice."""
        inputs, recipe = self.inputs, self.recipe
        experts = sum(_bytes(model) for model in inputs.experts.values())
        once = experts + (0 if inputs.reference is None else _bytes(inputs.target))
        if inputs.reference is not None and inputs.reference is not inputs.target:
            once += _bytes(inputs.reference)
        total = once * len(self.settings)
        if recipe.method == "lata" and inputs.reference and inputs.base:
            total += experts + _bytes(inputs.reference) + _bytes(inputs.base)
        if recipe.method == "ties" or recipe.sparsifier == "ties":
            total += 2 * (experts + _bytes(inputs.target)) * len(self.settings)
        if recipe.method == "slerp":
            total += experts * len(self.settings)
        return total

    def peak_bytes(self, threads: int) -> int:
        """An upper estimate of the resident memory."""
        per_thread = (len(self.inputs.experts) + 4) * CHUNK_BYTES
        factors = 0
        for model in self.inputs.experts.values():
            if isinstance(model, AdaptedCheckpoint):
                factors += 4 * sum(
                    f.a.num_elements + f.b.num_elements for f in model.factors.values()
                )
        return PROCESS_BYTES + threads * per_thread + factors


def _bytes(model: object) -> int:
    base = model.base if isinstance(model, AdaptedCheckpoint) else model
    return base.num_bytes  # type: ignore[attr-defined]


def prepare(
    config: Path, *, forget: bool = False, overrides: Sequence[str] = (), home: Path | None = None
) -> Prepared:
    """Read a recipe, open its models, compare them, lay the output out.

    Raises:
        RecipeError: the recipe cannot be followed; all its problems in one message.
        CheckpointError: a model cannot be opened, or the models do not fit together.
    """
    recipe = (load_forgetting if forget else load_recipe)(config, overrides)
    return prepare_recipe(recipe, config, forget=forget, home=home)


def prepare_recipe(
    recipe: MergeRecipe, source: Path, *, forget: bool = False, home: Path | None = None
) -> Prepared:
    """`prepare` for a recipe that is already read."""
    inputs = open_inputs(recipe, home or source.parent)
    carried_files(inputs.target.path)
    problems = value_problems(recipe, inputs.layers)
    told = narrower(named_filters(recipe), inputs.layers.layers)
    recipe = recipe.model_copy(update={"warnings": (*recipe.warnings, *told)})
    settings = {s.name: recipe.at(s) for s in recipe.sweep} if recipe.sweep else {"": recipe}
    if recipe.sweep:
        problems += [p for one in settings.values() for p in value_problems(one, inputs.layers)]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in dict.fromkeys(problems))
        raise RecipeError(f"{source}:\n{lines}")
    given = given_scores(recipe, inputs, home or source.parent)
    layouts = {
        name: plan_layout(inputs.target, output_dtypes(one, inputs), one.max_shard_bytes)
        for name, one in settings.items()
    }
    return Prepared(recipe, source, inputs, settings, layouts, forget, given)


def output_dtypes(recipe: MergeRecipe, inputs: Inputs) -> dict[str, str]:
    """The dtype of every output tensor: the recipe's, else the target's; tables keep theirs."""
    asked = recipe.output_dtype
    return {
        name: SAFETENSORS_DTYPES[asked]
        if asked and tensor.dtype in FLOATS and not is_table(tensor)
        else tensor.dtype
        for name, tensor in inputs.target.tensors.items()
    }


def check_place(
    prepared: Prepared, out: Path, *, overwrite: bool = False, controls: bool = False
) -> None:
    """Whether the output may stand there and fits the disk, with one control beside it.

    Raises:
        OutputError: it may not, or does not.
    """
    models = prepared.inputs.named().values()
    folders = [model.path for model in models]
    folders += [model.base.path for model in models if isinstance(model, AdaptedCheckpoint)]
    check_output(out, list(dict.fromkeys(folders)), overwrite=overwrite)
    check_disk(out, prepared.bytes_to_write * (2 if controls else 1))


def describe(prepared: Prepared, out: Path | None, threads: int) -> dict[str, object]:
    """What `lamina check` and `--dry-run` tell."""
    inputs, layers = prepared.inputs, prepared.inputs.layers
    told: dict[str, object] = {
        "method": prepared.recipe.method,
        "architecture": inputs.target.architecture,
        "blocks": layers.num_blocks,
        "tensors": len(inputs.target.tensors),
        "parameters": sum(t.num_elements for t in inputs.target.tensors.values()),
        "inputs": {
            name: {
                "path": str(model.path),
                "kind": "LoRA adapter" if isinstance(model, AdaptedCheckpoint) else "model",
                "bytes": model.adapter.header.size
                if isinstance(model, AdaptedCheckpoint)
                else model.num_bytes,
                "license": model.license,
            }
            for name, model in inputs.named().items()
        },
        "scores": {
            name: f"{one.plan.from_scores} ({one.scores.method} of {len(one.scores.values)} "
            f"{one.scores.granularity}s, measured on {one.scores.model})"
            for name, one in prepared.given.items()
        },
        "outputs": list(prepared.settings),
        "bytes_to_read": prepared.bytes_to_read(),
        "bytes_to_write": prepared.bytes_to_write,
        "free_bytes": free_bytes(out if out is not None else Path("x").absolute()),
        "peak_memory_bytes": prepared.peak_bytes(threads),
        "warnings": [*prepared.recipe.warnings, *inputs.warnings],
    }
    return told
