"""Sums of the training loss by domain within a window: on the device, read when they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(slots=True)
class Tally:
    """Sums of this window's training loss by domain, kept on the device until they are asked."""

    sums: torch.Tensor
    tokens: torch.Tensor
    step_sums: list[tuple[torch.Tensor, torch.Tensor]]
    """Of this optimiser step, a pair for each forward pass: (domain, row) [R, 2]; nats [R]."""

    @classmethod
    def empty(cls, num_domains: int, device: torch.device) -> Tally:
        zeros = torch.zeros(num_domains, dtype=torch.float64, device=device)
        return cls(zeros, torch.zeros_like(zeros), [])

    def add(self, batch: Mapping[str, torch.Tensor], per_example: torch.Tensor) -> None:
        rows, owner_rows = batch["rows"], batch["owner_rows"]
        domain_of_example = rows[owner_rows, 0]
        self.sums.index_add_(0, domain_of_example, per_example.double())
        self.tokens.index_add_(0, domain_of_example, batch["tokens"].double())
        row_sums = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        row_sums.index_add_(0, owner_rows, per_example.double())
        self.step_sums.append((rows, row_sums))

    def bad_rows(self) -> list[tuple[int, int]]:
        """Rows of this step whose loss is not finite; forgets the step."""
        finite = torch.stack([sums.isfinite().all() for _, sums in self.step_sums]).all()
        found = []
        if not finite:
            for rows, sums in self.step_sums:
                found += [tuple(place) for place in rows[~sums.isfinite()].tolist()]
        self.step_sums = []
        return found
