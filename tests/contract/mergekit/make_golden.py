"""Makes golden/*.safetensors again: what mergekit gives for every recipe here. Run by hand, with
mergekit's own Python:

    python -m venv VENV && VENV/bin/pip install mergekit==0.1.5
    VENV/bin/python tests/contract/mergekit/make_golden.py

Only data is kept, in float32, float16 or the bits of bfloat16, and in golden/versions.json what
made it. mergekit runs as its command line, once per recipe.
"""

import importlib.metadata
import json
import os
import tempfile
from pathlib import Path

import family
import numpy as np
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

HERE = Path(__file__).parent
# Of all recipes; a list of 0.9 to 0.2 over four blocks gives those in the middle.
DENSITIES = (0.01, 0.2, 0.3, 0.31, 0.9 - 1.4 / 3, 0.5, 0.9 - 0.7 / 3, 0.7, 0.8, 0.9)


def check_unique_thresholds(tensors: dict[str, dict[str, np.ndarray]]) -> None:
    """Among equal magnitudes at the threshold it would be left to the sort which one is trimmed."""
    for expert in ("math", "code"):
        for name, values in tensors[expert].items():
            sizes = -np.sort(-np.abs(values - tensors["base"][name]).ravel())
            for density in DENSITIES:
                k = max(1, int(density * sizes.size))
                assert sizes[k - 1] > sizes[k], f"{expert} {name}: equal magnitudes at {density}"


def main() -> None:
    """Run mergekit on every recipe."""
    check_unique_thresholds(family.members())
    options = MergeOptions(copy_tokenizer=False, quiet=True)
    with tempfile.TemporaryDirectory() as made:
        family.write_all(Path(made))
        os.chdir(made)
        for recipe in sorted((HERE / "recipes").glob("*.yaml")):
            given = yaml.safe_load(recipe.read_text())
            out = Path(made) / "out" / recipe.stem
            run_merge(MergeConfiguration.model_validate(given), str(out), options)
            kind = given.get("out_dtype") or given["dtype"]
            dtype = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[kind]
            golden = HERE / "golden" / f"{recipe.stem}.safetensors"
            family.write(golden, family.read(out / "model.safetensors"), dtype)
            print(golden.name, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("mergekit", "torch", "numpy")}
    (HERE / "golden" / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
