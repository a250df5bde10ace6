"""The divergence from the starting model: of chosen examples only, without its memory."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lamina.engine.collate import PackedRow, collate
from lamina.engine.distil import only_examples_at, starting_model
from lamina.engine.losses import LossHead

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
TARGETS: dict[str, dict[str, Any]] = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "with the head": {"target_modules": ["q_proj", "lm_head"]},
    "head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def _move(model: Any) -> None:
    """A step away from the start, the same each time."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def _adapted(model: Any, targets: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, **targets))


def _log_p(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
    ).logits
    return logits.flatten(0, 1)[batch["predictors"]].log_softmax(-1)


def _expected(old: torch.Tensor, new: torch.Tensor, picked: torch.Tensor) -> torch.Tensor:
    return F.kl_div(new[picked], old[picked], reduction="sum", log_target=True)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("targets", [None, *TARGETS])
def test_kl_and_its_gradient_are_those_of_the_plain_way(
    network: Callable[..., Any], rows: Sequence[PackedRow], targets: str | None, flatten: bool
) -> None:
    batch = collate(rows, pad_id=1, flatten=flatten)
    base = network(tie_word_embeddings=False)
    with torch.no_grad():
        old = _log_p(base, batch)
    model = base if targets is None else _adapted(base, TARGETS[targets])
    head, teacher = LossHead(model, chunk_tokens=4), starting_model(model)
    _move(model)
    chosen = torch.tensor([False, True, False, False, True, True])
    found = head(model, batch, teacher=teacher, chosen=chosen)
    own = _expected(old, _log_p(model, batch), chosen[batch["owners"]])
    torch.testing.assert_close(found.kl, own, rtol=1e-5, atol=0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    for mine, theirs in zip(
        torch.autograd.grad(found.kl + found.loss * 0, trained),
        torch.autograd.grad(own, trained),
        strict=True,
    ):
        assert (mine - theirs).abs().max() <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("targets", [None, "attention"])
def test_a_model_does_not_diverge_from_itself(
    network: Callable[..., Any], rows: Sequence[PackedRow], targets: str | None
) -> None:
    base = network()
    model = base if targets is None else _adapted(base, TARGETS[targets])
    batch = collate(rows, pad_id=1, flatten=False)
    found = LossHead(model)(model, batch, teacher=starting_model(model))
    assert found.kl.abs() < 1e-5


def test_without_a_teacher_or_a_chosen_example_kl_is_zero(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model, batch = network(), collate(rows, pad_id=1, flatten=False)
    head, teacher = LossHead(model), starting_model(model)
    _move(model)
    nobody = torch.zeros(6, dtype=torch.bool)
    assert head(model, batch).kl == 0
    assert head(model, batch, teacher=teacher, chosen=nobody).kl == 0
    assert head(model, batch, teacher=teacher).kl > 0


def test_a_frozen_adapter_stays_frozen_and_modes_stay(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    """PEFT turns the gradient of every adapter on when it is enabled again."""
    model = _adapted(network(), TARGETS["attention"])
    for name, parameter in model.named_parameters():
        if "layers.0" in name:
            parameter.requires_grad_(False)
    model.train()
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    head = LossHead(model)
    batch = collate(rows, pad_id=1, flatten=False)
    head(model, batch, teacher=starting_model(model)).kl.backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == wanted
    assert all(module.training for module in model.modules())


def test_the_teacher_has_no_dropout(network: Callable[..., Any], rows: Sequence[PackedRow]) -> None:
    model = network(attention_dropout=0.9)
    model.train()
    teacher = starting_model(model)
    batch = collate(rows, pad_id=1, flatten=False)
    with teacher.running() as start:
        first, second = (_log_p(start, batch) for _ in range(2))
    assert first.equal(second)


@pytest.mark.parametrize("targets", [None, "with the head"])
def test_under_autocast_the_teacher_spoils_no_gradient(
    network: Callable[..., Any], rows: Sequence[PackedRow], targets: str | None
) -> None:
    base = network(tie_word_embeddings=False)
    model = base if targets is None else _adapted(base, TARGETS[targets])
    head, teacher = LossHead(model, chunk_tokens=4), starting_model(model)
    _move(model)
    batch = collate(rows, pad_id=1, flatten=False)
    exact = head(model, batch, teacher=teacher)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    wanted = torch.autograd.grad(exact.loss + exact.kl, trained)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(model, batch, teacher=teacher)
        gradients = torch.autograd.grad(found.loss + found.kl, trained)
    assert found.kl.dtype == torch.float32
    torch.testing.assert_close(found.kl, exact.kl, rtol=0.1, atol=0)
    for mine, theirs in zip(gradients, wanted, strict=True):
        assert (mine - theirs).norm() <= 0.1 * theirs.norm()


def test_only_the_rows_or_the_examples_that_are_needed_are_read(
    rows: Sequence[PackedRow],
) -> None:
    for flatten, shape in ((False, (2, 16)), (True, (1, 5 + 2))):
        batch = collate(rows, pad_id=1, flatten=flatten)
        picked = torch.isin(batch["owners"], torch.tensor([1, 4]))
        inputs, places = only_examples_at(batch, batch["predictors"][picked])
        assert inputs["input_ids"].shape == shape
        assert inputs["input_ids"].flatten()[places + 1].equal(batch["targets"][picked])
        before = batch["position_ids"].flatten()[batch["predictors"][picked]]
        assert inputs["position_ids"].flatten()[places].equal(before)
