"""Token shift: greedy answers, ranks in the base, classes with errors, and weights carried over."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import CheckpointError, LayerError
from lamina.engine.planned import linears
from lamina.ila.responses import Answer, answers, ranks
from lamina.ila.token_shift import (
    by_position,
    by_type,
    carrying,
    classes_of,
    most_shifted,
    same_modules,
    tally,
)

sys.path.append(str(Path(__file__).parent))

from scored_pico import VOCAB, pico

PROMPTS = [[5, 9, 3], [7], [2, 2, 8, 30, 11, 4], [5, 9, 3, 12], [40, 41]]
HOW: dict[str, Any] = {"ends": {0}, "max_new_tokens": 12, "num_ids": VOCAB}


def one_by_one(model: Any, prompt: list[int], num_ids: int = VOCAB) -> list[int]:
    """The model reads all of it again at each token."""
    text: list[int] = []
    while len(text) < 12 and (not text or text[-1] != 0):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + text]), use_cache=False).logits[0, -1]
        text.append(int(logits[:num_ids].argmax()))
    return text


def mamba() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(3)
    config = MambaConfig(
        vocab_size=VOCAB, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.4
    )
    return MambaForCausalLM(config).eval()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "bloom", "mamba"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_answer_is_the_models_own_without_a_cache_or_padding(kind: str, batch_size: int) -> None:
    model = mamba() if kind == "mamba" else pico(kind)
    said = answers(model, PROMPTS, batch_size=batch_size, **HOW)
    assert [list(one.ids) for one in said] == [one_by_one(model, prompt) for prompt in PROMPTS]
    assert [list(one.prompt) for one in said] == PROMPTS
    assert [one.ended for one in said] == [one.ids[-1] == 0 for one in said]


def test_ids_that_no_token_has_are_not_said() -> None:
    model = pico()
    said = answers(model, PROMPTS, **{**HOW, "num_ids": 9})
    assert [list(one.ids) for one in said] == [one_by_one(model, p, 9) for p in PROMPTS]
    assert max(max(one.ids) for one in said) < 9


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_rank_is_one_more_than_the_tokens_that_are_likelier(kind: str) -> None:
    model, other = pico(kind, seed=1), pico(kind, seed=2)
    said = answers(model, PROMPTS, **HOW)
    assert all((rank == 1).all() for rank in ranks(model, said, num_ids=VOCAB, batch_size=2))
    found = ranks(other, said, num_ids=VOCAB, batch_size=2)
    for one, rank in zip(said, found, strict=True):
        with torch.no_grad():
            whole = torch.tensor([[*one.prompt, *one.ids]])
            logits = other(input_ids=whole, use_cache=False).logits[0, len(one.prompt) - 1 : -1]
        order = logits.argsort(-1, descending=True).tolist()
        assert rank.tolist() == [
            places.index(token) + 1 for places, token in zip(order, one.ids, strict=True)
        ]
    assert len({int(rank) for one in found for rank in one}) > 5


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = pico()
    torch.nn.init.constant_(model.model.layers[1].mlp.up_proj.weight, float("nan"))
    with pytest.raises(CheckpointError, match="no likeliest token"):
        answers(model, PROMPTS, **HOW)
    with pytest.raises(CheckpointError, match="no likeliest token"):
        ranks(model, [Answer((5,), (3, 4), ended=False)], num_ids=VOCAB)


def test_the_classes_are_those_of_the_paper() -> None:
    assert classes_of(np.array([1, 2, 3, 4, 999])).tolist() == [0, 1, 1, 2, 2]


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=9), min_size=2, max_size=9))
def test_the_error_is_that_of_a_ratio_of_sums_over_prompts(drawn: list[list[int]]) -> None:
    """By the formula, prompt after prompt."""
    found = tally([np.array(one) for one in drawn])
    every = [rank for one in drawn for rank in one]
    assert found.tokens == len(every) == sum(found.counts.values())
    assert found.fractions["shifted"] == sum(rank > 3 for rank in every) / len(every)
    assert found.errors is not None
    share = found.fractions["marginal"]
    rests = [sum(2 <= rank <= 3 for rank in one) - share * len(one) for one in drawn]
    wanted = (len(drawn) / (len(drawn) - 1) * sum(r * r for r in rests)) ** 0.5 / len(every)
    assert found.errors["marginal"] == pytest.approx(wanted, abs=1e-12)


def test_answers_of_one_class_each_are_as_uncertain_as_so_many_prompts() -> None:
    """Four answers of 10 tokens, one wholly shifted: the error is that of 1 in 4, not 10 in 40."""
    found = tally([np.full(10, rank) for rank in (9, 1, 1, 1)])
    assert found.errors is not None
    assert found.errors["shifted"] == pytest.approx((0.25 * 0.75 / 3) ** 0.5)
    assert tally([np.array([1, 5])]).errors is None


def test_positions_are_counted_in_buckets_of_answers_that_reach_them() -> None:
    found = by_position([np.array([9] * 5 + [1] * 7), np.array([9, 1, 1])])
    assert [(first, last) for first, last, _ in found] == [(0, 4), (5, 9), (10, 11)]
    assert [one.tokens for *_, one in found] == [8, 5, 2]
    assert [one.counts["shifted"] for *_, one in found] == [6, 0, 0]
    assert found[1][2].errors is None, "one answer reaches it"


def test_the_most_shifted_tokens_come_with_how_often_they_were_said() -> None:
    said, places = [[7, 8, 7], [7, 9]], [np.array([9, 1, 5]), np.array([1, 4])]
    assert most_shifted(said, places) == [(7, 2, 3), (9, 1, 1)]
    assert most_shifted(said, places, most=1) == [(7, 2, 3)]


def test_the_base_carries_the_aligned_weights_and_gives_them_back() -> None:
    base, aligned = pico("gpt2", seed=1), pico("gpt2", seed=2)
    known = linears(base)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    chosen = by_type(known)["mlp.c_fc"]
    assert len(chosen) == 3
    with carrying(base, aligned, known, chosen):
        for name, value in base.state_dict().items():
            theirs = ".mlp.c_fc." in name
            assert value.equal(aligned.state_dict()[name] if theirs else before[name]), name
    for name, value in base.state_dict().items():
        assert value.equal(before[name]), name


def test_types_cover_every_linear_module_once() -> None:
    known = linears(pico())
    types = by_type(known)
    assert len(types) == 7
    assert sorted(one for members in types.values() for one in members) == sorted(known.by_id)
    assert {len(members) for members in types.values()} == {3}


def test_networks_of_other_shapes_are_refused() -> None:
    small, wide = linears(pico()), linears(pico(intermediate_size=32))
    same_modules(small, linears(pico(seed=4)))
    with pytest.raises(LayerError, match=r"differ in 9 linear modules(.|\n)*and 3 more"):
        same_modules(small, wide)
    with pytest.raises(LayerError, match="in one of them only"):
        same_modules(small, linears(pico(num_blocks=2)))
