"""Whether two files of bf16 weights hold the same values: `python bench/same_tensors.py A B`.

With `--weights DIR --density D` the files are TIES merges of make_weights.py's models. Then a value
may differ where an expert's task vector has exactly the magnitude of the trim's threshold: among
equal magnitudes, common in bf16, mergekit keeps arbitrary ones and lamina the first. Ends with 1
when anything else differs. Holds a few copies of one tensor.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np


def open_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a bf16 safetensors file, as its bits, mapped."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}"
            low, high = entry["data_offsets"]
            found[name] = data[low:high].view(np.uint16)
    return found


def at_threshold(base: np.ndarray, expert: np.ndarray, density: float) -> np.ndarray:
    """Where the difference of two bf16 tensors has the magnitude of the last value that is kept."""
    size = np.abs(in_float32(expert) - in_float32(base))
    k = max(1, int(density * size.size))
    return size == np.partition(size, size.size - k)[size.size - k]


def in_float32(bits: np.ndarray) -> np.ndarray:
    """The values of bf16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--density", type=float)
    given = parser.parse_args()
    first, second = open_tensors(given.first), open_tensors(given.second)
    assert first.keys() == second.keys(), "the files hold tensors of different names"
    models = {}
    if given.weights:
        models = {
            name: open_tensors(given.weights / name / "model.safetensors")
            for name in ("instruct", "math", "code")
        }
    different = unexplained = total = 0
    for name in sorted(first):
        total += first[name].size
        unequal = first[name] != second[name]
        count = int(np.count_nonzero(unequal))
        different += count
        if count and models:
            for expert in ("math", "code"):
                base = models["instruct"][name]
                unequal &= ~at_threshold(base, models[expert][name], given.density)
            count = int(np.count_nonzero(unequal))
        unexplained += count
    print(
        f"{len(first)} tensors, {different:,} of {total:,} values differ"
        + (f", {unexplained:,} not at a threshold" if models else "")
    )
    sys.exit(unexplained > 0)


if __name__ == "__main__":
    main()
