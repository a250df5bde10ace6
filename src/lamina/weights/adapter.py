"""A PEFT LoRA adapter as a lazy expert: base + scale * B A, chunk by chunk, never merged on disk.

Ranks and alphas are those of each module (`rank_pattern`, `alpha_pattern`), rsLoRA and saved biases
or whole modules are honoured as PEFT does (LoRA: arXiv 2106.09685; rsLoRA: 2312.03732). What
changes the weights in another way (DoRA, PiSSA and so on) is refused in words, never approximated.
Headers only, no numpy: `weights.sources` does the arithmetic.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lamina.core.errors import CheckpointError
from lamina.weights.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Checkpoint,
    embedding_name,
    file_identities,
    head_name,
    inside,
    model_folder,
    read_json_object,
    read_license,
    sample_file,
)
from lamina.weights.headers import FLOATS, Header, TensorInfo, read_header

_PREFIX = "base_model.model."
_REFUSED = {
    "use_dora": "DoRA rescales every column of the merged weight",
    "use_qalora": "QALoRA pools the inputs",
    "lora_bias": "a bias on lora_B",
    "trainable_token_indices": "single trained token rows",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA on bare parameters (fused experts)",
    "alora_invocation_tokens": "activated LoRA works for some tokens only",
    "arrow_config": "Arrow routes between adapters",
    "use_bdlora": "block-diagonal LoRA",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
_REFUSED_INIT = ("pissa", "olora", "loftq", "corda", "lora_ga")
CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
CONV1D_MODULES = frozenset({"c_attn", "c_proj", "c_fc", "q_attn"})
"""Modules whose weights transformers stores as [in, out]."""


@dataclass(frozen=True, slots=True)
class LoraFactors:
    """One module's factors: delta = scale * B A, transposed where weights are [in, out]."""

    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool


@dataclass(frozen=True)
class Adapter:
    """A checked adapter folder: factors per module path, and whole tensors that it replaces."""

    path: Path
    config: Mapping[str, Any]
    header: Header
    modules: Mapping[str, tuple[TensorInfo, TensorInfo, float]]
    """Module path (`model.layers.0.self_attn.q_proj`) -> A, B, scale."""
    replaced: Mapping[str, TensorInfo]
    """Tensor name -> the adapter's own whole tensor (biases, `modules_to_save`)."""

    @property
    def base_name(self) -> str | None:
        """What the adapter says it was trained on."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same contents, as `Checkpoint.fingerprint`."""
        digest = hashlib.blake2b(digest_size=16)
        sample_file(self.header, digest)
        digest.update((self.path / ADAPTER_CONFIG).read_bytes())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> str:
        """The fingerprint and which very file this is."""
        return f"{self.fingerprint}@{file_identities([self.header])}"

    @cached_property
    def license(self) -> str | None:
        return read_license(self.path)


