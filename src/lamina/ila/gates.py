"""A gate on every LoRA delta of a PEFT model: theta_0 + gamma_i * c * B_i A_i (ILA, sec. 3).

While `gating` holds, each adapted module adds its delta times its gate. PEFT is not changed: the
modules' `forward` is set on the instances and taken away again. Base, A and B stay frozen; only the
gates get a gradient,

    dL/dgamma_i = c * sum over tokens t of <B^T g_t, A x_t>,

for which the backward pass needs A x [tokens, rank] and nothing else: the inputs x and the deltas
themselves are not kept. Factors are used in float32 and the sum runs in float32 (bfloat16 gate
gradients are off by 1 to 4 %), whatever the base computes in. Gates are no parameters of the model:
over several processes their gradients must be added by who uses them (`engine.parallel.total`).

Letters: N gated modules, T tokens, r rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lamina.core.errors import CheckpointError
from lamina.core.modules import Linears
from lamina.engine.heads import is_peft, unwrapped
from lamina.engine.planned import linears
from lamina.engine.prefix import blocks_of

ADAPTER = "default"


@dataclass(frozen=True, slots=True)
class Gates:
    """The gates of one model, in the order of its modules."""

    ids: tuple[str, ...]
    """`12.mlp.up_proj`, ... [N]"""
    values: torch.Tensor
    """float32 [N], a leaf: 1 where a delta counts as it was trained. Set its `.data` freely."""
    linears: Linears
    """All linear modules of the model's blocks, gated or not."""

    @torch.no_grad()
    def set(self, value: float | torch.Tensor) -> None:
        """All gates at once: one number, or [N]."""
        self.values.copy_(torch.as_tensor(value, dtype=torch.float32).expand_as(self.values))

    def only(self, kept: Collection[str]) -> None:
        """1 for these modules, 0 for all others."""
        self.set(torch.tensor([float(one in kept) for one in self.ids]))


class GatedDelta(torch.autograd.Function):
    """result + gamma * c * x A^T B^T; keeps x A^T alone for the backward pass.

    `in_place` adds to the result itself: for a fresh one of a linear layer, whose own backward pass
    does not read it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        result: torch.Tensor,
        x: torch.Tensor,
        a_rI: torch.Tensor,
        b_Or: torch.Tensor,
        gamma: torch.Tensor,
        scale: float,
        in_place: bool,
    ) -> torch.Tensor:
        u_Tr = x.to(a_rI.dtype) @ a_rI.T
        ctx.save_for_backward(u_Tr, a_rI, b_Or, gamma)
        ctx.scale, ctx.dtype = scale, x.dtype
        scaled_Tr = u_Tr * (gamma.to(u_Tr.dtype) * scale)
        if not in_place:
            return (result + scaled_Tr @ b_Or.T).to(result.dtype)
        ctx.mark_dirty(result)
        result.view(-1, len(b_Or)).addmm_(scaled_Tr.reshape(-1, len(a_rI)), b_Or.T)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[torch.Tensor | None, ...]:
        u_Tr, a_rI, b_Or, gamma = ctx.saved_tensors
        v_Tr = grads[0].to(b_Or.dtype) @ b_Or
        d_gamma = d_x = None
        if ctx.needs_input_grad[4]:
            product = torch.dot(v_Tr.reshape(-1), u_Tr.reshape(-1)) * ctx.scale
            d_gamma = product.to(gamma.dtype).reshape(gamma.shape)
        if ctx.needs_input_grad[1]:
            d_x = ((v_Tr * (gamma.to(v_Tr.dtype) * ctx.scale)) @ a_rI).to(ctx.dtype)
        return grads[0], d_x, None, None, d_gamma, None, None


@contextlib.contextmanager
def gating(model: nn.Module) -> Iterator[Gates]:
    """While this holds every LoRA delta of the active adapter has a gate, at first 1.

    The model is in evaluation mode (dropout would be noise) and nothing of it needs a gradient;
    both are put back, as is each module's `forward`, whatever happens inside.

    Raises:
        CheckpointError: no PEFT LoRA, an adapter that is merged or switched off, or modules whose
            delta is not a plain B A: DoRA and other variants, embeddings, quantised kernels.
    """
    from lamina.engine.heads import evaluating

    found = adapted(model)
    known = linears(model)
    values = torch.ones(len(found), dtype=torch.float32, device=next(model.parameters()).device)
    gates = Gates(tuple(found), values.requires_grad_(), known)
    trained = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for number, module in enumerate(found.values()):
            module.forward = _gated(module, values, number)
        model.requires_grad_(False)
        with evaluating(model):
            yield gates
    finally:
        for module in found.values():
            module.__dict__.pop("forward", None)
        for parameter, before in trained:
            parameter.requires_grad_(before)


@contextlib.contextmanager
def computed_again(model: nn.Module) -> Iterator[None]:
    """While this holds each block keeps its input alone, and runs again in the backward pass.

    Checkpointing of transformers is off in evaluation mode, in which gates are measured. This is
    the same, not reentrant, and without a gradient it does nothing.

    Raises:
        LayerError: the model has no list of blocks.
    """
    blocks = blocks_of(model)
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _again(block.forward)  # type: ignore[method-assign]
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            block.__dict__.pop("forward", None)
            if own is not None:
                block.forward = own


def _again(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return own(*args, **kwargs)
        return checkpoint(own, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return forward


def _gated(module: Any, values: torch.Tensor, number: int) -> Callable[..., torch.Tensor]:
    """The module's forward pass with its gate; the factors are read anew each time."""
    a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    scale = float(module.scaling[ADAPTER])

    fresh = type(module.base_layer) is nn.Linear

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result = module.base_layer(x, *args, **kwargs)
        in_place = fresh and result.dtype == b.dtype and result.is_contiguous()
        with torch.autocast(x.device.type, enabled=False):
            return GatedDelta.apply(result, x, a, b, values[number], scale, in_place)

    return forward


