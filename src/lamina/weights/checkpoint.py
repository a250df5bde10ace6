"""Checkpoint: a model folder as a read-only mapping over safetensors, known from headers alone.

Opens in milliseconds, holds no data, needs neither numpy nor torch. Accepts what transformers
writes: `model.safetensors`, or shards with `model.safetensors.index.json`. Refuses pickles, and any
file or link that leads out of the folder (the links of the hub's own cache excepted): transformers
follows those, and a model folder from a stranger could so name any file of yours.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lamina.core.errors import CheckpointError
from lamina.core.layers import LayerMap
from lamina.weights.headers import CONVERT, Header, TensorInfo, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_JSON_BYTES = 64_000_000
POSITIONS = ("wpe", "embed_positions", "position_embeddings")


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: every tensor's place, shape and dtype; its config; its licence."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    """In the order of the files and of the data inside them."""
    headers: tuple[Header, ...]
    config: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    @cached_property
    def layers(self) -> LayerMap:
        """Block, module and role of every tensor."""
        return LayerMap.from_names(self.tensors)

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same contents, wherever they lie: headers, and a sample of every tensor.

        Reads 128 bytes of each tensor. `identity` is what a cache must look at.
        """
        digest = hashlib.blake2b(digest_size=16)
        for header in self.headers:
            digest.update(f"{header.file.name}\0".encode())
            sample_file(header, digest)
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """The fingerprint and which very files these are: place, inode and times of change."""
        return f"{self.fingerprint}@{file_identities(self.headers)}"

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    @property
    def architecture(self) -> str:
        """`LlamaForCausalLM`, or the model type, or `unknown`."""
        names = self.config.get("architectures")
        if isinstance(names, list) and names:
            return str(names[0])
        return str(self.config.get("model_type") or "unknown")

    @cached_property
    def license(self) -> str | None:
        """What the model card's front matter says, else None."""
        return read_license(self.path)


def sample_file(header: Header, digest: Any) -> None:
    """Take a header, and 64 bytes from start and middle of each tensor, into a hash."""
    digest.update(f"{header.size}\0".encode())
    digest.update(header.raw)
    with header.file.open("rb", buffering=0) as stream:
        for tensor in header.tensors:
            middle = (tensor.begin + tensor.end) // 2
            for at in (tensor.begin, middle):
                digest.update(os.pread(stream.fileno(), min(64, tensor.end - at), at))


