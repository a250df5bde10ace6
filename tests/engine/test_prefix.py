"""Beginning above the frozen blocks: the same losses and gradients, and nothing kept below."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lamina.core.errors import OutputError, RecipeError
from lamina.data.encode import Examples
from lamina.engine import prefix_cache
from lamina.engine.collate import PackedRow, collate, packed_row
from lamina.engine.distil import starting_model
from lamina.engine.fast import attending_by_example
from lamina.engine.heads import core_model
from lamina.engine.heldout import heldout_losses
from lamina.engine.load import quiet
from lamina.engine.losses import LossHead
from lamina.engine.prefix import (
    beginning_at,
    blocks_of,
    end_at_prefix,
    frozen_prefix,
    hidden_before,
    run_from,
)
from lamina.engine.prefix_cache import PrefixAt, PrefixCache, reading

FAMILIES = {
    "llama": "self_attn.q_proj",
    "gpt_neox": "attention.query_key_value",
    "gpt2": "attn.c_attn",
    "gemma2": "self_attn.q_proj",
}
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "attn_implementation": "eager"},
}
NUM_BLOCKS = 4


def examples(seed: int = 0, count: int = 9) -> Examples:
    draws = np.random.default_rng(seed)
    lengths = draws.integers(3, 12, count)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    trained = np.ones(starts[-1], dtype=bool)
    trained[starts[:-1]] = False
    return Examples(
        ids=draws.integers(2, 61, starts[-1]).astype(np.int32),
        trained=trained,
        starts=starts,
        num_bytes=lengths.astype(np.int64),
        places=tuple(f"rows.jsonl:{number + 1}" for number in range(count)),
    )


def rows_of(one: Examples) -> list[PackedRow]:
    """Three examples a row."""
    return [packed_row(one, range(n, n + 3), row=n) for n in range(0, len(one), 3)]


@pytest.fixture
def adapted(network: Callable[..., Any]) -> Callable[..., Any]:
    """A network with LoRA in some of its blocks, B drawn so that it does something."""

    def make(kind: str = "llama", blocks: tuple[int, ...] = (2, 3), **changes: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        sizes = {"num_hidden_layers": NUM_BLOCKS, **CHANGES.get(kind, {})}
        plain = network(kind, **(sizes | changes))
        plain.config.use_cache = False
        targets = [
            name
            for name, _ in plain.named_modules()
            if name.endswith(FAMILIES[kind]) and any(f".{block}." in name for block in blocks)
        ]
        assert len(targets) == len(blocks)
        conv = kind == "gpt2"
        config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=conv)
        with quiet():
            model = get_peft_model(plain, config)
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        return model.train()

    return make


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def cache_of(model: Any, folder: Path, *groups: Examples, **options: Any) -> PrefixCache:
    return PrefixCache.settled(model, PrefixAt(folder, "model", groups or (examples(),)), **options)


def step(model: Any, batch: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch and the gradients of what is trained."""
    model.zero_grad()
    sums = LossHead(model)(model, batch)
    sums.loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return float(sums.loss.detach()), grads


# ---- the backward pass ends at the lowest trained block


@pytest.mark.parametrize(("blocks", "lowest"), [((2, 3), 2), ((0, 3), 0), ((3,), 3)])
def test_the_lowest_block_with_an_adapter(
    adapted: Callable[..., Any], blocks: tuple[int, ...], lowest: int
) -> None:
    assert frozen_prefix(adapted(blocks=blocks)) == lowest


@pytest.mark.parametrize(
    ("trained", "lowest"),
    [("model.norm", 2), ("embed_tokens", 0), ("layers.1.mlp.up_proj", 1), ("lm_head", 2)],
)
def test_what_is_trained_beside_adapters_counts_by_where_it_stands(
    adapted: Callable[..., Any], trained: str, lowest: int
) -> None:
    model = adapted(tie_word_embeddings=False)
    names = [name for name, _ in model.named_modules() if name.endswith(trained)]
    model.get_submodule(names[0]).requires_grad_(True)
    assert frozen_prefix(model) == lowest


def test_a_tied_output_embedding_is_the_input_embedding(adapted: Callable[..., Any]) -> None:
    model = adapted(tie_word_embeddings=True)
    core_model(model).lm_head.requires_grad_(True)
    assert frozen_prefix(model) == 0


