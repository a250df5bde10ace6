"""Gates against their oracles: PEFT's own forward, factor gradients, finite differences."""

from typing import Any

import pytest
import torch
from scored_pico import adapted_pico, batches

from lamina.core.errors import CheckpointError
from lamina.engine.load import quiet
from lamina.engine.losses import LossHead
from lamina.ila.gates import ADAPTER, GatedDelta, adapted, computed_again, gating
from lamina.ila.integrate import integrate
from lamina.ila.measure import Rows


def loss_of(model: Any, batch: dict[str, torch.Tensor], head: LossHead | None = None) -> Any:
    return (head or LossHead(model))(model, batch).loss


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "opt", "bloom", "gemma2"])
def test_a_gate_of_one_is_pefts_forward_and_zero_is_the_base(kind: str):
    model = adapted_pico(kind)
    batch = batches()[0]
    whole = loss_of(model, batch).item()
    with model.disable_adapter():
        base = loss_of(model, batch).item()
    with gating(model) as gates:
        assert loss_of(model, batch).item() == pytest.approx(whole, rel=1e-6)
        gates.set(0.0)
        assert loss_of(model, batch).item() == pytest.approx(base, rel=1e-6)
    assert loss_of(model, batch).item() == whole
    assert abs(whole - base) > 1e-3


def test_at_one_the_gates_gradient_is_that_of_the_factors():
    """<B, dL/dB> = <A, dL/dA> = dL/dgamma, which stage 1 has for nothing."""
    model = adapted_pico().double()
    batch = batches()[0]
    head = LossHead(model)
    model.requires_grad_(True)
    loss_of(model, batch, head).backward()
    expected = []
    for module in adapted(model).values():
        pair = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        by_a, by_b = ((factor * factor.grad).sum().item() for factor in pair)
        assert by_a == pytest.approx(by_b, rel=1e-8)
        expected.append(by_b)
    with gating(model) as gates:
        loss_of(model, batch, head).backward()
        assert gates.values.grad is not None
        found = gates.values.grad.tolist()
    assert found == pytest.approx(expected, rel=1e-6)


def test_gate_gradients_are_finite_differences():
    model = adapted_pico().double()
    batch, head = batches()[1], None
    head = LossHead(model)
    with gating(model) as gates:
        start = torch.linspace(0.2, 1.1, len(gates.ids))
        gates.set(start)
        loss_of(model, batch, head).backward()
        slopes = gates.values.grad.clone()  # type: ignore[union-attr]
        for number in (0, 7, len(gates.ids) - 1):
            ends = []
            for step in (2.0**-8, -(2.0**-8)):
                gates.set(start)
                with torch.no_grad():
                    gates.values[number] += step
                    ends.append(loss_of(model, batch, head).item())
            assert slopes[number].item() == pytest.approx((ends[0] - ends[1]) * 2**7, rel=2e-3)


