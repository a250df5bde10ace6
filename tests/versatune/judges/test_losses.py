"""Losses of labelled rows, batch or no batch, against a plain computation."""

from typing import Any

import pytest
import torch

from lamina.versatune.judges.losses import text_losses


def plain(planted: Any, text: str, most: int) -> tuple[float, int]:
    ids = planted.tokenizer.encode(text)[:most]
    with torch.no_grad():
        logits = planted.model(input_ids=torch.tensor([[0, *ids[:-1]]])).logits[0].log_softmax(-1)
    return -sum(float(logits[t, token]) for t, token in enumerate(ids)), len(ids)


@pytest.mark.parametrize("most", [3, 20])
def test_each_row_has_its_own_loss(planted: Any, most: int) -> None:
    rows = [" ".join(text.split()[: 1 + n % 6]) for n, text in enumerate(planted.labelled["law"])]
    found = text_losses(planted.model, planted.tokenizer, rows, start_id=0, max_tokens=most)
    expected = [plain(planted, row, most) for row in rows]
    assert found.tokens == tuple(count for _, count in expected)
    assert found.sums == pytest.approx([loss for loss, _ in expected], rel=1e-4)
    assert found.num_bytes[0] == len(rows[0].encode())


def test_rows_without_tokens_are_left_out(planted: Any) -> None:
    found = text_losses(
        planted.model, planted.tokenizer, ["", "court judge"], start_id=0, max_tokens=9
    )
    assert found.tokens == (2,)
