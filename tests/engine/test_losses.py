"""Losses in chunks equal the model's own losses, and so do their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lamina.core.errors import DataError
from lamina.engine.collate import PackedRow, collate
from lamina.engine.heads import OutputHead, OutputMap
from lamina.engine.losses import LossHead, States

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "gemma2": {"head_dim": 8, "num_key_value_heads": 1, "final_logit_softcapping": 3.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "gpt_neox": {"tie_word_embeddings": False},
    "phi": {},
}


def _of_kind(network: Callable[..., Any], kind: str) -> Any:
    return network("llama" if kind == "tied" else kind, **KINDS[kind])


def _batch(rows: Sequence[PackedRow], *, flatten: bool = False) -> dict[str, torch.Tensor]:
    return collate(rows, pad_id=1, flatten=flatten)


def _own_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model's own logits say, by the plain way."""
    logits = model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
    ).logits
    at = logits.flatten(0, 1)[batch["predictors"]]
    wide = at if at.dtype == torch.float64 else at.float()
    return F.cross_entropy(wide, batch["targets"], reduction="sum")


def _gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _close(mine: dict[str, torch.Tensor], own: dict[str, torch.Tensor], *, within: float) -> None:
    assert mine.keys() == own.keys()
    for name, gradient in own.items():
        gap = (mine[name] - gradient).abs().max()
        assert gap <= within * gradient.abs().max(), (name, float(gap))


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("chunk", [3, 1000])
def test_loss_and_gradients_are_the_models_own(
    network: Callable[..., Any], rows: Sequence[PackedRow], kind: str, chunk: int
) -> None:
    model, batch = _of_kind(network, kind), _batch(rows)
    head = LossHead(model, chunk_tokens=chunk)
    assert head.fallback == ""
    found = head(model, batch)
    own = _own_loss(model, batch)
    assert found.loss.dtype == torch.float32
    torch.testing.assert_close(found.loss, own, rtol=1e-6, atol=0)
    _close(_gradients(model, found.loss), _gradients(model, own), within=1e-5)


def test_the_loss_is_that_of_transformers_with_a_sum(
    network: Callable[..., Any], row: Callable[..., PackedRow]
) -> None:
    model, one = network(), row(9)
    batch = collate([one], pad_id=1, flatten=False, multiple_of=1)
    labels = batch["input_ids"].masked_fill(~torch.from_numpy(one.trained), -100)
    own = model(input_ids=batch["input_ids"], labels=labels, num_items_in_batch=1).loss
    torch.testing.assert_close(LossHead(model)(model, batch).loss, own, rtol=1e-6, atol=0)


