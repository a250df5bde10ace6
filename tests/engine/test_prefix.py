"""Beginning above the frozen blocks: no gradient goes there, and they need not run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from prefix_kit import FAMILIES, NUM_BLOCKS, checkpointed, step

from lamina.engine.collate import PackedRow, collate
from lamina.engine.heads import core_model
from lamina.engine.losses import LossHead
from lamina.engine.prefix import (
    beginning_at,
    blocks_of,
    end_at_prefix,
    frozen_prefix,
    hidden_before,
    run_from,
)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


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
