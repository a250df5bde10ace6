"""A tiny Llama family, the same bits on every machine, for the comparison with mergekit. Needs
numpy only.

4 blocks, 16 hidden, 9 thousand values: `base`, `math`, `code` in float32 and `base16`, `math16`,
`code16` in bfloat16. The values come from an integer hash and exact float32 sums, so no library's
random numbers or logarithms are in them.
"""

import json
from pathlib import Path

import numpy as np

HIDDEN, KV, INTERMEDIATE, VOCABULARY, BLOCKS = 16, 8, 24, 40, 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": BLOCKS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the tiny model."""
    block = {
        "input_layernorm": (HIDDEN,),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.k_proj": (KV, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.v_proj": (KV, HIDDEN),
    }
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for number in range(BLOCKS):
        found |= {f"model.layers.{number}.{part}.weight": shape for part, shape in block.items()}
    return found


def noise(seed: int, count: int) -> np.ndarray:
    """Bell-shaped float32 values of about unit spread: sums of four hashed numbers, exact."""
    total = np.zeros(count, np.int64)
    for part in range(4):
        keys = np.arange(count, dtype=np.uint64) * np.uint64(4) + np.uint64(part)
        with np.errstate(over="ignore"):
            x = keys + np.uint64(seed) * np.uint64(0x100000001B3)
            x = x * np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total += ((x ^ (x >> np.uint64(31))) >> np.uint64(42)).astype(np.int64) - 2**21
    return (total.astype(np.float64) * 2.0**-21).astype(np.float32)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """The 16 bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (
        (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def members() -> dict[str, dict[str, np.ndarray]]:
    """The tensors of all six models."""
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in ("base", "math", "code")}
    for place, (name, shape) in enumerate(sorted(shapes().items())):
        count = int(np.prod(shape))
        centre = np.float32(1 if "norm" in name else 0)
        base = centre + np.float32(0.0625) * noise(3 * place, count)
        found["base"][name] = base.reshape(shape)
        for offset, member in ((1, "math"), (2, "code")):
            moved = base + np.float32(0.03125) * noise(3 * place + offset, count)
            found[member][name] = moved.reshape(shape)
    half = {f"{m}16": {n: to_bf16(v) for n, v in tensors.items()} for m, tensors in found.items()}
    return found | half


def write(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    """A safetensors file."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in sorted(tensors.items()):
        raw = values.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        entries[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; bfloat16 as its bits."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    found: dict[str, np.ndarray] = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            low, high = (start + offset for offset in entry["data_offsets"])
            values = np.frombuffer(raw[low:high], NUMPY_TYPES[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


def write_all(folder: Path) -> None:
    """The six model folders."""
    for member, tensors in members().items():
        dtype = "BF16" if member.endswith("16") else "F32"
        (folder / member).mkdir(parents=True)
        kind = "bfloat16" if dtype == "BF16" else "float32"
        (folder / member / "config.json").write_text(json.dumps(CONFIG | {"torch_dtype": kind}))
        write(folder / member / "model.safetensors", tensors, dtype)
