"""The linear modules of a checkpoint, from its headers alone: milliseconds, no model in memory.

The same ids in the same order as `engine.planned.linears` finds in a network. Not here: routers and
fused or numbered experts (transformers keeps the experts of a block in one tensor, which is no
linear module), convolutions, and whatever is quantised: its shapes are those of packed numbers.
"""

from lamina.core.errors import CheckpointError
from lamina.core.layers import Layer
from lamina.core.modules import Linear, Linears
from lamina.weights.adapter import CONV1D_MODELS, CONV1D_MODULES
from lamina.weights.checkpoint import Checkpoint, embedding_name, head_name
from lamina.weights.headers import FLOATS, SMALL_FLOATS, TensorInfo

_PREFIXES = {
    "h": "transformer.h",
    "layers": "model.layers",
    "decoder.layers": "model.decoder.layers",
}
"""Files of some families leave out the outermost module that a loaded model has."""


def linears_of(checkpoint: Checkpoint) -> Linears:
    """Every 2-D weight of an attention or feed-forward inside the blocks; paths as in the file.

    Raises:
        LayerError: the names show no list of blocks.
        CheckpointError: there is none that could be targeted.
    """
    layers = checkpoint.layers
    found = {
        unit: one
        for unit in layers.units("module")
        for name in layers.tensors(unit, "module")
        if (one := _linear(checkpoint, checkpoint.tensors[name], layers.of(name))) is not None
    }
    if not found:
        kinds = sorted({tensor.dtype for tensor in checkpoint.tensors.values()})
        raise CheckpointError(
            f"{checkpoint.path} ({checkpoint.architecture}, {len(checkpoint.tensors)} tensors of "
            f"{', '.join(kinds)}) has no linear module that can be targeted: a 2-D float weight of "
            "an attention or a feed-forward inside its blocks."
        )
    return Linears(layers.prefix, layers.num_blocks, found)


def head_weights(checkpoint: Checkpoint) -> int:
    """Weights of the output head, which every step goes through: its own or the embedding's."""
    name = head_name(checkpoint) or embedding_name(checkpoint)
    return checkpoint.tensors[name].num_elements if name is not None else 0


def network_prefix(checkpoint: Checkpoint) -> str:
    """Path of the list of blocks in a loaded model: `transformer.h` where the file says `h`."""
    prefix = checkpoint.layers.prefix
    return _PREFIXES.get(prefix, prefix)


def _linear(checkpoint: Checkpoint, tensor: TensorInfo, layer: Layer) -> Linear | None:
    """The linear module of a weight tensor; None for everything else."""
    right = (
        layer.block is not None
        and layer.role in {"attention", "mlp"}
        and tensor.name.endswith(".weight")
        and len(tensor.shape) == 2
        and tensor.dtype in FLOATS | SMALL_FLOATS
        and "experts" not in layer.module.split(".")
    )
    if not right or layer.block is None:
        return None
    path = tensor.name.removesuffix(".weight")
    outputs, inputs = tensor.shape
    if _is_conv1d(checkpoint, path):
        outputs, inputs = inputs, outputs
    return Linear(layer.id, path, layer.block, layer.role, inputs, outputs)


def _is_conv1d(checkpoint: Checkpoint, path: str) -> bool:
    """Whether a weight is stored as [in, out]: GPT-2's Conv1D."""
    kind = checkpoint.config.get("model_type")
    return kind in CONV1D_MODELS and path.rpartition(".")[2] in CONV1D_MODULES
