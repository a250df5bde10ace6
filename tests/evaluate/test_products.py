from typing import Any

import pytest

from lamina.evaluate import products
from lamina.evaluate.products import MOST_BYTES, find_products


def _network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 7, bias=False))


@pytest.mark.parametrize("most_bytes", [0, MOST_BYTES])
@pytest.mark.parametrize("rows", [1, 2, 63, 64, 200])
def test_products_are_those_of_torch(most_bytes: int, rows: int) -> None:
    import torch

    network = _network()
    found = find_products(network, most_bytes=most_bytes)
    x = torch.randn(2, rows, 300)
    with torch.inference_mode():
        wanted = network(x)
        with found.used():
            assert torch.allclose(network(x), wanted, rtol=1e-5, atol=1e-5)
        assert network(x).equal(wanted)


def test_modules_of_another_kind_are_left_alone() -> None:
    import torch
    from torch import nn

    class Own(nn.Linear):
        pass

    network = nn.Sequential(Own(80, 80), nn.Linear(80, 80).to(torch.bfloat16), nn.Embedding(9, 80))
    assert find_products(network).by_module == ()


def test_a_product_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _network()
    if not find_products(network).by_module:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "_product", lambda module, packs: lambda x: 1.01 * module(x))
    assert find_products(network).by_module == ()


def test_an_error_leaves_the_network_as_it_was() -> None:
    network = _network()
    found = find_products(network)
    with pytest.raises((RuntimeError, TypeError, AttributeError)), found.used():
        network(1)  # pyrefly: ignore
    assert not any("forward" in vars(module) for module in network)