def adapted(model: nn.Module) -> dict[str, Any]:
    """Id of each adapted linear module -> PEFT's layer, in model order.

    Raises:
        CheckpointError: see `gating`.
    """
    network = unwrapped(model)
    if not is_peft(network):
        raise CheckpointError(
            f"gates stand on a LoRA adapter's deltas, and this {type(network).__name__} has none"
        )
    from peft.tuners.lora.layer import Linear as LoraLinear
    from peft.tuners.lora.layer import LoraLayer

    layers = {
        name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)
    }
    known = {one.path: one.id for one in linears(network).by_id.values()}
    problems, found = [], {}
    for name, module in layers.items():
        path = name.removeprefix("base_model.model.")
        if reason := _refusal(module, LoraLinear):
            problems.append(f"{path}: {reason}")
        elif path not in known:
            problems.append(f"{path}: is no linear module inside the blocks")
        else:
            found[known[path]] = module
    if problems:
        more = f"\n  and {len(problems) - 8} more" if problems[8:] else ""
        raise CheckpointError(
            f"{len(problems)} of {len(layers)} adapted modules cannot be ranked:\n  "
            + "\n  ".join(problems[:8])
            + more
        )
    if not found:
        raise CheckpointError("the adapter has no LoRA module that could be ranked")
    return {one: found[one] for one in known.values() if one in found}


def _refusal(module: Any, plain: type) -> str:
    """Why a module's delta cannot have a gate; empty where it can."""
    if module.merged:
        return "the adapter is merged into the weight; load it without merging"
    if module.disable_adapters:
        return "the adapter is switched off"
    if list(module.active_adapters) != [ADAPTER] or ADAPTER not in module.lora_A:
        return f"the active adapters are {list(module.active_adapters)}, one `{ADAPTER}` is needed"
    if module.lora_variant or module.use_dora.get(ADAPTER, False):
        return "DoRA or another variant of LoRA: its delta is not c B A"
    if type(module) is not plain:
        kind = (
            f"{type(module).__module__.removeprefix('peft.tuners.lora.')}.{type(module).__name__}"
        )
        return f"{kind}, a quantised, fused or non-linear layer: its kernel does not see a gate"
    if module.lora_B[ADAPTER].bias is not None:
        return "a bias on lora_B"
    return ""
