"""TIES' threshold is the exact k-th largest magnitude, of a tensor and of a whole model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_family as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lamina.core.errors import RecipeError
from lamina.jobs import run_merge
from lamina.merge.recipe import from_dict
from lamina.merge.thresholds import BINS, find_bin
from lamina.weights import stream

F = np.float32


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_find_bin(counts: list[int], data: st.DataObject) -> None:
    total = sum(counts)
    if not total:
        return
    keep = data.draw(st.integers(1, total))
    place, quota = find_bin(np.array(counts), keep)
    values = np.repeat(np.arange(len(counts)), counts)[::-1]
    assert place == values[keep - 1]
    assert quota == keep - int((values > place).sum())
    assert 1 <= quota <= counts[place]


def two_passes(values: np.ndarray, keep: int) -> tuple[int, int]:
    """The threshold's bits and quota by the kernel, as `tensor_threshold` finds them."""
    from lamina.weights import kernels

    def histogram(within: int) -> np.ndarray:
        counts = np.zeros(BINS, np.int64)
        at = np.uint64(values.ctypes.data)
        nothing = np.uint64(0)
        kernels.count_magnitudes(values.size, nothing, 0, at, 0, F(1), counts, within)
        return counts

    upper, left = find_bin(histogram(-1), keep)
    lower, quota = find_bin(histogram(upper), left)
    return upper << 16 | lower, quota


@given(
    hnp.arrays(F, st.integers(1, 300), elements=st.floats(-1e3, 1e3, width=32)),
    st.data(),
)
def test_threshold_is_what_sorting_finds(values: np.ndarray, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, values.size))
    bits, quota = two_passes(values, keep)
    magnitudes = np.abs(values)
    wanted = np.sort(magnitudes)[::-1][keep - 1]
    assert np.uint32(bits) == wanted.view(np.uint32)
    assert quota == keep - int((magnitudes > wanted).sum())


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tf.write_family(tmp_path_factory.mktemp("family"), "BF16")


def ties(members: dict[str, Path], file: Path, density: float, scope: str, **more: Any) -> Path:
    text = {
        "merge_method": "ties",
        "base_model": str(members["instruct"]),
        "models": [{"model": str(members["math"]), "parameters": {"weight": 1}}],
        "parameters": {"density": density, "normalize": False, "scope": scope} | more,
        "dtype": "float32",
    }
    file.write_text(json.dumps(text))
    return file


def kept(members: dict[str, Path], out: Path) -> dict[str, np.ndarray]:
    """Tensor name -> where the output is not the reference; and it is then the expert."""
    reference, expert = tf.read_model(members["instruct"]), tf.read_model(members["math"])
    found = {}
    for name, merged in tf.read_model(out).items():
        found[name] = merged != reference[name]
        moved = reference[name] + (expert[name] - reference[name])
        assert np.array_equal(merged[found[name]], moved[found[name]])
    return found


@pytest.mark.parametrize("density", [1e-6, 0.1, 0.5, 0.999])
def test_whole_model(
    density: float,
    members: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly k over the concatenation of all tensors in the order of their names; of equal
    magnitudes the first."""
    monkeypatch.setattr(stream, "CHUNK", 2048)
    run_merge(ties(members, tmp_path / "r.yaml", density, "global"), tmp_path / "out", threads=3)
    reference, expert = tf.read_model(members["instruct"]), tf.read_model(members["math"])
    names = sorted(reference)
    deltas = np.concatenate([(expert[n] - reference[n]).reshape(-1) for n in names])
    keep = max(1, int(density * deltas.size))
    wanted = np.zeros(deltas.size, bool)
    wanted[np.argsort(-np.abs(deltas), kind="stable")[:keep]] = True
    wanted &= deltas != 0
    found = kept(members, tmp_path / "out")
    assert np.array_equal(np.concatenate([found[n].reshape(-1) for n in names]), wanted)


def test_whole_model_differs_from_tensor_by_tensor(
    members: dict[str, Path], tmp_path: Path
) -> None:
    run_merge(ties(members, tmp_path / "r.yaml", 0.3, "tensor"), tmp_path / "tensor")
    run_merge(ties(members, tmp_path / "s.yaml", 0.3, "global"), tmp_path / "model")
    one, whole = kept(members, tmp_path / "tensor"), kept(members, tmp_path / "model")
    assert any(one[name].sum() != whole[name].sum() for name in one)
    for name, mask in one.items():
        assert mask.sum() <= max(1, int(0.3 * mask.size)), name


@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_rescale_gives_the_norm_back(scope: str, members: dict[str, Path], tmp_path: Path) -> None:
    """With `rescale` the L1 norm of each trimmed vector is what it was before."""
    recipe = ties(members, tmp_path / "r.yaml", 0.2, scope, rescale=True)
    run_merge(recipe, tmp_path / "out")
    reference, expert = tf.read_model(members["instruct"]), tf.read_model(members["math"])
    for name, merged in tf.read_model(tmp_path / "out").items():
        update = np.abs(merged.astype(np.float64) - reference[name]).sum()
        whole = np.abs(expert[name].astype(np.float64) - reference[name]).sum()
        if update:
            assert update == pytest.approx(whole, rel=1e-4), name


def test_equal_magnitudes_keep_the_first(tmp_path: Path) -> None:
    """All deltas are equal: the first k are kept, whatever the chunks."""
    instruct = {n: np.full_like(v, 1.0) for n, v in tf.random_model().items()}
    moved = {n: v + F(0.5) for n, v in instruct.items()}
    members = {
        "instruct": tf.write_model(tmp_path / "instruct", instruct, "F32"),
        "math": tf.write_model(tmp_path / "math", moved, "F32"),
    }
    run_merge(ties(members, tmp_path / "r.yaml", 0.25, "tensor"), tmp_path / "out")
    for name, mask in kept(members, tmp_path / "out").items():
        keep = int(0.25 * mask.size)
        assert mask.reshape(-1)[:keep].all(), name
        assert not mask.reshape(-1)[keep:].any(), name


def test_one_density_over_a_whole_model_only(members: dict[str, Path]) -> None:
    """`scope: global` with a density that differs from tensor to tensor is refused."""
    raw = {
        "merge_method": "ties",
        "base_model": str(members["instruct"]),
        "models": [
            {
                "model": str(members["math"]),
                "parameters": {"weight": 1, "density": [0.1, 0.9]},
            }
        ],
        "parameters": {"scope": "global"},
    }
    with pytest.raises(RecipeError, match="`scope: global`"):
        from_dict(raw, "r")
