"""Finding a model's files and loading them: a folder, an adapter's folder, or a hub name.

Everything that can be refused is refused from the small files, before weights are read. Only
safetensors weights are loaded (a pickle can run code), and no code that comes with a model unless
the user asks for it. torch and transformers are imported when a model is loaded, not with this
file. Memory is one model's weights in the asked dtype; an adapter is merged into its base.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import CheckpointError
from lamina.weights.adapter import is_adapter
from lamina.weights.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    file_identities,
    open_checkpoint,
    read_json_object,
    sample_file,
)
from lamina.weights.headers import read_header
from lamina.weights.locate import locate

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_SMALL = (".json", ".jinja", ".model", ".txt")
"""Endings of a model's files besides its weights."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model lies: nothing is loaded yet, everything small is checked."""

    name: str
    """As the user wrote it."""
    folder: Path
    adapter: Path | None
    """The adapter's folder; `folder` is then its base."""

    @property
    def tokenizer_folder(self) -> Path:
        if self.adapter is not None and _has_tokenizer(self.adapter):
            return self.adapter
        return self.folder


def find_model(model: Path | str, *, base: Path | str | None = None) -> Source:
    """Where a model's files are, checked as far as the small files go.

    Args:
        model: a folder, `base+adapter`, or the name of a model on the hub, which is then
            downloaded.
        base: for an adapter, the model it was trained on; else its `adapter_config.json` says,
            by a path from the adapter's folder, from here, or by a hub name.

    Raises:
        CheckpointError: no such folder or name, or not a model that can be loaded.
    """
    name = str(model)
    first, plus, second = name.partition("+")
    if plus and not Path(name).expanduser().exists():
        name, base = second, first
    folder = locate(name)
    if not is_adapter(folder):
        _check_folder(folder)
        return Source(str(model), folder, None)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER_WEIGHTS}. Pickled adapters (.bin) are "
            "not read, as they can run code: load it with PEFT and `save_pretrained` it again."
        )
    read_header(folder / ADAPTER_WEIGHTS)
    base_folder = _base_folder(folder, base)
    if is_adapter(base_folder):
        raise CheckpointError(
            f"The base of the adapter {folder} is {base_folder}, itself an adapter. "
            "Merge that one into its own base first."
        )
    _check_folder(base_folder)
    return Source(str(model), base_folder, folder)


def fingerprint(source: Source) -> str:
    """The same for the same weights, wherever they lie; an adapter's with its base's."""
    base = open_checkpoint(source.folder).fingerprint
    if source.adapter is None:
        return base
    digest = hashlib.blake2b((source.adapter / ADAPTER_CONFIG).read_bytes(), digest_size=16)
    sample_file(read_header(source.adapter / ADAPTER_WEIGHTS), digest)
    return f"{base}+{digest.hexdigest()}"


def identity(source: Source) -> str:
    """What a cache of a model's answers must look at: which very files hold its weights, and all
    that its small files say (settings, also for generation; tokenizer; chat template)."""
    told = open_checkpoint(source.folder).identity
    folders = [source.folder]
    if source.adapter is not None:
        told += f"+{file_identities([read_header(source.adapter / ADAPTER_WEIGHTS)])}"
        folders.append(source.adapter)
    digest = hashlib.blake2b(digest_size=16)
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.suffix in _SMALL and file.is_file():
                content = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
                digest.update(f"{file.name}\0{content}\0".encode())
        digest.update(b"\0")
    return f"{told}/{digest.hexdigest()}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the advice of transformers, PEFT and the hub library."""
    from transformers.utils import logging as transformers_logging

    names = ("huggingface_hub", "peft")
    levels = {name: logging.getLogger(name).level for name in names}
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


# ---- finding ------------------------------------------------------------------------------------


def _base_folder(adapter: Path, base: Path | str | None) -> Path:
    if base is not None:
        return locate(str(base))
    named = read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{adapter / ADAPTER_CONFIG} does not name its base (`base_model_name_or_path`). "
            "Say it with `base`."
        )
    try:
        return locate(named, adapter)
    except CheckpointError as error:
        raise CheckpointError(
            f"The adapter {adapter} was trained on `{named}`, which is not found from the "
            f"adapter's folder or from here. {error} Say where the base is with `base`."
        ) from None


def _check_folder(folder: Path) -> None:
    """Headers, index and config, as for a merge; a link or a shard out of the folder is refused."""
    open_checkpoint(folder)
    if not _has_tokenizer(folder):
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json). "
            "Copy it from the model this one was made from."
        )


def _has_tokenizer(folder: Path) -> bool:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    return any((folder / name).is_file() for name in names)


# ---- loading ------------------------------------------------------------------------------------


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    folder = source.tokenizer_folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(
            f"The tokenizer of {folder} does not load: {first_line(error)}"
        ) from error
    assert tokenizer is not None, f"no tokenizer class for {folder}"
    return tokenizer


def load_network(
    source: Source, dtype: torch.dtype | str, *, attention: str | None = None
) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **({} if attention is None else {"attn_implementation": attention}),
        )
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError,
        SafetensorError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{source.folder} does not load: {first_line(error)}") from error
    _check_report(source.folder, report)
    return network if source.adapter is None else _merged(network, source.adapter)


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    """A tensor that is missing would be random, and the loss a number about nothing."""
    missing = sorted(report["missing_keys"])
    unfit = sorted(key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])
    for names, what in ((missing, "missing"), (unfit, "of another shape than config.json says")):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            raise CheckpointError(
                f"{folder}: {len(names)} of the model's tensors are {what}: {shown}. "
                "A loss would be that of random weights; get the whole model."
            )


def _merged(network: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        return PeftModel.from_pretrained(
            network, str(adapter), local_files_only=True
        ).merge_and_unload()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"The adapter {adapter} does not fit its base {network.name_or_path}: "
            f"{first_line(error)} Say the right base with `base`."
        ) from error


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(" .:") + "."
