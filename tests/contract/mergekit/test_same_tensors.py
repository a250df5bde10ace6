"""lamina gives the tensors that mergekit gave for the same files: see make_golden.py."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lamina.jobs import run_merge

HERE = Path(__file__).parent
RECIPES = sorted((HERE / "recipes").glob("*.yaml"))
# Multiplied and added in the same order, rounded alike: nothing may differ.
EXACT = {
    "dare_linear_all_kept",
    "dare_ties_all_kept",
    "task_arithmetic",
    "task_arithmetic_bf16",
    "task_arithmetic_gradients",
    "ties",
    "ties_bf16",
    "ties_not_normalized",
    "ties_small_density",
}
# The others differ in rounding: of a sum over the tensor (slerp's cosine, the rescaling), of a
# fused multiply-add (linear), of lambda and divisor as one factor (task_arithmetic).
STEPS = 4 * float(np.finfo(np.float32).eps)


def load_family() -> ModuleType:
    """family.py beside this file."""
    spec = importlib.util.spec_from_file_location("mergekit_family", HERE / "family.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


family = load_family()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the six models."""
    folder = tmp_path_factory.mktemp("family")
    family.write_all(folder)
    return folder


def in_float32(values: np.ndarray) -> np.ndarray:
    """Values of any stored dtype."""
    return family.from_bf16(values) if values.dtype == np.uint16 else values.astype(np.float32)


def test_every_recipe_has_a_golden_file() -> None:
    assert len(RECIPES) == 16
    golden = sorted((HERE / "golden").glob("*.safetensors"))
    assert [path.stem for path in golden] == [path.stem for path in RECIPES]
    assert sum(path.stat().st_size for path in golden) < 1_000_000
    assert set(json.loads((HERE / "golden" / "versions.json").read_text())) >= {"mergekit", "torch"}
    assert {path.stem for path in RECIPES} >= EXACT


@pytest.mark.parametrize("recipe", RECIPES, ids=[path.stem for path in RECIPES])
def test_merge_equals_mergekit(recipe: Path, models: Path, tmp_path: Path) -> None:
    config = models / recipe.name
    config.write_text(recipe.read_text())
    run_merge(config, tmp_path / "out")
    merged = family.read(tmp_path / "out" / "model.safetensors")
    golden = family.read(HERE / "golden" / f"{recipe.stem}.safetensors")
    assert sorted(merged) == sorted(golden) == sorted(family.shapes())
    different = {}
    for name, wanted in golden.items():
        assert merged[name].dtype == wanted.dtype, name
        assert merged[name].shape == wanted.shape, name
        gap = np.abs(in_float32(merged[name]) - in_float32(wanted))
        if wanted.dtype == np.float32 and recipe.stem not in EXACT:
            gap = np.maximum(gap - STEPS * np.maximum(np.abs(wanted), 1), 0)
        elif recipe.stem not in EXACT:
            gap = np.maximum(gap - 2.0**-10 * np.abs(in_float32(wanted)), 0)
        if gap.any():
            different[name] = float(gap.max())
    assert not different
