"""The output embedding of a model, found, taken out of its forward pass, and checked.

A model computes logits for every position; training needs them where a target is predicted. While
`capture` holds, the output embedding sees an empty slice and its input, the hidden states, is kept:
so the model's own logits cost nothing and the loss can be computed in chunks. What the model does
to its logits afterwards (soft cap, scale) is found by trying what its config names, against its own
logits, once. Two forward passes of eight tokens.

Letters: B rows, L positions, H hidden size, N predictors, V vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_PROBE_TOKENS = 8
# Relative to the largest logit. Both sides run the same kernels on other shapes.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
# Logits of the second probe: far enough out that any soft cap in use (15 to 50) shows.
_FAR = 100.0
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping",)


@dataclass(frozen=True, slots=True)
class OutputMap:
    """What a model does to the output of its output embedding: scale, then soft cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        scaled = raw * self.scale if self.scale != 1.0 else raw
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap


Autocast = tuple[str, torch.dtype, bool]
"""Device type, dtype, and whether it is on."""


@dataclass(slots=True)
class Captured:
    """What the output embedding was given in one forward pass."""

    hidden: torch.Tensor | None = None
    """[B, L, H]"""
    autocast: Autocast | None = None
    """As it was where the model called it."""


@dataclass(frozen=True, slots=True)
class OutputHead:
    """A model's output embedding with what its logits go through."""

    module: nn.Module
    after: OutputMap

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The model's logits for these hidden states."""
        return self.after(self.module(hidden))


def core_model(model: nn.Module) -> Any:
    """The transformers model inside DistributedDataParallel and PEFT wrappers."""
    inner: Any = unwrapped(model)
    return inner.get_base_model() if is_peft(inner) else inner


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, adapters and all."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.module
    return model


def is_peft(model: nn.Module) -> bool:
    """Whether PEFT made this model or module (peft is not imported for one that it did not)."""
    return any(kind.__module__.startswith("peft.") for kind in type(model).__mro__)


def output_module(model: nn.Module) -> Any:
    """The output embedding as the model calls it: with its adapter, if it has one."""
    return core_model(model).get_output_embeddings()


def without_adapter(module: nn.Module) -> nn.Module:
    """The module as it was before PEFT wrapped it; itself where it did not."""
    if not is_peft(module):
        return module
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, BaseTunerLayer):
        return module.get_base_layer()
    assert isinstance(module, AuxiliaryTrainingWrapper), f"{type(module)} is no wrapper we know"
    return module.original_module


def takes_positions(model: nn.Module) -> bool:
    """Whether the model's forward names `position_ids` (BLOOM's does not)."""
    return "position_ids" in inspect.signature(type(core_model(model)).forward).parameters


@contextlib.contextmanager
def capture(
    module: nn.Module, *, keep: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[Captured]:
    """While this holds, `module`'s input is kept and `keep` of it is what the module sees."""
    seen = Captured()

    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.hidden = inputs[0]
        device = inputs[0].device.type
        seen.autocast = (
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
        )
        return (keep(inputs[0]), *inputs[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def nothing(hidden_BLH: torch.Tensor) -> torch.Tensor:
    """No position: the model's own logits cost nothing."""
    return hidden_BLH[:, :0]


def is_mixed(model: nn.Module) -> bool:
    """Whether weights are held in several dtypes: one module does not take what another gives.

    So is a model of which some modules are trained whole, in float32, between others that are
    frozen in bfloat16. Adapters cast what they are given, and do not count.
    """
    named = core_model(model).named_parameters()
    return len({weight.dtype for name, weight in named if ".lora_" not in name}) > 1


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode again afterwards.

    Under autocast where it does not run without (`is_mixed`).
    """
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device.type
    model.eval()
    try:
        if is_mixed(model):
            with torch.autocast(device, dtype=torch.bfloat16):
                yield
        else:
            yield
    finally:
        for module, training in modes:
            module.training = training


def find_head(model: nn.Module) -> tuple[OutputHead | None, str]:
    """The output embedding and what follows it, or None and why it cannot be used.

    Runs the model twice on eight tokens, in evaluation mode, without a gradient and without
    drawing a random number.
    """
    core = core_model(model)
    module = output_module(model)
    if module is None:
        return None, "it names no output embedding"
    with evaluating(model), torch.no_grad():
        return _probe(model, module, _candidates(core.config.get_text_config().to_dict()))


def _candidates(config: dict[str, Any]) -> list[OutputMap]:
    """Every map that the config's known names allow, the plain one first."""
    scales = [1.0]
    for name in _SCALES:
        value = config.get(name)
        if isinstance(value, int | float) and value not in (0, 1):
            scales += [float(value), 1.0 / float(value)]
    caps = [None, *(config[name] for name in _CAPS if config.get(name))]
    return [OutputMap(scale, cap) for scale in scales for cap in caps]


def _probe(
    model: nn.Module, module: nn.Module, candidates: list[OutputMap]
) -> tuple[OutputHead | None, str]:
    core = core_model(model)
    device = core.get_input_embeddings().weight.device
    num_tokens = core.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(_PROBE_TOKENS, device=device) * 7 + 3) % num_tokens
    run = {"input_ids": ids[None], "use_cache": False}
    with capture(module, keep=lambda hidden: hidden) as seen:
        own_BLV = model(**run).logits
    if seen.hidden is None or seen.hidden.ndim != 3:
        return None, "its output embedding is not given hidden states of [batch, length, size]"
    near = seen.hidden
    raw = module(near)
    factor = _FAR / max(float(raw.float().abs().max()), 1e-6)
    with capture(module, keep=lambda hidden: hidden * factor):
        own_far_BLV = model(**run).logits
    raw_far = module(near * factor)
    for after in candidates:
        if _close(after(raw), own_BLV) and _close(after(raw_far), own_far_BLV):
            return OutputHead(module, after), ""
    return None, "its logits are not its output embedding's times a known scale and soft cap"


def _close(mine: torch.Tensor, own: torch.Tensor) -> bool:
    if mine.shape != own.shape:
        return False
    coarsest = max(_TOLERANCE[mine.dtype], _TOLERANCE[own.dtype])
    gap = (mine.double() - own.double()).abs().max()
    return bool(gap <= coarsest * own.double().abs().max())