def test_sums_of_the_examples_add_up_to_the_loss(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model, batch = network(), _batch(rows)
    head = LossHead(model, chunk_tokens=4)
    found = head(model, batch)
    assert found.per_example.dtype == torch.float64
    assert not found.per_example.requires_grad
    assert found.tokens.tolist() == [4, 3, 2, 5, 1, 3]
    torch.testing.assert_close(found.per_example.sum().float(), found.loss.detach())
    last = head(model, _batch(rows[1:2]))
    torch.testing.assert_close(found.per_example[3], last.per_example[0], rtol=1e-6, atol=0)


def test_rows_in_a_batch_or_end_to_end_cost_the_same(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model = network()
    head = LossHead(model)
    found = [head(model, _batch(rows, flatten=flatten)) for flatten in (False, True)]
    torch.testing.assert_close(found[0].per_example, found[1].per_example, rtol=1e-6, atol=0)


@pytest.mark.parametrize("after", [OutputMap(), OutputMap(0.5, 2.0)], ids=["plain", "capped"])
def test_gradients_pass_gradcheck_in_float64(after: OutputMap) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 7, dtype=torch.float64)
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    old = States(torch.randn(5, 7, dtype=torch.float64), None, None, 2)
    targets = torch.tensor([0, 6, 3, 3, 1])

    def costs(hidden: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = States(hidden, OutputHead(linear, after), None, chunk=2)
        return states.cross_entropy(targets)[0], states.divergence_from(old)

    assert torch.autograd.gradcheck(costs, (hidden, linear.weight, linear.bias))


@pytest.mark.parametrize("tied", [False, True])
def test_a_float64_model_has_the_gradients_of_the_plain_way(
    network: Callable[..., Any], rows: Sequence[PackedRow], tied: bool
) -> None:
    model, batch = network(tie_word_embeddings=tied).double(), _batch(rows)
    found, own = LossHead(model, chunk_tokens=2)(model, batch).loss, _own_loss(model, batch)
    _close(_gradients(model, found), _gradients(model, own), within=1e-12)


def test_a_weight_of_the_loss_scales_its_gradients(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model, batch = network(), _batch(rows)
    head = LossHead(model)
    whole = _gradients(model, head(model, batch).loss)
    part = _gradients(model, head(model, batch).loss / 8)
    _close({n: g * 8 for n, g in part.items()}, whole, within=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trained", ["all", "head", "body"])
def test_whatever_is_frozen_the_rest_has_its_gradient(
    network: Callable[..., Any], rows: Sequence[PackedRow], trained: str, checkpointing: bool
) -> None:
    model, batch = network(tie_word_embeddings=False), _batch(rows)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            trained == "all" or name.startswith("lm_head") == (trained == "head")
        )
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    found = _gradients(model, LossHead(model, chunk_tokens=5)(model, batch).loss)
    model.activation_checkpointing_disable()
    own = _gradients(model, _own_loss(model, batch))
    assert found
    _close(found, own, within=1e-5)


TARGETS = {
    "attention": {"target_modules": ["q_proj", "v_proj"]},
    "with the head": {"target_modules": ["q_proj", "lm_head"]},
    "head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


def _with_adapter(model: Any, targets: dict[str, Any]) -> Any:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, **targets))
    torch.manual_seed(3)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        elif "modules_to_save" in name:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return wrapped


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks it
@pytest.mark.parametrize("targets", list(TARGETS))
def test_adapters_have_the_gradients_of_the_plain_way(
    network: Callable[..., Any], rows: Sequence[PackedRow], targets: str
) -> None:
    model = _with_adapter(network(tie_word_embeddings=False), TARGETS[targets])
    batch = _batch(rows)
    head = LossHead(model, chunk_tokens=4)
    assert head.fallback == ""
    found, own = head(model, batch).loss, _own_loss(model, batch)
    torch.testing.assert_close(found, own, rtol=1e-6, atol=0)
    _close(_gradients(model, found), _gradients(model, own), within=1e-5)


@pytest.mark.parametrize("way", ["autocast", "bfloat16"])
def test_low_precision_logits_have_losses_in_float32(
    network: Callable[..., Any], rows: Sequence[PackedRow], way: str
) -> None:
    model, batch = network(), _batch(rows)
    if way == "bfloat16":
        model = model.bfloat16()
    head = LossHead(model, chunk_tokens=4)
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        own = _own_loss(model, batch)
    own_gradients = _gradients(model, own)
    for _ in range(2):  # what autocast caches in one pass must not harm the next
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
            found = head(model, batch)
        assert found.loss.dtype == torch.float32
        torch.testing.assert_close(found.loss, own, rtol=2e-3, atol=0)
        _close(_gradients(model, found.loss), own_gradients, within=0.05)


def test_autocast_of_the_forward_pass_alone_holds_for_the_head_too(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    """accelerate wraps `model.forward`, not the loss: half hidden states meet float32 weights."""
    model, batch = network(), _batch(rows)
    head = LossHead(model)
    inside = head(model, batch).loss
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    found = head(model, batch).loss
    assert found.dtype == torch.float32
    assert found != inside
    torch.testing.assert_close(found, inside, rtol=2e-2, atol=0)
    assert "lm_head.weight" in _gradients(model, found)


def test_without_a_gradient_nothing_is_kept(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model, batch = network(), _batch(rows)
    head = LossHead(model)
    expected = head(model, batch).per_example
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = head(model, batch)
        assert not found.loss.requires_grad
        assert found.per_example.tolist() == expected.tolist()


def test_a_batch_without_a_target_is_refused(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model = network()
    batch = _batch(rows)
    empty = {name: batch[name][:0] for name in ("predictors", "targets", "owners", "tokens")}
    with pytest.raises(DataError, match="no token to learn from"):
        LossHead(model)(model, {**batch, **empty})


def test_a_loss_that_is_not_finite_names_its_example(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model, batch = network(tie_word_embeddings=False), _batch(rows)
    head = LossHead(model)
    with torch.no_grad():
        model.get_input_embeddings().weight[int(batch["input_ids"][1, 0])] = torch.nan
    bad = ~head(model, batch).per_example.isfinite()
    assert bad.any()
    assert not bad.all()


def test_the_head_draws_no_random_number_and_keeps_the_mode(network: Callable[..., Any]) -> None:
    model = network(attention_dropout=0.5)
    model.train()
    model.model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = torch.get_rng_state()
    LossHead(model)
    assert torch.get_rng_state().equal(before)
    assert [module.training for module in model.modules()] == modes


def test_logits_the_head_cannot_know_are_taken_from_the_model(
    network: Callable[..., Any], rows: Sequence[PackedRow]
) -> None:
    model, batch = network(), _batch(rows)
    plain = model.forward

    def bent(**inputs: Any) -> Any:
        out = plain(**inputs)
        out.logits = out.logits.sin() * 5
        return out

    model.forward = bent
    head = LossHead(model)
    assert "known scale and soft cap" in head.fallback
    found, own = head(model, batch).loss, _own_loss(model, batch)
    torch.testing.assert_close(found, own, rtol=1e-6, atol=0)
    _close(_gradients(model, found), _gradients(model, own), within=1e-5)


def test_a_soft_cap_far_above_the_logits_is_still_found(network: Callable[..., Any]) -> None:
    model = network("gemma2", std=0.01, head_dim=8, num_key_value_heads=1)
    model.config.final_logit_softcapping = 30.0
    head = LossHead(model)
    assert head._head is not None
    assert head._head.after == OutputMap(1.0, 30.0)


def test_no_tensor_of_all_logits_is_made(
    network: Callable[..., Any], row: Callable[..., PackedRow]
) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            if (
                func in (torch.ops.aten.mm.default, torch.ops.aten._log_softmax.default)
                and out.shape[-1] == 61
            ):
                self.most = max(self.most, out.numel())
            return out

    model = network()
    head = LossHead(model, chunk_tokens=2)
    batch = collate([row(30, 30)], pad_id=1, flatten=False)
    with Watch() as watch:
        head(model, batch).loss.backward()
    assert watch.most == 2 * 61


def test_one_process_of_ddp_gives_the_same_gradients(
    network: Callable[..., Any], rows: Sequence[PackedRow], tmp_path: Any
) -> None:
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    model, batch = network(), _batch(rows)
    head = LossHead(model, chunk_tokens=4)
    own = _gradients(model, head(model, batch).loss)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        for _ in range(2):  # a second step fails where a gradient never reached the reducer
            found = _gradients(model, head(wrapped, batch).loss)
            _close(found, own, within=1e-6)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_inside_the_models_own_forward_pass_the_sums_are_the_same(
    network: Callable[..., Any], rows: list[PackedRow], kind: str
) -> None:
    """What sharded weights need: they are whole only there."""
    model = _of_kind(network, kind)
    batch = _batch(rows)
    apart, inside = (LossHead(model, inside=flag)(model, batch) for flag in (False, True))
    torch.testing.assert_close(inside.per_example, apart.per_example, rtol=1e-6, atol=1e-6)
    _close(_gradients(model, inside.loss), _gradients(model, apart.loss), within=1e-5)
