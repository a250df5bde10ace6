"""`lamina cut`: a model's lowest blocks, its final norm and its head, as a model (2402.11700).

What the paper does before it tunes: the top blocks go, the rest is as it was, bit for bit. Works on
headers and bytes: no torch, one chunk of a tensor in memory, whatever the model's size or dtype. A
killed run goes on where it stopped; the folder has its name only when it is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lamina.core.errors import CheckpointError, OutputError, RecipeError
from lamina.core.manifest import Manifest, write_atomic
from lamina.jobs.carried import carried_files
from lamina.jobs.cut_config import cut_config
from lamina.jobs.watch import Watcher
from lamina.weights import kernels
from lamina.weights.checkpoint import INDEX, Checkpoint, open_checkpoint
from lamina.weights.codes import LANES
from lamina.weights.layout import Layout, Place, plan_layout
from lamina.weights.locate import locate
from lamina.weights.place import check_disk, check_output
from lamina.weights.sources import MappedFile, combined_digest, digest_of
from lamina.weights.writer import PartialOutput, commit, partial_output

STEP_BYTES = 4 << 20


def run_cut(
    model: str, out: Path, *, keep: int, overwrite: bool = False, watch: Watcher | None = None
) -> dict[str, Any]:
    """Writes the lowest `keep` blocks of a model, and all that is outside them, into `out`.

    Returns the manifest.

    Raises:
        RecipeError: no block is kept, or none is cut.
        CheckpointError: a model that cannot be read, an adapter, or one that cannot be cut because
            tensors outside its blocks have a part for every block.
        OutputError: the output cannot be written there; nothing stands under its name then.
    """
    watch = watch or Watcher()
    source = open_checkpoint(locate(model))
    check_output(out, [source.path], overwrite=overwrite)
    kept = kept_part(source, keep)
    config = cut_config(source.config, blocks=source.layers.num_blocks, keep=keep)
    layout = _layout(source, kept)
    needed = layout.num_bytes
    check_disk(out, needed)
    if not kernels.all_ready():
        watch.stage("compiling the kernels for this machine, once", 0)
        kernels.compile_all()
    run = hashlib.sha256(f"cut {keep} {source.identity} {version('lamina')}".encode()).hexdigest()
    with partial_output(out, run, {"": layout}) as (partial, _):
        check_output(out, [], overwrite=overwrite)  # another run may have ended since
        watch.stage("copying", needed)
        _copy(kept, layout, partial, watch)
        problems = partial.read_back()
        if problems:
            raise OutputError(
                f"{out} does not read back as it was written: {'; '.join(problems[:5])}. Nothing "
                "was left behind. Is the disk sound?"
            )
        manifest = _write_rest(model, source, kept, keep, config, layout, partial)
        check_output(out, [], overwrite=overwrite)
        commit(out)
    return manifest


def kept_part(source: Checkpoint, keep: int) -> Checkpoint:
    """The tensors of the lowest `keep` blocks and those outside of blocks, as a checkpoint.

    Raises:
        RecipeError, CheckpointError: see `run_cut`.
    """
    layers = source.layers
    if not layers.num_blocks:
        layers.units("block")  # says what is missing
    if not 1 <= keep < layers.num_blocks:
        raise RecipeError(
            f"--keep is {keep}, but {source.path} has {layers.num_blocks} blocks: give a number "
            f"from 1 to {layers.num_blocks - 1}."
        )
    shared = [n for n in source.tensors if layers.of(n).block is None and "per_layer" in n]
    if shared:
        raise CheckpointError(
            f"{source.path} cannot be cut: {', '.join(shared[:3])} outside its blocks "
            f"{'has' if len(shared) == 1 else 'have'} a part for every block. Choose a model whose "
            "blocks stand alone."
        )

    def stays(name: str) -> bool:
        block = layers.of(name).block
        return block is None or block < keep

    headers = [
        dataclasses.replace(header, tensors=tuple(t for t in header.tensors if stays(t.name)))
        for header in source.headers
    ]
    return Checkpoint(
        source.path,
        {name: tensor for name, tensor in source.tensors.items() if stays(name)},
        tuple(header for header in headers if header.tensors),
        source.config,
    )


def _layout(source: Checkpoint, kept: Checkpoint) -> Layout:
    """One file from one file; else shards no larger than the source's largest."""
    dtypes = {name: tensor.dtype for name, tensor in kept.tensors.items()}
    if len(source.headers) == 1:
        return plan_layout(kept, dtypes, None)
    largest = max(sum(t.num_bytes for t in header.tensors) for header in source.headers)
    return plan_layout(kept, dtypes, largest)


