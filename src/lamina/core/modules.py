"""The linear modules inside a model's blocks: what gets an adapter, a gate, or is frozen.

One noun for both places they are read from: the headers of a checkpoint (no model in memory,
`weights.linears`) and a network in memory (`engine.planned`). Ids are those of `core.layers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.core.errors import LayerError
from lamina.core.layers import Grain, Role
from lamina.core.scores import LayerScores


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear module of one block."""

    id: str
    """`12.mlp.up_proj`"""
    path: str
    """Its name in the model: `model.layers.12.mlp.up_proj`."""
    block: int
    role: Role
    num_inputs: int
    num_outputs: int

    @property
    def weights(self) -> int:
        """Values of its weight matrix, without a bias."""
        return self.num_inputs * self.num_outputs

    def lora_parameters(self, rank: int) -> int:
        """Values of its two LoRA factors, A [rank, inputs] and B [outputs, rank]."""
        return rank * (self.num_inputs + self.num_outputs)


@dataclass(frozen=True)
class Linears:
    """All linear modules inside the blocks of one model, in model order."""

    prefix: str
    """Path of the list of blocks: `model.layers`."""
    num_blocks: int
    by_id: Mapping[str, Linear]

    def members(self, unit: str, grain: Grain) -> tuple[str, ...]:
        """Ids of the modules that a unit stands for: `12`, `12.attention`, or a module itself."""
        if grain == "module":
            return (unit,) if unit in self.by_id else ()
        return tuple(one.id for one in self.by_id.values() if unit_of(one, grain) == unit)

    def units(self, grain: Grain) -> tuple[str, ...]:
        """Every unit of a grain that has a module, in model order."""
        return tuple(dict.fromkeys(unit_of(one, grain) for one in self.by_id.values()))

    def by_module(self, scores: LayerScores) -> LayerScores:
        """The scores with a value for each module: a block's is that of all modules in it.

        Raises:
            LayerError: the scores are of other units than this model has.
        """
        check_units(scores.values, self.units(scores.granularity), what=f"scores ({scores.method})")
        if scores.granularity == "module":
            return scores

        def spread(table: Mapping[str, float]) -> dict[str, float]:
            return {
                one.id: table[unit]
                for one in self.by_id.values()
                if (unit := unit_of(one, scores.granularity)) in table
            }

        return scores.model_copy(
            update={
                "granularity": "module",
                "values": spread(scores.values),
                "columns": {name: spread(table) for name, table in scores.columns.items()},
                "spread": None if scores.spread is None else spread(scores.spread),
            }
        )


def unit_of(module: Linear, grain: Grain) -> str:
    """The unit of a grain that a module belongs to: `12`, `12.attention`, `12.mlp.up_proj`."""
    if grain == "module":
        return module.id
    if grain == "block":
        return str(module.block)
    return f"{module.block}.{module.role}"


def check_units(seen: Mapping[str, float], needed: tuple[str, ...], *, what: str) -> None:
    """That a table has a value for exactly the units that a model has.

    Raises:
        LayerError: values missing, or of units that the model has not.
    """
    known = set(needed)
    missing = [unit for unit in needed if unit not in seen]
    strange = [unit for unit in seen if unit not in known]
    if missing or strange:
        told = [f"no value for {_few(missing)}"] if missing else []
        told += [f"the model has no {_few(strange)}"] if strange else []
        raise LayerError(
            f"{what} of {len(seen)} units do not fit a model of {len(needed)}: {'; '.join(told)}. "
            "Measure them on a model of this architecture."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if names[6:] else "")
