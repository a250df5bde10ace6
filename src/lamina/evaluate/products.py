"""A CPU's matrix products in float32 by oneDNN instead of MKL, while a network is only read.

torch multiplies float32 by MKL, which has no AVX-512 path on AMD: on an EPYC (Zen 4) oneDNN took
0.6 to 0.9 of its time for 128 rows and more, and 0.3 to 0.7 for 2 to 32 rows, as in writing, once
weights are packed. Packing copies the weights (`most_bytes` limits that); without it a product of
few rows is not faster, and is left to torch. Results differ by rounding only, which is checked on
each shape of weight, on the machine at hand; where anything is missing or differs, nothing is
changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

MOST_BYTES = 2**30
"""Of packed copies."""
_MANY_ROWS = 64
_FEW_WEIGHTS = 2**16
"""A smaller module's product of few rows takes less than oneDNN's own preparations."""
_APART = 1e-5
"""Largest difference there may be, relative to the largest value."""

Product = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Products:
    """The modules of a network and how they multiply instead."""

    by_module: tuple[tuple[nn.Module, Product], ...]

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """While this holds the network multiplies so; for inference, without gradients."""
        try:
            for module, product in self.by_module:
                module.__dict__["forward"] = product
            yield
        finally:
            for module, _ in self.by_module:
                module.__dict__.pop("forward", None)


def find_products(network: nn.Module, *, most_bytes: int = 0) -> Products:
    """How the linear modules of a network multiply faster; none where nothing is gained.

    Args:
        most_bytes: copies of weights, packed, may take as much; for products of few rows.
    """
    modules: list[Any] = [module for module in network.modules() if _fits(module)]
    if not modules or not torch.backends.mkldnn.is_available():
        return Products(())
    size = sum(module.weight.numel() * 4 for module in modules)
    packs = size <= most_bytes
    found, known = [], {}
    for module in modules:
        product = _product(module, packs=packs)
        shape = (tuple(module.weight.shape), module.bias is None)
        if shape not in known:
            known[shape] = product is not None and _agrees(module, product)
        if product is not None and known[shape]:
            found.append((module, product))
    return Products(tuple(found))


def _fits(module: Any) -> bool:
    """A plain linear module in float32 on the CPU, whose forward pass nobody has replaced."""
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and module.weight.is_contiguous()
        and "forward" not in vars(module)
    )


def _product(module: Any, *, packs: bool) -> Product | None:
    weight, bias = module.weight.detach(), module.bias
    try:
        multiply: Any = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(weight) if packs else weight
    except (AttributeError, RuntimeError):
        return None
    fewest = 2 if packs and weight.numel() >= _FEW_WEIGHTS else _MANY_ROWS
    size = weight.shape[1]

    def product(x: torch.Tensor) -> torch.Tensor:
        if x.numel() < fewest * size or x.dtype != torch.float32:
            return F.linear(x, weight, bias)
        return multiply(x, packed, bias, "none", [], "")

    return product


def _agrees(module: Any, product: Product) -> bool:
    """Whether the product is that of torch, up to rounding, for many rows and for few."""
    size = module.weight.shape[1]
    with torch.inference_mode():
        for rows in (4, _MANY_ROWS + 3):
            x = torch.arange(rows * size, dtype=torch.float32).mul(0.37).sin().view(1, rows, size)
            wanted = F.linear(x, module.weight, module.bias)
            try:
                gap = (product(x) - wanted).abs().max()
            except RuntimeError:
                return False
            if not gap <= _APART * wanted.abs().max():
                return False
    return True
