"""A tiny family of models written byte by byte, so that tests can also write broken ones.

Needs numpy only. 3 blocks of Llama shapes; `base`, `instruct` tuned from it, `math` and `code`
tuned from that. Every value comes from a seeded generator.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN, INTERMEDIATE, VOCABULARY, BLOCKS = 48, 96, 96, 3
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": BLOCKS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WORDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
Tensors = dict[str, np.ndarray]
"""Tensor name -> fp32 values in their shape."""


def shapes(blocks: int = BLOCKS, vocabulary: int = VOCABULARY) -> dict[str, tuple[int, ...]]:
    """Every tensor of the tiny model, in the order of the names."""
    block = {
        "input_layernorm": (HIDDEN,),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (HIDDEN // 2, HIDDEN),
    }
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (vocabulary, HIDDEN),
        "model.embed_tokens.weight": (vocabulary, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for number in range(blocks):
        found |= {f"model.layers.{number}.{part}.weight": shape for part, shape in block.items()}
    return dict(sorted(found.items()))


def raw_of(values: np.ndarray, dtype: str) -> bytes:
    """fp32 values rounded to nearest even, as the bytes of a file."""
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    bits = values.view(np.uint32).reshape(-1).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    rounded = np.where(np.isnan(values.reshape(-1)), 0x7FC0, rounded)
    return rounded.astype(np.uint16).tobytes()


def values_of(raw: bytes, dtype: str) -> np.ndarray:
    """The fp32 values that a file's bytes stand for."""
    if dtype == "F32":
        return np.frombuffer(raw, np.float32)
    if dtype == "F16":
        return np.frombuffer(raw, np.float16).astype(np.float32)
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """fp32 values after a trip through a file of another dtype."""
    return values_of(raw_of(values, dtype), dtype).reshape(values.shape)


def write_safetensors(
    file: Path, entries: Mapping[str, tuple[str, tuple[int, ...], bytes]]
) -> None:
    """A safetensors file from name -> (dtype, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, raw) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    write_raw(file, header, b"".join(raw for _, _, raw in entries.values()))


def write_raw(file: Path, header: Any, data: bytes) -> None:
    """A safetensors file with any header, right or wrong (text or bytes are taken as they are)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_model(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    dtype: str | Mapping[str, str] = "BF16",
    *,
    shards: int = 1,
    order: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A model folder; `order` -1 writes the tensors backwards."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)[::order]

    def dtype_of(name: str) -> str:
        return dtype if isinstance(dtype, str) else dtype[name]

    entries = {
        name: (dtype_of(name), tensors[name].shape, raw_of(tensors[name], dtype_of(name)))
        for name in names
    }
    first = WORDS[dtype_of(names[0])]
    told = CONFIG | {"dtype": first} | dict(config or {})
    (folder / "config.json").write_text(json.dumps(told, indent=2))
    if shards == 1:
        write_safetensors(folder / "model.safetensors", entries)
        return folder
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: files[i * shards // len(names)] for i, name in enumerate(names)}
    for file in files:
        mine = {name: entries[name] for name in names if weight_map[name] == file}
        write_safetensors(folder / file, mine)
    total = sum(len(raw) for _, _, raw in entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def read_raw(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """name -> (dtype, shape, bytes) over all weight files of a folder."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        raw = file.read_bytes()
        begin = 8 + int.from_bytes(raw[:8], "little")
        for name, entry in json.loads(raw[8:begin]).items():
            if name != "__metadata__":
                first, last = (begin + at for at in entry["data_offsets"])
                found[name] = (entry["dtype"], tuple(entry["shape"]), raw[first:last])
    return found


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Tensor name -> its bytes."""
    return {name: raw for name, (_, _, raw) in read_raw(folder).items()}


def read_model(folder: Path) -> Tensors:
    """Tensor name -> fp32 values."""
    return {name: values_of(raw, d).reshape(s) for name, (d, s, raw) in read_raw(folder).items()}


def random_model(seed: int = 0, blocks: int = BLOCKS, vocabulary: int = VOCABULARY) -> Tensors:
    """Bell-shaped weights of spread .1; norms about 1."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes(blocks, vocabulary).items():
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
        found[name] = values + np.float32(1.0) if len(shape) == 1 else values
    return found


def moved(tensors: Tensors, seed: int, size: float = 0.01) -> Tensors:
    """The model after a random step of that size."""
    rng = np.random.default_rng(seed)
    step = np.float32(size)
    return {
        n: v + rng.standard_normal(v.shape).astype(np.float32) * step for n, v in tensors.items()
    }


def members(blocks: int = BLOCKS, vocabulary: int = VOCABULARY) -> dict[str, Tensors]:
    """base, instruct, math, code as fp32 values."""
    base = random_model(0, blocks, vocabulary)
    instruct = moved(base, 1, 0.02)
    return {
        "base": base,
        "instruct": instruct,
        "math": moved(instruct, 2, 0.01),
        "code": moved(instruct, 3, 0.006),
    }


def write_family(folder: Path, dtype: str = "BF16") -> dict[str, Path]:
    """All members as folders."""
    return {name: write_model(folder / name, one, dtype) for name, one in members().items()}


LINEARS = tuple(
    f"{block}.{module}"
    for block in range(BLOCKS)
    for module in (
        *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
        *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    )
)
RANKED = {
    "module": LINEARS,
    "sublayer": tuple(f"{b}.{part}" for b in range(BLOCKS) for part in ("attention", "mlp")),
    "block": tuple(str(block) for block in range(BLOCKS)),
}


def write_ranking(folder: Path, grain: str = "module", **more: Any) -> dict[str, float]:
    """`ranked.json`, scores of the instruct model by a fixed shuffle; returns its values."""
    from lamina.weights.checkpoint import open_checkpoint

    drawn = np.random.default_rng(7).permutation(len(RANKED[grain]))
    values = {unit: float(n) for unit, n in zip(RANKED[grain], drawn, strict=True)}
    told = {
        "schema": "lamina.scores/1",
        "method": "integrate",
        "unit": "nats",
        "granularity": grain,
        "higher_means": "the loss rises more without it",
        "values": values,
        "model": "./instruct",
        "inputs": {"model": open_checkpoint(folder / "instruct").fingerprint, "data": "abc"},
        "prefix": "model.layers",
    }
    (folder / "ranked.json").write_text(json.dumps(told | more))
    return values


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder with a hash of its bytes and its time."""
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


LATA = """\
merge_method: lata
base_model: ./base
instruct_model: ./instruct
models:
  - {model: ./math, parameters: {weight: 0.5}}
  - {model: ./code, parameters: {weight: 0.5}}
parameters: {rule: linear_drop, granularity: block, others: keep}
dtype: bfloat16
"""
ARITHMETIC = """\
merge_method: task_arithmetic
base_model: ./instruct
models:
  - {model: ./math, parameters: {weight: 0.5}}
  - {model: ./code, parameters: {weight: 0.25}}
dtype: bfloat16
"""
