"""Leaving one delta out: exact, whichever block the pass begins at."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.core.errors import DataError, LayerError
from lamina.engine.losses import LossHead
from lamina.ila.gates import gating
from lamina.ila.leave_one_out import FromBlock, leave_one_out

sys.path.append(str(Path(__file__).parent))

from scored_pico import adapted_pico, batches


def without(model: Any, module: str) -> float:
    """The loss with one module's B at 0, by PEFT alone."""
    path = f"base_model.model.model.layers.{module}.lora_B.default.weight"
    weight = dict(model.named_parameters())[path]
    kept = weight.data.clone()
    weight.data.zero_()
    try:
        return mean_loss(model)
    finally:
        weight.data.copy_(kept)


def mean_loss(model: Any) -> float:
    head, sums, tokens = LossHead(model), 0.0, 0
    with torch.no_grad():
        for batch in batches():
            found = head(model, batch)
            sums += float(found.per_example.sum())
            tokens += int(found.tokens.sum())
    return sums / tokens


def test_it_is_what_the_loss_loses_without_the_delta() -> None:
    model = adapted_pico()
    whole = mean_loss(model)
    head = LossHead(model)
    with gating(model) as gates:
        rows = FromBlock(model, head, batches())
        found = leave_one_out(gates, rows.loss)
        assert gates.values.tolist() == [1.0] * len(gates.ids)
    assert found.whole == pytest.approx(whole, rel=1e-6)
    assert tuple(found.values) == gates.ids
    assert found.passes == len(gates.ids) + 1 == 22
    for module in ("0.self_attn.q_proj", "1.mlp.down_proj", "2.mlp.up_proj"):
        assert found.values[module] == pytest.approx(without(model, module) - whole, abs=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
def test_a_pass_from_the_modules_block_gives_the_same(kind: str) -> None:
    model = adapted_pico(kind)
    head = LossHead(model)
    with gating(model) as gates:
        rows = FromBlock(model, head, batches())
        plain = leave_one_out(gates, rows.loss)
        fast = leave_one_out(gates, rows.loss, beginning=rows.beginning)
    assert fast.whole == plain.whole
    assert fast.values == pytest.approx(plain.values, abs=1e-7)
    assert len({round(value, 7) for value in fast.values.values()}) > len(gates.ids) / 2


def test_only_the_modules_that_are_asked_for_are_left_out() -> None:
    model = adapted_pico()
    head = LossHead(model)
    asked = ("2.mlp.up_proj", "0.self_attn.q_proj")
    with gating(model) as gates:
        rows = FromBlock(model, head, batches())
        found = leave_one_out(gates, rows.loss, ids=asked, beginning=rows.beginning)
        whole = leave_one_out(gates, rows.loss)
        assert tuple(found.values) == tuple(one for one in gates.ids if one in asked)
        assert found.passes == 3
        for one in asked:
            assert found.values[one] == pytest.approx(whole.values[one], abs=1e-7)
        with pytest.raises(LayerError, match=r"no gate on `2\.mlp\.up_prj`: did you mean `2\.mlp"):
            leave_one_out(gates, rows.loss, ids=["2.mlp.up_prj"])


def test_a_loss_that_is_no_number_is_refused_and_the_gates_are_put_back() -> None:
    model = adapted_pico()
    head = LossHead(model)
    dict(model.named_parameters())[
        "base_model.model.model.layers.1.mlp.up_proj.base_layer.weight"
    ].data.fill_(float("nan"))
    with gating(model) as gates:
        rows = FromBlock(model, head, batches())
        with pytest.raises(DataError, match="not finite without one of the deltas"):
            leave_one_out(gates, rows.loss, beginning=rows.beginning)
        assert gates.values.tolist() == [1.0] * len(gates.ids)