def test_a_prefix_of_all_blocks(network: Callable[..., Any]) -> None:
    model = network()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert frozen_prefix(model) == 2


def checkpointed(model: Any) -> Any:
    core = core_model(model)
    core.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def inputs_with_gradient(model: Any, batch: dict[str, torch.Tensor]) -> list[bool]:
    """Which blocks are given something that needs a gradient."""
    seen: list[bool] = []
    handles = [
        block.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(
                (args[0] if args else kwargs["hidden_states"]).requires_grad
            ),
            with_kwargs=True,
        )
        for block in blocks_of(model)
    ]
    LossHead(model)  # its own passes need none
    seen.clear()
    model(input_ids=batch["input_ids"], position_ids=batch["position_ids"])
    for handle in handles:
        handle.remove()
    return seen


def test_no_gradient_goes_into_the_prefix_under_checkpointing(
    adapted: Callable[..., Any], family: str, rows: list[PackedRow]
) -> None:
    batch = collate(rows, pad_id=0, flatten=False)
    plain = adapted(family)
    expected = step(plain, batch)
    model = checkpointed(adapted(family))
    assert inputs_with_gradient(model, batch) == [True] * NUM_BLOCKS  # what the hook does
    end_at_prefix(model)
    assert inputs_with_gradient(model, batch) == [False, False, False, True]
    loss, grads = step(model, batch)
    assert loss == expected[0]
    assert all(grads[name].equal(grad) for name, grad in expected[1].items())


def test_both_hooks_go_where_peft_and_transformers_put_one_each(
    adapted: Callable[..., Any], rows: list[PackedRow]
) -> None:
    model = checkpointed(adapted())
    model.prepare_model_for_gradient_checkpointing(core_model(model))
    end_at_prefix(model)
    assert frozen_prefix(model) == 2
    batch = collate(rows, pad_id=0, flatten=False)
    assert inputs_with_gradient(model, batch) == [False, False, False, True]


# ---- from memory


def test_the_model_begun_at_any_block_gives_its_own_logits(
    adapted: Callable[..., Any], family: str, rows: list[PackedRow]
) -> None:
    model = adapted(family).eval()
    batch = collate(rows, pad_id=0, flatten=False)
    own = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    hidden = hidden_before(model, batch)
    assert len(hidden) == NUM_BLOCKS
    for block, states in enumerate(hidden):
        assert run_from(model, batch, states, block).equal(own)
    head = LossHead(model)
    with beginning_at(model, hidden[3], 3):
        begun = head(model, batch).loss
    assert begun.equal(head(model, batch).loss)


def test_the_blocks_below_are_not_run(adapted: Callable[..., Any], rows: list[PackedRow]) -> None:
    model = adapted().eval()
    batch = collate(rows, pad_id=0, flatten=False)
    hidden = hidden_before(model, batch)
    run: list[int] = []
    for number, block in enumerate(blocks_of(model)):
        block.mlp.register_forward_hook(lambda *_, number=number: run.append(number))
    with beginning_at(model, hidden[2], 2):
        run.clear()
        model(input_ids=batch["input_ids"], position_ids=batch["position_ids"])
        assert run == [2, 3]
    assert not any("forward" in vars(block) for block in blocks_of(model))


def test_one_beginning_inside_another_leaves_that_in_place(
    adapted: Callable[..., Any], rows: list[PackedRow]
) -> None:
    model = adapted().eval()
    batch = collate(rows, pad_id=0, flatten=False)
    hidden = hidden_before(model, batch)
    own = run_from(model, batch, hidden[2], 2)
    with beginning_at(model, hidden[2] + 1, 2):
        moved = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
        assert run_from(model, batch, hidden[3], 3).equal(own)
        again = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    assert again.equal(moved)
    assert not moved.equal(own)


# ---- from the disk


