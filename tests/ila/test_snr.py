"""Spectrum's ratio from files: singular values, places inside a type, and divisions by 0."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lamina.core.errors import CheckpointError
from lamina.ila.snr import places, ratio, singular_values, snr
from lamina.weights.checkpoint import open_checkpoint

ROLES = {"self_attn.q_proj": (12, 12), "mlp.up_proj": (14, 12), "mlp.down_proj": (12, 14)}


def write(folder: Path, changes: dict[str, np.ndarray] | None = None) -> Path:
    """Three blocks of random weights, the later the more of one direction stands out."""
    rng = np.random.default_rng(0)
    tensors = {"model.embed_tokens.weight": rng.normal(size=(16, 12))}
    for block in range(3):
        for role, (rows, columns) in ROLES.items():
            signal = np.outer(rng.normal(size=rows), rng.normal(size=columns))
            noise = rng.normal(size=(rows, columns))
            tensors[f"model.layers.{block}.{role}.weight"] = noise + 2 * block * signal
        tensors[f"model.layers.{block}.input_layernorm.weight"] = np.ones(12)
    tensors.update(changes or {})
    folder.mkdir()
    plain = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
    save_file(plain, folder / "model.safetensors")
    config = {"model_type": "llama", "num_hidden_layers": 3, "hidden_size": 12, "vocab_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (9, 9), (1, 5), (3000, 4)])
def test_singular_values_are_those_of_the_decomposition(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_values(matrix), wanted, rtol=1e-9)


def test_the_ratio_is_that_of_the_formula() -> None:
    """IQR of 1 .. 9 is 4, tau = 4 / 1.349 * (1 + sqrt(1 / 4)) = 4.448: 5 .. 9 against 1 .. 4."""
    singular = np.arange(9.0, 0.0, -1.0)
    assert ratio(singular, 9, 36) == ratio(singular, 36, 9) == pytest.approx(35 / 10 / 9)
    assert ratio(singular, 9, 9) == pytest.approx((6 + 7 + 8 + 9) / 15 / 9), "tau = 5.930"


def test_modules_get_their_place_inside_their_type(tmp_path: Path) -> None:
    seen: list[int] = []
    found = snr(open_checkpoint(write(tmp_path / "model")), advance=seen.append)
    assert list(found.values) == [f"{b}.{role}" for b in range(3) for role in sorted_roles()]
    assert sum(seen) == len(found.values) == 9
    for role in ROLES:
        raw = [found.raw[f"{block}.{role}"] for block in range(3)]
        ordered = sorted(range(3), key=lambda block: raw[block])
        assert [found.values[f"{block}.{role}"] for block in ordered] == pytest.approx(
            [1 / 6, 3 / 6, 5 / 6]
        )
    assert found.notes == ()


def sorted_roles() -> list[str]:
    """In the order of the layers: attention before mlp."""
    return ["self_attn.q_proj", "mlp.down_proj", "mlp.up_proj"]


def test_equal_modules_share_their_places() -> None:
    assert places({"0.q": 2.0, "1.q": 2.0, "0.v": 1.0}) == {"0.q": 0.5, "1.q": 0.5, "0.v": 0.5}
    assert places({"0.q": 1.0, "1.q": float("inf")}) == {"0.q": 0.25, "1.q": 0.75}


def test_matrices_of_zeros_and_of_one_direction_are_told(tmp_path: Path) -> None:
    changes = {
        "model.layers.0.self_attn.q_proj.weight": np.zeros((12, 12)),
        "model.layers.1.mlp.up_proj.weight": np.outer(np.arange(14), np.arange(12)),
    }
    found = snr(open_checkpoint(write(tmp_path / "model", changes)))
    assert found.raw["0.self_attn.q_proj"] == 0.0
    assert "1.mlp.up_proj" not in found.raw
    assert found.values["1.mlp.up_proj"] == max(found.values[f"{b}.mlp.up_proj"] for b in range(3))
    assert any("no singular value lies below" in note for note in found.notes)
    assert any("0.self_attn.q_proj" in note for note in found.notes)


def test_values_that_are_no_numbers_are_refused_all_at_once(tmp_path: Path) -> None:
    changes = {
        f"model.layers.{block}.mlp.up_proj.weight": np.full((14, 12), np.nan) for block in (0, 2)
    }
    with pytest.raises(CheckpointError, match=r"2 of 9 matrices: .*layers\.0.*layers\.2"):
        snr(open_checkpoint(write(tmp_path / "model", changes)))


def test_no_torch_is_loaded() -> None:
    code = "import sys, lamina.ila.snr; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