def test_the_function_passes_gradcheck():
    torch.manual_seed(0)
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    a, b = torch.randn(3, 8, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    base = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    for in_place in (False, True):

        def gated(y: Any, x: Any, gamma: Any, into: bool = in_place) -> Any:
            return GatedDelta.apply(y * 1.0, x, a, b, gamma, 2.0, into)

        assert torch.autograd.gradcheck(gated, (base, x, gamma))


def test_the_integral_is_complete():
    """The contributions add up to what the whole adapter is worth, ever closer."""
    model = adapted_pico()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.5
    with gating(model) as gates:
        rows = Rows(model, LossHead(model), batches())

        def at(gamma: float) -> tuple[float, Any]:
            gates.set(gamma)
            found = rows.gradient(gates)
            return found.loss, found.gradient

        errors = []
        for num_points in (1, 3, 8):
            total = integrate(at, num_points).values.sum()
            gates.set(1.0)
            after = rows.loss()
            gates.set(0.0)
            errors.append(abs(total - (rows.loss() - after)))
    assert errors[2] < 1e-3 * errors[0] + 1e-5
    assert errors[1] < errors[0]


def test_checkpointing_gives_the_same_gradients():
    model = adapted_pico()
    batch = batches()[0]
    found = []
    for checkpointed in (False, True):
        if checkpointed:
            core = model.get_base_model()
            core.activation_checkpointing_enable({"use_reentrant": False})
        with gating(model) as gates:
            core = model.get_base_model()
            if checkpointed:
                core.train()  # checkpointing is for training alone; there is no dropout here
            loss_of(model, batch).backward()
            found.append(gates.values.grad.tolist())  # type: ignore[union-attr]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "bloom"])
def test_blocks_that_run_again_keep_less_and_give_the_same_gradients(kind: str):
    """In evaluation mode, where the checkpointing of transformers is off."""
    model = adapted_pico(kind)
    rows = Rows(model, LossHead(model), batches())
    with gating(model) as gates:
        plain, kept = rows.gradient(gates), kept_by(rows)
        with computed_again(model):
            found, less = rows.gradient(gates), kept_by(rows)
            assert rows.loss() == pytest.approx(plain.loss, rel=1e-6)
        assert kept_by(rows) == kept
    assert found.gradient.tolist() == pytest.approx(plain.gradient.tolist(), rel=1e-5)
    assert less < kept / 3


def kept_by(rows: Rows) -> int:
    """Values that a forward pass of the first batch saves, weights left out."""
    weights = {parameter.data_ptr() for parameter in rows.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = rows.head(rows.model, rows.batches[0]).loss
    assert loss.requires_grad
    return sum(kept.values())


def test_a_bfloat16_base_keeps_float32_gates():
    model = adapted_pico()
    with gating(model) as gates:
        loss_of(model, batches()[0]).backward()
        exact = gates.values.grad.clone()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    with gating(model) as gates:
        loss_of(model, batches()[0]).backward()
        found = gates.values.grad  # type: ignore[union-attr]
        assert found is not None
        assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.99


def test_only_the_inner_products_are_kept_for_the_backward_pass():
    """Saved by a gated module: A x [T, r], not x [T, inputs] nor the delta [T, outputs]."""
    tokens, inputs, outputs, rank = 64, 32, 48, 3
    x = torch.randn(tokens, inputs, requires_grad=True)
    a, b = torch.randn(rank, inputs), torch.randn(outputs, rank)
    gamma = torch.ones((), requires_grad=True)
    sizes: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in (a.data_ptr(), b.data_ptr(), gamma.data_ptr()):
            sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fresh = torch.zeros(tokens, outputs)
        GatedDelta.apply(fresh, x, a, b, gamma, 2.0, True).sum().backward()
    assert sizes == [tokens * rank]


def test_everything_is_put_back_after_an_error():
    model = adapted_pico().train()
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(KeyError), gating(model):
        raise KeyError
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all("forward" not in module.__dict__ for module in adapted(model).values())
    assert model.training


def test_gates_are_in_model_order():
    with gating(adapted_pico()) as gates:
        assert list(gates.ids) == list(gates.linears.by_id)
        gates.only({gates.ids[2]})
        assert gates.values.tolist() == [float(n == 2) for n in range(len(gates.ids))]


def test_refusals_say_which_modules_and_why():
    from peft import LoraConfig, get_peft_model
    from scored_pico import pico

    with pytest.raises(CheckpointError, match="has none"), gating(pico()):
        pass
    with quiet():
        dora = get_peft_model(pico(), LoraConfig(target_modules=["q_proj"], use_dora=True))
        other = get_peft_model(pico(), LoraConfig(target_modules=["q_proj"]), adapter_name="other")
        biased = get_peft_model(pico(), LoraConfig(target_modules=["q_proj"], lora_bias=True))
        table = get_peft_model(pico(), LoraConfig(target_modules=["embed_tokens"]))
    merged, off = adapted_pico(), adapted_pico()
    merged.merge_adapter()
    off.base_model.disable_adapter_layers()
    for model, told in {
        dora: r"(?s)3 of 3.*q_proj: DoRA",
        other: r"active adapters are \['other'\]",
        biased: "bias on lora_B",
        table: "embed_tokens",
        merged: "merged into the weight",
        off: "switched off",
    }.items():
        with pytest.raises(CheckpointError, match=told), gating(model):
            pass


def test_a_layer_with_its_own_kernel_is_refused():
    from peft.tuners.lora.layer import Linear

    class Fused(Linear):
        pass

    model = adapted_pico()
    next(iter(adapted(model).values())).__class__ = Fused
    with pytest.raises(CheckpointError, match="quantised, fused"), gating(model):
        pass