def file_identities(headers: Iterable[Header]) -> str:
    """A hash over the real path, device, inode, size and times of some files."""
    digest = hashlib.blake2b(digest_size=16)
    for header in headers:
        info = header.file.stat()
        told = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        digest.update(f"{header.file.resolve()}\0{told}\0".encode())
    return digest.hexdigest()


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, checked from its headers and config.

    Raises:
        CheckpointError: no such folder, no safetensors in it, a bad index, header or config; all
            problems of a kind at once.
    """
    folder = model_folder(path)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is a LoRA adapter; a whole model is needed here.")
    config = read_config(folder)
    files, mapped = _weight_files(folder)
    headers = tuple(read_header(inside(folder, name)) for name in files)
    tensors: dict[str, TensorInfo] = {}
    twice: list[str] = []
    for header in headers:
        for tensor in header.tensors:
            if tensor.name in tensors:
                twice.append(
                    f"{tensor.name} ({tensors[tensor.name].file.name} and {tensor.file.name})"
                )
            tensors[tensor.name] = tensor
    if twice:
        raise CheckpointError(
            f"{folder}: {len(twice)} tensor(s) stand in two files: {', '.join(twice[:5])}."
        )
    if mapped is not None:
        _check_index(folder, mapped, tensors)
    if not tensors:
        raise CheckpointError(f"{folder}: its safetensors hold no tensor at all.")
    checkpoint = Checkpoint(folder, tensors, headers, config)
    problems, warnings = config_problems(checkpoint)
    if mapped is None and (folder / INDEX).is_file():
        warnings.append(
            f"{folder.name}: both {SINGLE} and {INDEX} are there; the single file is read, as "
            "transformers does"
        )
    if problems:
        raise CheckpointError(
            f"{folder}: config.json does not fit the tensors:\n  " + "\n  ".join(problems)
        )
    return Checkpoint(folder, tensors, headers, config, tuple(warnings))


def model_folder(path: Path) -> Path:
    """The folder, or why it cannot be one.

    Raises:
        CheckpointError: it does not exist or is not a folder.
    """
    if not exists(path):
        raise CheckpointError(
            f"{path} does not exist. Give the folder of a model, or a hub name such as `org/model`."
        )
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is a file; give the model's folder, with its config.json and safetensors."
        )
    return path


def exists(path: Path) -> bool:
    """Whether there is something of that name; a name that no file can have does not exist."""
    try:
        return path.exists()
    except OSError:
        return False


def read_config(folder: Path) -> Mapping[str, Any]:
    """`config.json` of a model folder.

    Raises:
        CheckpointError: missing, or not a JSON object.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json, so it is not a model folder that transformers can load."
        )
    return read_json_object(inside(folder, "config.json"))


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        CheckpointError: unreadable, too large, not UTF-8, not JSON, or not an object.
    """
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{file} is larger than {MAX_JSON_BYTES:,} bytes, which is absurd for this file."
            )
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {str(error)[:160]}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file} holds a {type(found).__name__}; an object is needed.")
    return found


def _weight_files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """The names of the weight files, and the index's map of tensors where there is an index."""
    if (folder / INDEX).is_file() and not (folder / SINGLE).is_file():
        weight_map = read_json_object(inside(folder, INDEX)).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(v, str) for v in weight_map.values()
        ):
            raise CheckpointError(
                f"{folder / INDEX} has no `weight_map` from tensor names to file names."
            )
        names = sorted(set(weight_map.values()))
        bad = [name for name in names if not _plain(name)]
        if bad:
            raise CheckpointError(
                f"{folder / INDEX} names files outside of the model folder, or no safetensors: "
                f"{', '.join(f'{name!r:.80}' for name in bad[:5])}. A plain file name such as "
                "`model-00001-of-00002.safetensors` is needed; do not use this model unless you "
                "know who made it."
            )
        missing = [name for name in names if not exists(folder / name)]
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} of {len(names)} shards of the index are missing: "
                f"{', '.join(missing[:5])}. Download them again."
            )
        return names, weight_map
    if (folder / SINGLE).is_file():
        return [SINGLE], None
    others = sorted(
        file.name for file in folder.glob("*.safetensors") if file.name != ADAPTER_WEIGHTS
    )
    if len(others) == 1:
        return others, None
    if others:
        raise CheckpointError(
            f"{folder} has {len(others)} safetensors files ({', '.join(others[:3])}, ...) and no "
            f"{INDEX} that says which belong together. Download the index too."
        )
    pickles = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)
    )
    if pickles:
        raise CheckpointError(
            f"{folder} has only pickled weights ({', '.join(pickles[:3])}), which can run code "
            f"when opened: refused. {CONVERT}"
        )
    raise CheckpointError(f"{folder} has no safetensors weights ({SINGLE} or {INDEX}).")


def _plain(name: str) -> bool:
    """Whether a shard's name is one of a file in the folder itself, and of a safetensors file."""
    good = "/" not in name and "\\" not in name and name.isprintable()
    return good and name.endswith(".safetensors")


def inside(folder: Path, name: str) -> Path:
    """A file of a model folder; if it is a link, one that stays there or in the hub cache's blobs.

    Raises:
        CheckpointError: the link leads elsewhere.
    """
    file, home = folder / name, folder.resolve()
    try:
        real = file.resolve()
    except (OSError, RuntimeError):
        raise CheckpointError(f"{file} is a link that leads round in a circle.") from None
    if real.is_relative_to(home):
        return file
    hub = home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--")
    if hub and real.is_relative_to(home.parent.parent / "blobs"):
        return file
    raise CheckpointError(
        f"{file} is a link out of the model folder, to {real}: refused. Copy the file into the "
        "folder if you trust it."
    )


