"""Which block and module a tensor belongs to, and what it does there, from its name alone.

A merge needs no model and no config for this. Names are split at their dots and compared component
by component, never by substring: `model.layers.1.` says nothing about `model.layers.12.`, and
`experts.3` inside a block is not a block. Covers Llama, Qwen, Gemma, Mistral, Phi, GPT-2, GPT-NeoX,
OPT, BLOOM, Mixtral, OLMo, Falcon and what is named alike; a component it does not know gets the
role `other` and keeps its block. Linear in the number of names.
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from lamina.core.errors import LayerError, did_you_mean

Role = Literal["attention", "mlp", "router", "norm", "embedding", "head", "other"]
Granularity = Literal["block", "module"]
Grain = Literal["block", "sublayer", "module"]
"""What a score can stand for: `12`, `12.attention`, `12.mlp.up_proj`."""

# The names that transformers gives to the list of decoder blocks.
BLOCK_LISTS = frozenset({"layers", "h", "blocks", "layer", "block"})

ATTENTION = frozenset(
    {
        "self_attn",
        "attn",
        "attention",
        "self_attention",
        "linear_attn",
        "cross_attn",
        "encoder_attn",
    }
)
MLP = frozenset({"mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "fc1", "fc2"})
ROUTERS = frozenset({"router", "shared_expert_gate"})
NORMS = frozenset(
    """
    norm norm1 norm2 norm_1 norm_2 norm_f final_norm final_layernorm final_layer_norm layernorm
    layer_norm ln ln_1 ln_2 ln_f ln_attn ln_mlp attn_ln attn_norm attention_norm attention_layernorm
    ffn_norm mlp_norm input_norm input_layernorm post_attention_norm post_attention_layernorm
    pre_feedforward_layernorm post_feedforward_layernorm post_mlp_layernorm self_attn_layer_norm
    encoder_attn_layer_norm q_norm k_norm q_layernorm k_layernorm query_layernorm key_layernorm
    word_embeddings_layernorm layernorm_embedding embed_layer_norm embedding_norm
    """.split()
)
EMBEDDINGS = frozenset(
    """
    embed_tokens embed_positions embed_in embedding embeddings embed wte wpe word_embeddings
    position_embeddings tok_embeddings
    """.split()
)
HEADS = frozenset({"lm_head", "embed_out", "output", "head", "score", "classifier"})
# Not weights: masks and tables that older files carry along.
BUFFERS = frozenset({"masked_bias", "inv_freq", "rotary_emb"})

_ROLE_ORDER: Mapping[str, int] = {role: place for place, role in enumerate(get_args(Role))}


@dataclass(frozen=True, slots=True)
class Layer:
    """Where one tensor stands: its block, the module inside it, and what the module does."""

    block: int | None
    module: str
    role: Role

    @property
    def id(self) -> str:
        """`12.mlp.up_proj`, or `embed_tokens` for a tensor outside the blocks."""
        return self.module if self.block is None else f"{self.block}.{self.module}"


@dataclass(frozen=True)
class LayerMap:
    """Every tensor name of one model with its layer."""

    prefix: str
    """Path of the block list: `model.layers`; empty when there is none."""
    num_blocks: int
    layers: Mapping[str, Layer]

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "LayerMap":
        """The map of one model's tensor names, in any order.

        Raises:
            LayerError: blocks are missing from the list, or two lists could be the model's.
        """
        paths = {name: tuple(name.split(".")) for name in names}
        prefix, num_blocks = _find_blocks(paths.values())
        known = {path[:depth] for path in paths.values() for depth in range(1, len(path) + 1)}
        return cls(
            prefix=".".join(prefix),
            num_blocks=num_blocks,
            layers={name: _layer(path, prefix, known) for name, path in paths.items()},
        )

    def of(self, name: str) -> Layer:
        """The layer of one tensor.

        Raises:
            LayerError: this model has no tensor of that name.
        """
        if name not in self.layers:
            raise LayerError(
                f"no tensor `{name}` in this model: {did_you_mean(name, _few(self.layers))}"
            )
        return self.layers[name]

    def blocks(self) -> range:
        """The numbers of the blocks, from 0."""
        return range(self.num_blocks)

    def units(self, granularity: Granularity) -> tuple[str, ...]:
        """What gets a score of its own, in model order: `0`, `1`, ... or `0.self_attn.q_proj`, ...

        The order depends on the names only, not on the order of the files they came from.

        Raises:
            LayerError: the names show no list of blocks.
        """
        if not self.num_blocks:
            first = ", ".join(sorted(self.layers)[:3]) or "none"
            raise LayerError(
                f"no list of blocks among {len(self.layers)} tensor names (first: {first}). We need"
                " names such as `model.layers.0.mlp.up_proj.weight`, numbered from 0 without a gap."
            )
        return tuple(self._members[granularity])

    def unit_of(self, name: str, granularity: Granularity) -> str | None:
        """The unit a tensor counts towards; None outside the blocks.

        By module also None for masks and tables, which have no weights to compare.
        """
        layer = self.of(name)
        if layer.block is None:
            return None
        if granularity == "block":
            return str(layer.block)
        return None if _is_buffer(layer) else layer.id

    def tensors(self, unit: str, granularity: Granularity) -> tuple[str, ...]:
        """The names of the tensors of one unit, sorted.

        Raises:
            LayerError: there is no such unit.
        """
        members = self._members[granularity]
        if unit not in members:
            raise LayerError(
                f"no {granularity} `{unit}` in this model: {did_you_mean(unit, _few(members))}"
            )
        return members[unit]

    @cached_property
    def _members(self) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
        ordered = sorted(self.layers, key=lambda name: (_place(self.layers[name]), name))
        members: dict[str, dict[str, list[str]]] = {"block": {}, "module": {}}
        for granularity in get_args(Granularity):
            for name in ordered:
                unit = self.unit_of(name, granularity)
                if unit is not None:
                    members[granularity].setdefault(unit, []).append(name)
        return {
            granularity: {unit: tuple(sorted(names)) for unit, names in units.items()}
            for granularity, units in members.items()
        }


def _find_blocks(paths: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], int]:
    """The path and length of the block list: numbered, not inside another list, the shallowest."""
    numbers: dict[tuple[str, ...], dict[int, int]] = {}
    for path in paths:
        place = next((i for i, part in enumerate(path) if _is_number(part)), 0)
        if place:
            counts = numbers.setdefault(path[:place], {})
            counts[int(path[place])] = counts.get(int(path[place]), 0) + 1
    named = {path: counts for path, counts in numbers.items() if path[-1] in BLOCK_LISTS}
    whole = {path: counts for path, counts in numbers.items() if len(counts) == max(counts) + 1}
    lists = named or whole
    if not lists:
        return (), 0

    def preference(path: tuple[str, ...]) -> tuple[int, int]:
        return len(path), -sum(lists[path].values())

    best, *rest = sorted(lists, key=lambda path: (preference(path), path))
    if rest and preference(rest[0]) == preference(best):
        raise LayerError(
            f"two lists of blocks of the same size, `{'.'.join(best)}` and `{'.'.join(rest[0])}`:"
            " lamina works on models with one list of decoder blocks."
        )
    found = lists[best]
    missing = [n for n in range(min(max(found), 4 * len(found)) + 1) if n not in found]
    if missing:
        told = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise LayerError(
            f"`{'.'.join(best)}` has {len(found)} blocks, the last is {max(found)}, and these are"
            f" missing: {told}. Blocks are numbered from 0 without a gap; is a file of this model"
            " missing?"
        )
    return best, len(found)


def _layer(path: tuple[str, ...], prefix: tuple[str, ...], known: Set[tuple[str, ...]]) -> Layer:
    """The layer of one tensor; `known` holds all paths and the paths that contain them."""
    depth = len(prefix)
    inside = 0 < depth < len(path) - 1 and path[:depth] == prefix and _is_number(path[depth])
    if inside:
        rest = path[depth + 1 :]
    else:
        parent = prefix[:-1]
        rest = (path[len(parent) :] if path[: len(parent)] == parent else path) or path[-1:]
    # A bias on an attention that has no weight is the causal mask of older GPT-2, GPT-NeoX files.
    is_mask = (
        rest[-1] == "bias"
        and bool(ATTENTION.intersection(rest[-2:-1]))
        and (*path[:-1], "weight") not in known
    )
    is_leaf = len(rest) > 1 and rest[-1] in {"weight", "bias"} and not is_mask
    module = rest[:-1] if is_leaf else rest
    # `gate` beside `experts` chooses among them; in any other feed-forward it is half of a product.
    beside = path[: len(path) - len(rest) + len(module) - 1]
    is_router = module[-1] == "gate" and (*beside, "experts") in known
    role: Role = "other" if is_mask else "router" if is_router else _role(module, inside=inside)
    return Layer(int(path[depth]) if inside else None, ".".join(module), role)


def _role(module: tuple[str, ...], *, inside: bool) -> Role:
    """What a module does, by the exact names of its components."""
    if BUFFERS.intersection(module):
        return "other"
    if module[-1] in NORMS:
        return "norm"
    if not inside:
        return (
            "embedding" if module[-1] in EMBEDDINGS else "head" if module[-1] in HEADS else "other"
        )
    if ROUTERS.intersection(module):
        return "router"
    if ATTENTION.intersection(module):
        return "attention"
    return "mlp" if MLP.intersection(module) else "other"


def _is_buffer(layer: Layer) -> bool:
    parts = layer.module.split(".")
    return layer.role == "other" and (parts[-1] == "bias" or bool(BUFFERS.intersection(parts)))


def _is_number(part: str) -> bool:
    """Whether a component is a plain number of at most 9 digits; `007` is a name."""
    return part.isascii() and part.isdigit() and len(part) < 10 and str(int(part)) == part


def _place(layer: Layer) -> tuple[object, ...]:
    """Sorts by block, attention before mlp, `experts.2` before `experts.10`."""
    numbered = tuple((int(p), "") if _is_number(p) else (-1, p) for p in layer.module.split("."))
    block = -1 if layer.block is None else layer.block
    return block, _ROLE_ORDER[layer.role], numbered


def _few(names: Iterable[str]) -> list[str]:
    """The names themselves when there are few; difflib and the reader cannot use thousands."""
    return sorted(names)[:2000]
