"""Do two checkpoints fit together? Everything that does not, told at once, from headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.core.errors import CheckpointError
from lamina.weights.adapter import AdaptedCheckpoint
from lamina.weights.checkpoint import Checkpoint, embedding_name, head_name
from lamina.weights.headers import FLOATS, SMALL_FLOATS, TensorInfo

# Tables that older files carry along: copied, never merged.
TABLES = frozenset({"position_ids", "bias", "masked_bias", "inv_freq", "attn_mask", "causal_mask"})


@dataclass(frozen=True, slots=True)
class Fit:
    """What a comparison found."""

    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: Mapping[str, int]
    """Tensors of which only the first rows are common: the number of rows."""


def is_table(tensor: TensorInfo) -> bool:
    """An integer or boolean buffer (a mask, position numbers) that is copied as it is."""
    return tensor.dtype not in FLOATS and tensor.name.rpartition(".")[2] in TABLES


def dtype_problems(checkpoint: Checkpoint) -> list[str]:
    """Tensors that cannot be merged: quantised or integer weights, float64."""
    problems = []
    for tensor in checkpoint.tensors.values():
        if tensor.dtype in FLOATS or is_table(tensor):
            continue
        kind = "fp8 or smaller" if tensor.dtype in SMALL_FLOATS else "not a 16- or 32-bit float"
        problems.append(f"{tensor.name}  {tensor.dtype}: {kind}")
    return problems


def check_dtypes(checkpoint: Checkpoint) -> None:
    """Refuse weights that cannot be added.

    Raises:
        CheckpointError: integer, fp8 or float64 tensors, all named.
    """
    problems = dtype_problems(checkpoint)
    if problems:
        raise CheckpointError(
            f"{len(problems)} of {len(checkpoint.tensors)} tensors of {checkpoint.path} cannot be "
            f"merged:\n{listed(problems)}\nFloat32, float16 or bfloat16 is needed: load the model "
            "in bfloat16 (dequantised) and save it again."
        )


def compare(
    reference: Checkpoint, other: Checkpoint | AdaptedCheckpoint, *, strict_vocabulary: bool
) -> Fit:
    """How `other` fits `reference`: names, shapes, architecture, vocabulary, tied embeddings."""
    if isinstance(other, AdaptedCheckpoint):
        other = other.base
    problems: list[str] = []
    warnings: list[str] = []
    rows: dict[str, int] = {}
    kinds = [str(c.config.get("model_type") or "") for c in (reference, other)]
    if all(kinds) and kinds[0] != kinds[1]:
        problems.append(f"model_type `{kinds[1]}`, `{kinds[0]}` in {reference.path}")
    heads = [head_name(checkpoint) for checkpoint in (reference, other)]
    skip: set[str] = set()
    if (heads[0] is None) != (heads[1] is None):
        skip = {head for head in heads if head is not None}
        words = ["untied" if head else "tied" for head in heads]
        problems.append(
            f"its head is {words[1]} to the embedding, {words[0]} in {reference.path.name}: "
            "save both models the same way (tie_word_embeddings)"
        )
    vocabulary = {embedding_name(reference), heads[0]} - {None}
    for name, tensor in reference.tensors.items():
        found = other.tensors.get(name)
        if found is None:
            if name not in skip and not is_table(tensor):
                problems.append(f"{name}  missing")
        elif found.shape != tensor.shape:
            here, there = list(found.shape), list(tensor.shape)
            told = f"{name}  {here} here, {there} in {reference.path.name}"
            if name in vocabulary and found.shape[1:] == tensor.shape[1:]:
                if strict_vocabulary:
                    problems.append(f"{told} (vocabulary: strict)")
                else:
                    rows[name] = min(found.shape[0], tensor.shape[0])
                    warnings.append(
                        f"{other.path.name}: {told}: another vocabulary. The first {rows[name]} "
                        f"rows are merged, the rest is the target's; `vocabulary: strict` refuses."
                    )
            else:
                problems.append(told)
    problems += [
        f"{name}  extra, not in {reference.path.name}"
        for name, tensor in other.tensors.items()
        if name not in reference.tensors and name not in skip and not is_table(tensor)
    ]
    return Fit(tuple(problems), tuple(warnings), rows)


def require_fit(reference: Checkpoint, fits: Mapping[str, Fit]) -> None:
    """Refuse models that do not fit the reference; `fits`: the other's path, as typed -> its fit.

    Raises:
        CheckpointError: everything that does not fit, of all models, in one message.
    """
    parts = [
        f"{path}: {len(fit.problems)} thing(s) do not fit {reference.path}:\n{listed(fit.problems)}"
        for path, fit in fits.items()
        if fit.problems
    ]
    if parts:
        raise CheckpointError(
            "\n".join(parts) + "\nModels are merged tensor by tensor: they must be of one "
            "architecture, tuned from one ancestor."
        )


def listed(problems: list[str] | tuple[str, ...], most: int = 20) -> str:
    """Lines of a message, cut after `most`."""
    more = [f"... and {len(problems) - most} more"] if len(problems) > most else []
    return "\n".join(f"  {line}" for line in [*problems[:most], *more])
