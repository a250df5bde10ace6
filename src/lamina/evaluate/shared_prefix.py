"""One pass over many questions without padding, what they share read once.

The tokens of a pass lie in one flat row. Linear modules see no padding; attention is done stem by
stem (`stems`), each token attending to what came before it in its own input: the prefix that was
read before, its prompt, its tail. So neither a mask over the whole row nor a cache of transformers
is needed. As in `engine.fast`, transformers is given an attention function, and what a model asks
of its attention that is not done here (sliding windows that are too short, soft caps, sinks, ALiBi)
makes it be read the plain way instead; so does a model whose scores of a probe are not the plain
ones.

Letters: T tokens of a pass, S of the prefix, N of a stem, H heads, D their size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from lamina.core.errors import LayerError
from lamina.engine.fast import NotHere
from lamina.engine.heads import OutputHead, capture, core_model, nothing, takes_positions
from lamina.engine.prefix import blocks_of
from lamina.evaluate.models import LanguageModel
from lamina.evaluate.outputs import Asked, Score, scores
from lamina.evaluate.stems import Stem, Tokens, stem_of
from lamina.evaluate.windows import Window

NAME = "lamina_stems"
_REFUSED = ("softcap", "s_aux", "position_bias", "cache")
_LIMITS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window")
"""Configs' names for how far back a layer looks."""
_BY_LENGTH = ("dynamic", "longrope")
"""Rotary positions that turn otherwise as the longest input of a pass grows."""
_APART = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}


@dataclass(slots=True)
class Layout:
    """What the attention function needs to know of a pass."""

    stems: Sequence[Stem]
    masks: list[torch.Tensor | None]
    """For each stem who sees whom [N, S + N]; None where that is plainly causal."""
    kept: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """By layer, the prefix's keys and values [H, S, D]."""
    keeps: bool = False
    """Whether this pass is that of a prefix, whose keys and values are kept."""
    layer: int = 0
    """The next one."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    lamina_layout: Layout | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each stem; an attention function of transformers.

    Args:
        query: [1, H, T, D]; key and value may have fewer heads.

    Returns: [1, T, H, D], and no weights.

    Raises:
        NotHere: a cache, a mask, or a kind of attention that this is not.
    """
    kinds = [name for name in _REFUSED if others.get(name) is not None]
    kinds += ["is_causal=False"] if others.get("is_causal") is False else []
    layout = lamina_layout
    if kinds or layout is None or attention_mask is not None or key.shape[2] != query.shape[2]:
        raise NotHere(f"{type(module).__name__} asks for {kinds}, a mask or a cache")
    if sliding_window is not None and max(s.longest for s in layout.stems) > sliding_window:
        raise NotHere(f"{type(module).__name__} sees {sliding_window} tokens at once")
    before = layout.kept[layout.layer] if layout.kept and not layout.keeps else None
    layout.layer += 1
    out_1THD = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    grouped = query.shape[1] != key.shape[1]
    begin = 0
    for stem, mask in zip(layout.stems, layout.masks, strict=True):
        end = begin + len(stem.tokens)
        k, v = key[:, :, begin:end], value[:, :, begin:end]
        if before is not None:
            k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
        out_1THD[:, begin:end] = F.scaled_dot_product_attention(
            query[:, :, begin:end],
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=mask is None,
            scale=scaling,
            enable_gqa=grouped,
        ).transpose(1, 2)
        begin = end
    if layout.keeps:
        layout.kept.append((key, value))
    return out_1THD, None


@dataclass(frozen=True, slots=True)
class SharedWay:
    """How a model can be read so."""

    head: OutputHead
    last: Any
    """The feed-forward module of the last block, where it has one: nothing after it mixes tokens,
    so it need not be run where no output is asked for. None: it is run everywhere."""
    limit: int
    """Longer inputs are read the plain way: a window of attention would cut them."""


Kept = list[tuple[torch.Tensor, torch.Tensor]]