def _copy(kept: Checkpoint, layout: Layout, partial: PartialOutput, watch: Watcher) -> None:
    files = {header.file: MappedFile(header) for header in kept.headers}
    for name, tensor in kept.tensors.items():
        if ("", name) not in partial.done:
            checksum = _copy_tensor(files[tensor.file], tensor.begin, layout.places[name], partial)
            partial.finish("", name, {"checksum": checksum})
        watch.advance(tensor.num_bytes)


def _copy_tensor(file: MappedFile, begin: int, place: Place, partial: PartialOutput) -> str:
    """Copies a tensor's bytes a chunk at a time and gives their checksum."""
    lanes = np.zeros(LANES, np.uint64)
    size = place.end - place.begin
    for at in range(0, size, STEP_BYTES):
        stop = min(at + STEP_BYTES, size)
        kernels.checksum(file.address + begin + at, stop - at, lanes)
        partial.write("", place, at, file.bytes[begin + at : begin + stop].data)
        file.release(begin + at, begin + stop)
    return digest_of(lanes, size)


def _write_rest(
    model: str,
    source: Checkpoint,
    kept: Checkpoint,
    keep: int,
    config: Mapping[str, Any],
    layout: Layout,
    partial: PartialOutput,
) -> dict[str, Any]:
    """Config, tokenizer and card; the manifest last."""
    folder = partial.folder
    beside = carried_files(source.path)
    for name in beside:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source.path / name, folder / name)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_atomic(folder / "config.json", text.encode())
    if layout.index is not None:
        write_atomic(folder / INDEX, layout.index)
    write_atomic(folder / "README.md", _card(model, source, keep).encode())
    manifest = Manifest(
        kind="cut",
        status="complete",
        versions={"lamina": version("lamina")},
        recipe={"model": model, "keep": keep},
        inputs={
            "model": {
                "path": model,
                "fingerprint": source.fingerprint,
                "bytes": source.num_bytes,
                "license": source.license,
            }
        },
        outputs=_outputs(folder, layout, partial, [*beside, "config.json"]),
        results={
            "blocks": keep,
            "of_blocks": source.layers.num_blocks,
            "tensors": len(kept.tensors),
            "of_tensors": len(source.tensors),
            "values": sum(t.num_elements for t in kept.tensors.values()),
            "of_values": sum(t.num_elements for t in source.tensors.values()),
        },
        warnings=_warnings(source),
    )
    manifest.write(folder)
    return manifest.model_dump()


def _outputs(
    folder: Path, layout: Layout, partial: PartialOutput, others: list[str]
) -> dict[str, dict[str, Any]]:
    """Every weight file with the checksum of its tensors, every other with its own."""
    found: dict[str, dict[str, Any]] = {
        shard.file: {
            "bytes": shard.size,
            "checksum": combined_digest(
                (place.name, partial.done["", place.name]["checksum"])
                for place in layout.places.values()
                if place.file == shard.file
            ),
        }
        for shard in layout.shards
    }
    for name in others:
        data = (folder / name).read_bytes()
        found[name] = {"bytes": len(data), "checksum": f"sha256:{hashlib.sha256(data).hexdigest()}"}
    return found


def _warnings(source: Checkpoint) -> list[str]:
    warnings = list(source.warnings)
    if source.config.get("auto_map"):
        warnings.append(
            f"{source.path.name} needs its own Python code to load (auto_map); lamina does not "
            "copy code. Copy the .py files yourself if you trust them."
        )
    return warnings


def _card(model: str, source: Checkpoint, keep: int) -> str:
    front = ["---", "library_name: transformers", "tags:", "- lamina"]
    front += [f"license: {source.license}"] if source.license else []
    return "\n".join(
        [
            *front,
            "---",
            f"The lowest {keep} of {source.layers.num_blocks} blocks of `{model}`, with its final",
            "norm and its head, as they were. Without the blocks above them it answers badly until",
            f"it is tuned (arXiv 2402.11700). Made with lamina {version('lamina')}.",
            "",
        ]
    )
