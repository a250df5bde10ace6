import pytest

from lamina.core.errors import LayerError
from lamina.core.layers import LayerMap
from lamina.core.plan import LayerPlan

NAMES = ["model.embed_tokens.weight"] + [
    f"model.layers.{n}.{module}.weight"
    for n in range(12)
    for module in ("mlp.up_proj", "self_attn.q_proj")
]
LAYERS = LayerMap.from_names(NAMES)


def plan(coefficients, granularity="block", others=0.0):
    return LayerPlan(
        granularity=granularity,
        coefficients=coefficients,
        others=others,
        rule="by_hand",
        from_scores="",
    )


def test_block_one_is_not_block_eleven():
    by_block = plan({str(n): float(n) for n in range(12)}, others=-1.0)
    by_block.check(LAYERS)
    assert by_block.coefficient_of(LAYERS, "model.layers.1.mlp.up_proj.weight") == 1.0
    assert by_block.coefficient_of(LAYERS, "model.layers.11.mlp.up_proj.weight") == 11.0
    assert by_block.coefficient_of(LAYERS, "model.embed_tokens.weight") == -1.0


def test_by_module():
    by_module = plan({unit: float(n) for n, unit in enumerate(LAYERS.units("module"))}, "module")
    by_module.check(LAYERS)
    assert by_module.coefficient_of(LAYERS, "model.layers.0.self_attn.q_proj.weight") == 0.0
    assert by_module.coefficient_of(LAYERS, "model.layers.0.mlp.up_proj.weight") == 1.0
    assert by_module.coefficient_of(LAYERS, "model.layers.1.self_attn.q_proj.weight") == 2.0


def test_a_plan_of_another_model_is_told():
    other = plan({str(n): 1.0 for n in range(1, 14)})
    with pytest.raises(LayerError, match=r"no coefficient for 0; the model has no 12, 13\."):
        other.check(LAYERS)
    with pytest.raises(LayerError, match="13 layers and none is `0`"):
        other.coefficient_of(LAYERS, NAMES[1])


def test_coefficients_are_finite():
    with pytest.raises(LayerError, match="0: inf"):
        plan({"0": float("inf")})
    with pytest.raises(LayerError, match="others: nan"):
        plan({"0": 1.0}, others=float("nan"))