def read_prefix(model: LanguageModel, way: SharedWay, prefix: Tokens) -> Kept:
    """Keys and values of a prefix, by layer: read alone, and so always the same."""
    if not prefix:
        return []
    layout = Layout([Stem(0, prefix, ())], [None], keeps=True)
    _run(model, way, layout, ())
    return layout.kept


def shared_scores(
    model: LanguageModel,
    way: SharedWay,
    questions: Sequence[Sequence[Window]],
    *,
    begin: int = 0,
    kept: Kept | None = None,
) -> list[Score]:
    """The score of every window of the questions, in one pass.

    Args:
        begin: tokens of the prefix that all windows begin with; `kept` is what was read of it.

    Raises:
        NotHere: see `attention`.
    """
    stems, asked, offset, owner = [], Asked(), 0, 0
    for windows in questions:
        stem, places = stem_of(windows, begin)
        for window, own in zip(windows, places, strict=True):
            asked.add(owner, [offset + place for place in own], window.tokens[-window.scored :])
            owner += 1
        stems.append(stem)
        offset += len(stem.tokens)
    masks = [_mask(stem, model.device) for stem in stems]
    hidden_TH = _run(model, way, Layout(stems, masks, kept or []), asked.places)
    return scores(
        asked,
        owner,
        lambda place_P: way.head(hidden_TH[place_P]),
        vocabulary=model.num_embeddings,
        device=model.device,
    )


def _run(
    model: LanguageModel, way: SharedWay, layout: Layout, needed: Sequence[int]
) -> torch.Tensor:
    """The hidden states [T, H] that the output embedding would be given, right where `needed`."""
    ids = [token for stem in layout.stems for token in stem.tokens]
    positions = [place for stem in layout.stems for place in stem.positions]
    network: Any = model.network
    place_P = torch.tensor(sorted(set(needed)), dtype=torch.long, device=model.device)
    narrow = _only(way.last, place_P) if 2 * len(place_P) <= len(ids) else contextlib.nullcontext()
    with capture(way.head.module, keep=nothing) as seen, narrow:
        network(
            input_ids=torch.tensor([ids], device=model.device),
            position_ids=torch.tensor([positions], device=model.device),
            use_cache=False,
            lamina_layout=layout,
        )
    assert seen.hidden is not None, "the output embedding was not called"
    return seen.hidden[0]


def _mask(stem: Stem, device: torch.device) -> torch.Tensor | None:
    """Who sees whom [N, S + N]: the prefix, the prompt, and what came before in its own tail."""
    if not stem.begin and not stem.tails:
        return None
    size = len(stem.tokens)
    own = torch.ones(size, size, dtype=torch.bool).tril()
    begin = common = len(stem.prompt)
    for tail in stem.tails:
        own[begin : begin + len(tail), common:begin] = False
        begin += len(tail)
    return torch.cat([torch.ones(size, stem.begin, dtype=torch.bool), own], 1).to(device)


@contextlib.contextmanager
def attending_by_stem(model: LanguageModel) -> Iterator[None]:
    """While this holds the model attends stem by stem."""
    core = core_model(model.network)
    before = core.config._attn_implementation
    try:
        core.set_attn_implementation(NAME)
        yield
    finally:
        core.set_attn_implementation(before)


def find_shared(model: LanguageModel, head: OutputHead) -> SharedWay | None:
    """How the model can be read so; None where it cannot, or where a probe shows another result."""
    core = core_model(model.network)
    if core.config._attn_implementation != "sdpa" or not takes_positions(core):
        return None
    config = core.config.get_text_config().to_dict()
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") in _BY_LENGTH:
        return None
    limits = [config[name] for name in _LIMITS if isinstance(config.get(name), int)]
    limit = min([model.max_length, *limits])
    _register()
    ways = (SharedWay(head, last, limit) for last in {_last_feed_forward(core): 0, None: 0})
    return next((way for way in ways if _agrees(model, way)), None)


