"""The opened inputs of a merge as memory."""

import numpy as np

from lamina.merge.inputs import Inputs, Model
from lamina.weights.sources import Source


class Sources:
    """The opened inputs of a merge, one mapping for each model however many roles it plays."""

    def __init__(self, inputs: Inputs) -> None:
        opened: dict[int, Source] = {}

        def once(model: Model) -> Source:
            if id(model) not in opened:
                opened[id(model)] = Source(model)
            return opened[id(model)]

        def maybe(model: Model | None) -> Source | None:
            return None if model is None else once(model)

        self.target = once(inputs.target)
        self.reference = maybe(inputs.reference)
        self.base = maybe(inputs.base)
        self.experts = {name: once(model) for name, model in inputs.experts.items()}

    def all(self) -> list[Source]:
        found = [self.target, self.reference, self.base, *self.experts.values()]
        return list(dict.fromkeys(source for source in found if source is not None))


def address_of(
    source: Source | None,
    name: str,
    first: int,
    n: int,
    end: int,
    scratch: np.ndarray | None,
) -> int:
    """The address of a chunk, 0 where there is no source or the tensor has ended there."""
    if source is None or first >= end:
        return 0
    return source.chunk(name, first, min(n, end - first), scratch)