@pytest.mark.parametrize("layout", ["padded", "flat", "by example"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"], indirect=True)
def test_losses_and_gradients_are_those_without_a_cache(
    adapted: Callable[..., Any], family: str, layout: str, tmp_path: Path
) -> None:
    model = adapted(family)
    data = examples()
    flat = layout != "padded"
    with attending_by_example(model) if layout == "by example" else reading(None, model) as fast:
        assert fast is (True if layout == "by example" else None)
        cache = cache_of(model, tmp_path / "prefix", data, flatten=flat)
        assert cache.block == 2
        for rows in (rows_of(data), rows_of(data)[1:2]):
            batch = collate(rows, pad_id=0, flatten=flat)
            loss, grads = step(model, batch)
            with cache.reading(model):
                cached_loss, cached = step(model, batch)
            assert cached_loss == pytest.approx(loss, rel=1e-5)
            for name, grad in grads.items():
                torch.testing.assert_close(cached[name], grad, rtol=1e-3, atol=1e-4)


def test_the_prefix_is_not_run_and_keeps_nothing(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    model, data = adapted(), examples()
    cache = cache_of(model, tmp_path / "prefix", data)
    batch = collate(rows_of(data), pad_id=0, flatten=False)
    head = LossHead(model)

    def counted() -> tuple[list[int], int]:
        run: list[int] = []
        saved: list[torch.Tensor] = []
        handles = [
            block.mlp.register_forward_hook(lambda *_, n=n: run.append(n))
            for n, block in enumerate(blocks_of(model))
        ]
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            head(model, batch)
        for handle in handles:
            handle.remove()
        return run, len(saved)

    whole, kept = counted()
    with cache.reading(model):
        short, kept_with = counted()
    assert (whole, short) == ([0, 1, 2, 3], [2, 3])
    assert kept_with == kept  # what is frozen keeps nothing even when it runs


def test_an_example_that_is_not_kept_runs_the_whole_model(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    model, data, other = adapted(), examples(), examples(7)
    cache = cache_of(model, tmp_path / "prefix", data)
    batch = collate([rows_of(data)[0], rows_of(other)[0]], pad_id=0, flatten=False)
    assert cache.find(batch["input_ids"], batch["position_ids"]) is None
    loss, grads = step(model, batch)
    with cache.reading(model):
        found = step(model, batch)
    assert found[0] == loss
    assert all(found[1][name].equal(grad) for name, grad in grads.items())


def test_held_out_losses_and_a_teacher_read_it_too(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    model, data = adapted(), examples()
    cache = cache_of(model, tmp_path / "prefix", data)
    head, teacher = LossHead(model), starting_model(model)
    batch = collate(rows_of(data), pad_id=0, flatten=False)
    chosen = torch.arange(len(batch["tokens"])) > 3
    run: list[int] = []
    blocks_of(model)[0].mlp.register_forward_hook(lambda *_: run.append(0))
    before = heldout_losses(model, head, data).sums
    kl = head(model, batch, teacher=teacher, chosen=chosen).kl
    with cache.reading(model):
        run.clear()
        torch.testing.assert_close(heldout_losses(model, head, data).sums, before, rtol=1e-5,
                                   atol=1e-6)  # fmt: skip
        cached = head(model, batch, teacher=teacher, chosen=chosen).kl
        assert not run
    torch.testing.assert_close(cached, kl, rtol=1e-4, atol=1e-5)


def test_gradients_under_checkpointing(adapted: Callable[..., Any], tmp_path: Path) -> None:
    model, data = adapted(), examples()
    batch = collate(rows_of(data), pad_id=0, flatten=False)
    loss, grads = step(model, batch)
    cache = cache_of(model, tmp_path / "prefix", data)
    checkpointed(model)
    end_at_prefix(model)
    with cache.reading(model):
        cached_loss, cached = step(model, batch)
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    for name, grad in grads.items():
        torch.testing.assert_close(cached[name], grad, rtol=1e-3, atol=1e-4)


def test_bfloat16_states_are_kept_in_bfloat16(adapted: Callable[..., Any], tmp_path: Path) -> None:
    model, data = adapted(dtype=torch.bfloat16).to(torch.bfloat16), examples()
    cache = cache_of(model, tmp_path / "prefix", data, autocast=torch.bfloat16)
    assert cache.states.dtype == torch.bfloat16
    assert (tmp_path / "prefix" / "states.bin").stat().st_size == 2 * 16 * int(data.starts[-1])
    batch = collate(rows_of(data)[:1], pad_id=0, flatten=False, multiple_of=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = hidden_before(model, batch)[2]
    kept = cache.find(batch["input_ids"], batch["position_ids"])
    assert kept is not None
    torch.testing.assert_close(kept, hidden, rtol=0.05, atol=0.05)


# ---- the folder


def test_the_same_cache_is_read_again_and_another_is_made_anew(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "prefix"
    told: list[str] = []

    def made(model: Any, data: Examples, name: str = "model") -> bool:
        told.clear()
        PrefixCache.settled(model, PrefixAt(folder, name, (data,)), tell=told.append)
        (line,) = told
        return line.startswith("keeping the outputs of the frozen blocks")

    model, data = adapted(), examples()
    assert made(model, data)
    assert not made(model, data)
    states = (folder / "states.bin").read_bytes()
    assert made(model, data, "another model")
    assert made(model, examples(1), "another model")
    assert made(adapted(blocks=(1,)), examples(1), "another model")
    assert made(adapted(blocks=(1,)).double(), examples(1), "another model")
    (folder / "prefix.json").write_text("{")
    assert made(model, data)
    assert (folder / "states.bin").read_bytes() == states
    assert [path.name for path in tmp_path.iterdir()] == ["prefix"]
    account = json.loads((folder / "prefix.json").read_text())
    assert (account["schema"], account["block"], account["dtype"]) == (
        "lamina.prefix/1", 2, "float32",
    )  # fmt: skip


def test_equal_examples_are_kept_once(adapted: Callable[..., Any], tmp_path: Path) -> None:
    data = examples()
    cache = cache_of(adapted(), tmp_path / "prefix", data, data.take([3, 4]))
    assert len(cache.states) == data.starts[-1]


def test_a_build_that_is_stopped_leaves_nothing(
    adapted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prefix_cache, "_fill", stopped)
    with pytest.raises(KeyboardInterrupt):
        cache_of(adapted(), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_build_left_is_no_cache(adapted: Callable[..., Any], tmp_path: Path) -> None:
    part = tmp_path / ".prefix.part"
    part.mkdir()
    (part / "states.bin").write_bytes(b"half")
    cache_of(adapted(), tmp_path / "prefix")
    assert [path.name for path in tmp_path.iterdir()] == ["prefix"]


def test_a_full_disk_is_told_before_anything_is_computed(
    adapted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match="0 MB are free there"):
        cache_of(adapted(), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())


# ---- what cannot be kept


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., None]:
    def refuse(model: Any, match: str) -> None:
        with pytest.raises(RecipeError, match=match):
            cache_of(model, tmp_path / "prefix")
        assert not list(tmp_path.iterdir())

    return refuse


def test_nothing_below_is_refused(adapted: Callable[..., Any], refused: Any) -> None:
    refused(adapted(blocks=(0, 3)), "nothing is frozen below")


def test_dropout_in_the_prefix_is_refused_by_name(
    adapted: Callable[..., Any], refused: Any
) -> None:
    refused(adapted(attention_dropout=0.1), r"dropout \(attention_dropout 0.1\)")
    refused(adapted("gpt2", resid_pdrop=0.2), r"dropout \(dropout 0.2\)")


def test_dropout_of_the_embedding_is_found_by_trying(
    adapted: Callable[..., Any], refused: Any
) -> None:
    refused(adapted("gpt2", embd_pdrop=0.5), "something there is random")


def test_dropout_above_the_prefix_is_no_matter(adapted: Callable[..., Any], tmp_path: Path) -> None:
    model = adapted()
    for block in blocks_of(model)[2:]:
        block.self_attn.attention_dropout = 0.1
    assert cache_of(model, tmp_path / "prefix").block == 2


def test_sharded_weights_are_refused(
    adapted: Callable[..., Any], refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    refused(adapted(), "sharded")


def test_blocks_that_read_a_lower_block_are_refused(
    adapted: Callable[..., Any], refused: Any
) -> None:
    """Keys and values handed over beside the hidden states, as some models share them."""
    model = adapted()
    low, high = blocks_of(model)[0], blocks_of(model)[3]
    shared: list[torch.Tensor] = [torch.zeros(1)]
    low.mlp.register_forward_hook(lambda _, args, out: shared.__setitem__(0, out.mean()))
    high.mlp.register_forward_hook(lambda _, args, out: out + shared[0])
    refused(model, "read more than the hidden states from below")


def test_a_folder_that_cannot_be_written_is_told(
    adapted: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        cache_of(adapted(), tmp_path / "out" / "prefix")


def test_a_write_that_fails_is_told_and_leaves_nothing(
    adapted: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_cache, "_fill", full)
    with pytest.raises(OutputError, match="No space left on device"):
        cache_of(adapted(), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())