def _last_feed_forward(core: Any) -> Any:
    """The module `mlp` of the last block; None where there is none of that name."""
    try:
        block = blocks_of(core)[-1]
    except LayerError:
        return None
    return dict(block.named_children()).get("mlp")


@contextlib.contextmanager
def _only(module: Any, place_P: torch.Tensor) -> Iterator[None]:
    """While this holds the module runs at these places of a row, and gives zeros elsewhere."""
    if module is None:
        yield
        return
    own = module.forward

    def forward(hidden_1TH: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(hidden_1TH)
        if len(place_P):
            out[:, place_P] = own(hidden_1TH[:, place_P])
        return out

    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward")


def _agrees(model: LanguageModel, way: SharedWay) -> bool:
    """Whether every token of a probe has the outputs it has when its row is read alone."""
    prefix, questions = _probe(model.num_embeddings)
    windows = [[_whole(prefix + tokens, len(prefix)) for tokens in some] for some in questions]
    longest = max(window.length for some in windows for window in some)
    if longest > way.limit:
        return False
    stems, places, offset = [], [], 0
    for some in windows:
        stem, own = stem_of(some, len(prefix))
        places += [[offset + place for place in one] for one in own]
        offset += len(stem.tokens)
        stems.append(stem)
    try:
        with torch.inference_mode():
            alone = _alone(model, [window for some in windows for window in some], len(prefix))
            with attending_by_stem(model):
                kept = read_prefix(model, way, prefix)
                layout = Layout(stems, [_mask(stem, model.device) for stem in stems], kept)
                every = [place for one in places for place in one]
                whole_TH = _run(model, way, layout, every)
                layout.layer = 0
                last = [one[-1] for one in places]
                some_TH = _run(model, way, layout, last)
            ends = torch.stack([logits[-1] for logits in alone])
            gap = max(
                _distance(way.head(whole_TH[torch.tensor(every)]), torch.cat(alone)),
                _distance(way.head(some_TH[torch.tensor(last)]), ends),
            )
    except (NotHere, TypeError, ValueError, KeyError, RuntimeError):
        # A forward pass of its own kind; the plain way says what is wrong, if anything is.
        return False
    return gap <= _APART[whole_TH.dtype]


def _alone(model: LanguageModel, windows: Sequence[Window], begin: int) -> list[torch.Tensor]:
    """The outputs of each window after `begin`, in rows padded on the right."""
    network: Any = model.network
    inputs_BL = torch.zeros(len(windows), max(w.length for w in windows), dtype=torch.long)
    for row, window in enumerate(windows):
        inputs_BL[row, : window.length] = torch.tensor(window.tokens[:-1])
    logits_BLV = network(input_ids=inputs_BL.to(model.device), use_cache=False).logits
    return [logits_BLV[row, begin : window.length] for row, window in enumerate(windows)]


def _probe(num_ids: int) -> tuple[Tokens, list[list[Tokens]]]:
    """A prefix, and two questions after it: prompts with tails of their own."""
    ids = iter(range(3, 10**6, 7))
    some = [tuple(next(ids) % num_ids for _ in range(size)) for size in (3, 4, 2, 3, 3, 1, 4)]
    prefix, first, second = some[0], some[1], some[4]
    return prefix, [[first + some[2], first + some[3]], [second + some[5], second + some[6]]]


def _whole(tokens: Tokens, begin: int) -> Window:
    """A window whose every output after `begin` is asked for; its last token is nothing's."""
    return Window(0, (*tokens, 0), len(tokens) - begin)


def _distance(logits: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square of the difference over that of the logits about each position's mean."""
    logits, other = logits.double(), other.double()
    spread = (other - other.mean(-1, keepdim=True)).square().mean().sqrt()
    return float((logits - other).square().mean().sqrt() / spread.clamp_min(1e-12))


def _register() -> None:
    """Makes transformers know the attention, and that it wants no mask."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