def _check_index(
    folder: Path, mapped: Mapping[str, str], tensors: Mapping[str, TensorInfo]
) -> None:
    problems = [f"{name}: in the index, in no file" for name in mapped if name not in tensors]
    problems += [
        f"{name}: in {tensors[name].file.name}, not in the index"
        for name in tensors
        if name not in mapped
    ]
    problems += [
        f"{name}: the index says {mapped[name]}, it is in {tensor.file.name}"
        for name, tensor in tensors.items()
        if name in mapped and mapped[name] != tensor.file.name
    ]
    if problems:
        more = f"\n  ... and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CheckpointError(
            f"{folder}: index and files do not agree:\n  " + "\n  ".join(problems[:20]) + more
        )


def _first(config: Mapping[str, Any], *keys: str) -> int | None:
    return next((config[key] for key in keys if type(config.get(key)) is int), None)


def embedding_name(checkpoint: Checkpoint) -> str | None:
    """The token embedding: the one with the most rows that is not a table of positions."""
    layers = checkpoint.layers
    found = [
        tensor
        for name, tensor in checkpoint.tensors.items()
        if layers.of(name).role == "embedding"
        and layers.of(name).block is None
        and len(tensor.shape) == 2
        and layers.of(name).module.split(".")[-1] not in POSITIONS
    ]  # fmt: skip
    return max(found, key=lambda tensor: tensor.shape[0]).name if found else None


def head_name(checkpoint: Checkpoint) -> str | None:
    """The output head's weight, None where it is tied to the embedding (or there is none)."""
    layers = checkpoint.layers
    heads = [
        name
        for name in checkpoint.tensors
        if layers.of(name).role == "head" and name.endswith("weight")
    ]
    return heads[0] if heads else None


def config_problems(checkpoint: Checkpoint) -> tuple[list[str], list[str]]:
    """What of config.json contradicts the tensors: problems (refused) and warnings (told)."""
    config, problems, warnings = checkpoint.config, [], []
    config = (
        {**config, **config["text_config"]}
        if isinstance(config.get("text_config"), dict)
        else config
    )
    blocks = _first(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    found = checkpoint.layers.num_blocks
    if blocks is not None and found != blocks:
        problems.append(f"it says {blocks} blocks, the tensors have {found}")
    name = embedding_name(checkpoint)
    if name is not None:
        rows, columns = checkpoint.tensors[name].shape
        vocabulary = _first(config, "vocab_size")
        width = _first(
            config, "word_embed_proj_dim", "embedding_size", "hidden_size", "n_embd", "d_model"
        )
        if vocabulary is not None and rows != vocabulary:
            problems.append(f"it says a vocabulary of {vocabulary}, {name} has {rows} rows")
        if width is not None and columns != width:
            problems.append(f"it says a width of {width}, {name} has {columns} columns")
    tied = config.get("tie_word_embeddings")
    head = head_name(checkpoint)
    if tied is False and head is None and name is not None:
        problems.append(
            "it says the head is not tied to the embedding, but there is no head among the tensors"
        )
    if tied is True and head is not None:
        warnings.append(
            f"{checkpoint.path.name}: {head} is in the files although config.json ties it to the "
            "embedding"
        )
    return problems, warnings


def read_license(folder: Path) -> str | None:
    """The `license:` (or `license_name:`) line of a model card's front matter."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    try:
        text = card.read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return None
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    if front is None:
        return None
    found = dict(
        re.findall(r"^(license|license_name):[ \t]*[\"']?([^\"'\n]+)", front[1], re.MULTILINE)
    )
    name = found.get("license")
    return found.get("license_name", name) if name in (None, "other") else name
