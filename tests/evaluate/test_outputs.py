from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lamina.evaluate import outputs
from lamina.evaluate.outputs import Asked, Score

if TYPE_CHECKING:
    import torch


@pytest.fixture
def logits() -> torch.Tensor:
    import torch

    torch.manual_seed(0)
    return torch.randn(9, 5)


def _scores(logits: torch.Tensor, asked: Asked, owners: int) -> list[Score]:
    return outputs.scores(
        asked, owners, lambda place_P: logits[place_P], vocabulary=5, device=logits.device
    )


@pytest.mark.parametrize("at_once", [1, 10, 2**20])
def test_a_score_is_the_sum_over_its_tokens(
    logits: torch.Tensor,
    at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outputs, "_MAX_VALUES", at_once)
    wanted = logits.double().log_softmax(-1)
    best = logits.argmax(-1).tolist()
    asked = Asked()
    asked.add(0, [3, 4], [1, 2])
    asked.add(1, [8, 3, 0], [best[8], best[3], best[0]])
    asked.add(2, [4], [0])
    asked.add(3, [0, 1], [best[0], (best[1] + 1) % 5])
    found = _scores(logits, asked, 4)
    sums = [
        wanted[3, 1] + wanted[4, 2],
        sum(wanted[place, best[place]] for place in (8, 3, 0)),
        wanted[4, 0],
        wanted[0, best[0]] + wanted[1, (best[1] + 1) % 5],
    ]
    assert [score.logprob for score in found] == pytest.approx([float(s) for s in sums], rel=1e-6)
    assert [score.greedy for score in found] == [False, True, best[4] == 0, False]


def test_each_place_is_asked_for_once(logits: torch.Tensor) -> None:
    seen: list[int] = []

    def logits_of(place_P: torch.Tensor) -> torch.Tensor:
        seen.extend(place_P.tolist())
        return logits[place_P]

    asked = Asked()
    for token in range(5):
        asked.add(token, [7], [token])
    found = outputs.scores(asked, 5, logits_of, vocabulary=5, device=logits.device)
    assert seen == [7]
    assert sum(score.greedy for score in found) == 1


def test_of_two_largest_outputs_the_first_is_said() -> None:
    import torch

    asked = Asked()
    asked.add(0, [0], [1])
    asked.add(1, [0], [2])
    found = _scores(torch.tensor([[0.0, 3.0, 3.0]]), asked, 2)
    assert [score.greedy for score in found] == [True, False]


def test_half_precision_is_summed_in_float32() -> None:
    import torch

    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.bfloat16)
    asked = Asked()
    asked.add(0, [0] * 3, [0, 1, 2])
    wanted = float(logits.double().log_softmax(-1).sum())
    (found,) = _scores(logits, asked, 1)
    assert found.logprob == pytest.approx(wanted, rel=1e-6)
