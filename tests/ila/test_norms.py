"""Norms of deltas and of what they put out, against products that are formed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import CheckpointError
from lamina.engine.prefix import given as given_to
from lamina.ila.forwards import real_tokens
from lamina.ila.gates import adapted, gating
from lamina.ila.norms import delta_norm, delta_norms, lora_drop

sys.path.append(str(Path(__file__).parent))

from scored_pico import adapted_pico, batches


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_product_need_not_be_formed(rank: int, inputs: int, outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rank, inputs)), rng.normal(size=(outputs, rank))
    assert delta_norm(a, b, -1.5) == pytest.approx(np.linalg.norm(1.5 * b @ a), rel=1e-12)
    assert delta_norm(a, np.zeros((outputs, rank)), 2.0) == 0.0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_module_has_its_norm_and_its_share_of_the_weight(kind: str) -> None:
    model = adapted_pico(kind)
    found = delta_norms(model)
    modules = adapted(model)
    assert list(found.values) == list(found.relative) == list(modules)
    for name, module in modules.items():
        delta = module.get_delta_weight("default").detach().double()
        assert found.values[name] == pytest.approx(float(delta.norm()), rel=1e-6)
        share = float(delta.norm() / module.base_layer.weight.detach().double().norm())
        assert found.relative[name] == pytest.approx(share, rel=1e-6)


def test_a_weight_of_zeros_has_no_relative_norm() -> None:
    model = adapted_pico()
    torch.nn.init.zeros_(model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").weight)
    found = delta_norms(model)
    assert "0.mlp.up_proj" in found.values
    assert "0.mlp.up_proj" not in found.relative


def test_broken_factors_are_refused() -> None:
    model = adapted_pico()
    torch.nn.init.constant_(adapted(model)["1.mlp.up_proj"].lora_B["default"].weight, float("inf"))
    with pytest.raises(CheckpointError, match=r"NaN or infinite in 1\.mlp\.up_proj"):
        delta_norms(model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_lora_drop_is_the_mean_square_of_the_deltas_output(kind: str) -> None:
    """By the deltas formed, on what each module was given, token after token."""
    model = adapted_pico(kind)
    modules = adapted(model)
    sums, count = dict.fromkeys(modules, 0.0), 0
    for batch in batches():
        real = real_tokens(batch["position_ids"])
        count += int(real.sum())
        handles = [
            module.register_forward_pre_hook(adder(name, module, real, sums))
            for name, module in modules.items()
        ]
        with torch.no_grad():
            model(**given_to(model, batch))
        for handle in handles:
            handle.remove()
    found = lora_drop(model, batches())
    assert list(found) == list(modules)
    for name, value in found.items():
        assert value == pytest.approx(sums[name] / count, rel=1e-5)
    assert all(not module._forward_pre_hooks for module in modules.values())


def test_lora_drop_is_not_rounded_under_autocast() -> None:
    """The trainer leaves a model that was tuned in bfloat16 under autocast."""
    model = adapted_pico()
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    with gating(model):  # as in a ranking: PEFT's own deltas are rounded under autocast
        plain = lora_drop(model, batches())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert lora_drop(model, batches()) == pytest.approx(plain, rel=1e-6)


def adder(name: str, module: Any, real: torch.Tensor, sums: dict[str, float]) -> Any:
    delta = module.get_delta_weight("default")
    delta = delta.T if module.fan_in_fan_out else delta

    def hook(_: Any, args: tuple[Any, ...]) -> None:
        out = args[0].reshape(*real.shape, -1)[real] @ delta.T
        sums[name] += float(out.double().square().sum())

    return hook
