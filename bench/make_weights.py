"""Random bf16 weights of TinyLlama-1.1B's shapes, to measure merges on: a base, an instruct model
and two experts.

    python bench/make_weights.py DIR [--scale 2] [--blocks 22] [--shards 2] [--seed 0]

Makes DIR/base, DIR/instruct, DIR/math and DIR/code, 2.2 GB each (times about the scale, which
multiplies the blocks). The base is normal(0, .02); the instruct model is the base plus a noise that
grows with the block; each expert is the instruct model plus smaller noise. So task vectors, signs
and LATA's cosines all mean something. Needs numpy only, holds a few tens of MB, writes all four in
one pass. A folder that is complete is kept as it is.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, VOCABULARY, BLOCKS = 2048, 32, 4, 5632, 32000, 22
MODELS = ("base", "instruct", "math", "code")
CHUNK = 4 * 2**20
DONE = "complete.json"


def shapes(num_blocks: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama of these sizes, in the order transformers writes them: by name."""
    kv = HIDDEN // HEADS * KV_HEADS
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for block in range(num_blocks):
        parts: dict[str, tuple[int, ...]] = {
            "input_layernorm": (HIDDEN,),
            "mlp.down_proj": (HIDDEN, INTERMEDIATE),
            "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
            "mlp.up_proj": (INTERMEDIATE, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "self_attn.k_proj": (kv, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.v_proj": (kv, HIDDEN),
        }
        found |= {f"model.layers.{block}.{part}.weight": shape for part, shape in parts.items()}
    return dict(sorted(found.items()))


def config(num_blocks: int) -> dict[str, object]:
    """What transformers and mergekit need to know of the model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_hidden_layers": num_blocks,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 rounded to bfloat16, nearest even, as its 16 bits."""
    bits = values.view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def values_of(name: str, size: int, num_blocks: int, seed: int) -> Iterator[list[np.ndarray]]:
    """The values of one tensor, chunk by chunk, for each of the four models."""
    key = int.from_bytes(name.encode()[-8:], "little") ^ len(name)
    rng = np.random.Generator(np.random.SFC64([seed, key, *name.encode()]))
    parts = name.split(".")
    block = int(parts[2]) if parts[1] == "layers" else 0
    drift = np.float32(4e-4 + 8e-4 * block / num_blocks)
    centre = np.float32(1.0 if "norm" in name else 0.0)
    for start in range(0, size, CHUNK):
        count = min(CHUNK, size - start)
        base = centre + np.float32(0.02) * rng.standard_normal(count, dtype=np.float32)
        instruct = base + drift * rng.standard_normal(count, dtype=np.float32)
        experts = [
            instruct + np.float32(4e-4) * rng.standard_normal(count, dtype=np.float32)
            for _ in MODELS[2:]
        ]
        yield [to_bf16(values) for values in (base, instruct, *experts)]


def write_header(file: BinaryIO, tensors: dict[str, tuple[int, ...]]) -> None:
    """A safetensors header for these tensors, one after the other."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        end = offset + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def split(tensors: dict[str, tuple[int, ...]], num_shards: int) -> list[dict[str, tuple[int, ...]]]:
    """The tensors over shards of about the same size, in order."""
    total = sum(int(np.prod(shape)) for shape in tensors.values())
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(num_shards)]
    done = 0
    for name, shape in tensors.items():
        shards[min(num_shards - 1, done * num_shards // total)][name] = shape
        done += int(np.prod(shape))
    return shards


def make(folder: Path, *, scale: int, num_shards: int, seed: int, blocks: int = BLOCKS) -> None:
    """Write the four models, unless they lie there complete with the same settings."""
    settings: dict[str, int] = {"scale": scale, "shards": num_shards, "seed": seed, "version": 1}
    settings |= {} if blocks == BLOCKS else {"blocks": blocks}
    done = folder / DONE
    if done.exists() and json.loads(done.read_text()) == settings:
        return
    num_blocks = blocks * scale
    tensors = shapes(num_blocks)
    shards = split(tensors, num_shards)
    names = [
        "model.safetensors"
        if num_shards == 1
        else f"model-{i + 1:05d}-of-{num_shards:05d}.safetensors"
        for i in range(num_shards)
    ]
    for model in MODELS:
        shutil.rmtree(folder / model, ignore_errors=True)
        (folder / model).mkdir(parents=True)
        (folder / model / "config.json").write_text(json.dumps(config(num_blocks), indent=2) + "\n")
        if num_shards > 1:
            weight_map = {t: n for shard, n in zip(shards, names, strict=True) for t in shard}
            total = 2 * sum(int(np.prod(shape)) for shape in tensors.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (folder / model / "model.safetensors.index.json").write_text(
                json.dumps(index, indent=2)
            )
    for shard, file_name in zip(shards, names, strict=True):
        files = [(folder / model / file_name).open("wb") for model in MODELS]
        for file in files:
            write_header(file, shard)
        for name, shape in shard.items():
            for chunks in values_of(name, int(np.prod(shape)), num_blocks, seed):
                for file, chunk in zip(files, chunks, strict=True):
                    file.write(chunk.tobytes())
        for file in files:
            file.close()
    done.write_text(json.dumps(settings) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=1, help="times as many blocks")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="blocks, before the scale")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make(
        given.folder,
        scale=given.scale,
        num_shards=given.shards,
        seed=given.seed,
        blocks=given.blocks,
    )
    print(f"{given.folder}: {', '.join(MODELS)}")


if __name__ == "__main__":
    main()
