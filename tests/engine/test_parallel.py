"""One process is a world of its own; several are tried in tests/e2e/test_tune_ddp.py."""

import numpy as np
import pytest
import torch

from lamina.core.errors import RecipeError
from lamina.engine import parallel


def test_one_process_is_the_first_and_agrees_with_itself() -> None:
    assert (parallel.world(), parallel.rank(), parallel.is_main()) == (1, 0, True)
    parallel.start()
    parallel.barrier()
    parallel.stop()
    assert parallel.decided({"a": 1}) == {"a": 1}
    assert parallel.gathered("x") == ["x"]
    assert parallel.any_of(True) is True
    assert parallel.any_of(False) is False


def test_a_total_is_in_float64_and_a_copy() -> None:
    values = np.array([[1, 2], [3, 4]], dtype=np.float32)
    found = parallel.total(values)
    assert found.dtype == np.float64
    assert found.tolist() == values.tolist()
    found += 1
    assert values[0, 0] == 1


def test_before_joining_the_numbers_are_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (parallel.world(), parallel.rank(), parallel.is_main()) == (4, 2, False)


@pytest.mark.parametrize(
    ("value", "asked"),
    [("true", True), ("1", True), (" True ", True), ("false", False), ("", False)],
)
def test_sharding_is_asked_for_by_accelerates_variable(value: str, asked: bool) -> None:
    assert parallel.sharding_asked({"ACCELERATE_USE_FSDP": value}) is asked


def test_sharding_is_not_asked_for_by_default() -> None:
    assert parallel.sharding_asked({}) is False


def test_sharding_that_did_not_take_effect_is_an_error() -> None:
    model = torch.nn.Linear(2, 2)
    parallel.check_sharding(model, asked=False)
    with pytest.raises(RecipeError, match="the model is not sharded"):
        parallel.check_sharding(model, asked=True)


def test_sharding_without_a_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parallel.check_can_shard()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match="there is no GPU here"):
        parallel.check_can_shard()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("FSDP_VERSION", "2")
    parallel.check_can_shard()