@dataclass(frozen=True)
class AdaptedCheckpoint:
    """A base and an adapter seen as one checkpoint: same names and shapes as the base."""

    base: Checkpoint
    adapter: Adapter
    factors: Mapping[str, LoraFactors]
    replaced: Mapping[str, TensorInfo]

    @property
    def path(self) -> Path:
        return self.adapter.path

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.base.tensors

    @property
    def fingerprint(self) -> str:
        return f"{self.base.fingerprint}+{self.adapter.fingerprint}"

    @property
    def identity(self) -> str:
        return f"{self.base.identity}+{self.adapter.identity}"

    @property
    def license(self) -> str | None:
        return self.adapter.license or self.base.license


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no whole model."""
    return (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file()


def open_adapter(path: Path) -> Adapter:
    """The adapter in a folder, checked from its config and header.

    Raises:
        CheckpointError: not a LoRA adapter, a kind that is not supported, or factors that do not
            belong together.
    """
    folder = model_folder(path)
    config = read_json_object(inside(folder, ADAPTER_CONFIG))
    _refuse_kinds(folder, config)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise CheckpointError(
            f"{folder} has no {ADAPTER_WEIGHTS}"
            + (
                " but a pickled adapter_model.bin, which can run code when opened: refused."
                if pickled
                else "."
            )
            + " Save it again with PEFT's save_pretrained(safe_serialization=True)."
        )
    header = read_header(inside(folder, ADAPTER_WEIGHTS))
    factors: dict[str, dict[str, TensorInfo]] = {}
    replaced: dict[str, TensorInfo] = {}
    problems: list[str] = []
    for tensor in header.tensors:
        name = tensor.name.removeprefix(_PREFIX)
        if tensor.dtype not in FLOATS:
            problems.append(f"{name}: dtype {tensor.dtype}; float32, float16 or bfloat16 is needed")
        kind = re.fullmatch(r"(.+)\.lora_(A|B|embedding_A|embedding_B)(\.weight)?", name)
        if kind is not None:
            factors.setdefault(kind[1], {})[kind[2]] = tensor
        elif "lora_magnitude_vector" in name:
            problems.append(f"{name}: a DoRA magnitude")
        elif ".lora_" in name or "token_adapter" in name:
            problems.append(f"{name}: not a tensor of plain LoRA")
        else:
            replaced[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor
    modules = {}
    for module, pair in factors.items():
        scale = _scale(config, module, pair, problems)
        if scale is not None:
            first, second = (
                (pair["A"], pair["B"])
                if "A" in pair
                else (pair["embedding_A"], pair["embedding_B"])
            )
            modules[module] = (first, second, scale)
    if not modules and not replaced and not problems:
        problems.append("it holds no LoRA factor")
    if problems:
        raise CheckpointError(
            f"{folder} cannot be used as a LoRA adapter:\n  " + "\n  ".join(problems[:20])
        )
    return Adapter(folder, config, header, modules, replaced)


def _refuse_kinds(folder: Path, config: Mapping[str, Any]) -> None:
    reasons = []
    if config.get("peft_type") != "LORA":
        reasons.append(f"peft_type {config.get('peft_type')!r}; LORA is needed")
    reasons += [f"{key}: {why}" for key, why in _REFUSED.items() if config.get(key)]
    reasons += [
        f"{key}: {config[key]!r:.80}; a table of modules is needed"
        for key in ("rank_pattern", "alpha_pattern")
        if config.get(key) and not isinstance(config[key], dict)
    ]
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_REFUSED_INIT):
        reasons.append(f"init_lora_weights: {start} changed the base's own weights first")
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        reasons.append(f"bias: {config.get('bias')!r}")
    if reasons:
        raise CheckpointError(
            f"{folder}: this kind of adapter is not supported:\n  "
            + "\n  ".join(reasons)
            + "\nMerge it into its base with PEFT (`PeftModel.from_pretrained(...)"
            ".merge_and_unload().save_pretrained(OUT)`) and give that folder."
        )


def _pattern(table: Any, module: str, default: Any) -> Any:
    """The value of a module in `rank_pattern` or `alpha_pattern`, as PEFT looks it up.

    The first key that, as a regular expression, matches the path or its end after a dot.
    """
    for key, value in (table or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error:
            continue
    return default


def _scale(
    config: Mapping[str, Any], module: str, pair: Mapping[str, TensorInfo], problems: list[str]
) -> float | None:
    if set(pair) not in ({"A", "B"}, {"embedding_A", "embedding_B"}):
        problems.append(f"{module}: has only lora_{'/'.join(sorted(pair))}")
        return None
    first, second = (pair[key].shape for key in sorted(pair))
    if len(first) != 2 or len(second) != 2 or first[0] != second[1] or 0 in first + second:
        problems.append(
            f"{module}: factors {list(first)} and {list(second)} do not belong together"
        )
        return None
    rank = first[0]
    said = _pattern(config.get("rank_pattern"), module, config.get("r"))
    alpha = _pattern(config.get("alpha_pattern"), module, config.get("lora_alpha"))
    if said != rank:
        problems.append(f"{module}: rank {rank} in the file, {said} in {ADAPTER_CONFIG}")
        return None
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        problems.append(f"{module}: lora_alpha is {alpha!r}")
        return None
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def adapt(base: Checkpoint, adapter: Adapter) -> AdaptedCheckpoint:
    """The adapter on a base: every module found by its whole path, every shape checked.

    LoRA on a tied embedding moves the head too, as in PEFT's merge (in training it did not).

    Raises:
        CheckpointError: modules that the base does not have or whose shapes differ, all in one
            message.
    """
    problems: list[str] = []
    factors: dict[str, LoraFactors] = {}
    replaced: dict[str, TensorInfo] = {}
    names = _by_suffix(base)
    for module, (a, b, scale) in adapter.modules.items():
        name = names.get(f"{module}.weight") or names.get(_inner(f"{module}.weight"))
        if name is None:
            problems.append(f"{module}: no such module in the base")
            continue
        straight, flipped = (b.shape[0], a.shape[1]), (a.shape[1], b.shape[0])
        shape = base.tensors[name].shape
        transposed = _is_transposed(base, adapter, name, a, shape == flipped != straight)
        needed = flipped if transposed else straight
        if shape != needed:
            problems.append(
                f"{name}: {list(shape)} in the base, the adapter's delta is {list(needed)}"
            )
        elif name in factors:
            problems.append(f"{name}: two modules of the adapter ({module}) mean this one tensor")
        else:
            factors[name] = LoraFactors(a, b, scale, transposed)
    for name, tensor in adapter.replaced.items():
        found = names.get(name) or names.get(_inner(name))
        if found is None and name == "lm_head.weight":
            found = head_name(base)  # GPT-NeoX: `embed_out` in files, `lm_head` in memory
        if found is None:
            problems.append(
                f"{name}: no such tensor in the base (a tied head cannot be replaced alone)"
            )
        elif base.tensors[found].shape != tensor.shape:
            problems.append(
                f"{found}: {list(base.tensors[found].shape)} in the base, {list(tensor.shape)} in "
                "the adapter"
            )
        elif found == embedding_name(base) and head_name(base) is None and _trained(adapter, name):
            problems.append(
                f"{found}: trained whole, but the base's head is tied to it and PEFT leaves the "
                "head as it was; merge it with PEFT, which unties them"
            )
        else:
            replaced[found] = tensor
    if problems:
        raise CheckpointError(
            f"the adapter {adapter.path} does not fit the base {base.path} ({len(problems)} of "
            f"{len(adapter.modules) + len(adapter.replaced)} modules):\n  "
            + "\n  ".join(problems[:20])
            + f"\nIt was trained on {adapter.base_name or 'a base that it does not name'}."
        )
    return AdaptedCheckpoint(base, adapter, factors, replaced)


def _trained(adapter: Adapter, name: str) -> bool:
    """Whether a whole tensor was trained (`modules_to_save`), not only saved along with LoRA."""
    module, kept = name.rpartition(".")[0], adapter.config.get("modules_to_save")
    return any(module.endswith(str(key)) for key in kept or [])


def _is_transposed(
    base: Checkpoint, adapter: Adapter, name: str, a: TensorInfo, looks_so: bool
) -> bool:
    """Whether a weight is stored as [in, out], so that the delta is (B A) transposed.

    Embeddings always, GPT-2's Conv1D by name: PEFT's `fan_in_fan_out` is one flag for the whole
    adapter and holds what its last module was. It only decides for square weights of other models.
    """
    if a.name.endswith("lora_embedding_A"):
        return True
    if base.config.get("model_type") in CONV1D_MODELS:
        return name.split(".")[-2] in CONV1D_MODULES
    square = len(set(base.tensors[name].shape)) == 1
    return bool(adapter.config.get("fan_in_fan_out")) if square else looks_so


def _inner(name: str) -> str:
    """The name without the outermost module (`transformer.h.0` is `h.0` in some files)."""
    return name.partition(".")[2]


def _by_suffix(base: Checkpoint) -> dict[str, str]:
    """Names as a loaded model has them -> names in the files.

    The same, or without the outermost module in either.
    """
    table = {_inner(name): name for name in base.tensors if base.layers.of(name).block is not None}
    table.update({name: name for name in base.tensors})
    return table
