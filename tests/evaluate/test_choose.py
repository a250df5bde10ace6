import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import CheckpointError
from lamina.evaluate.choose import answer_choices, filled, plan_choices
from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.nouns import ChoiceItem, Pair, Raw
from lamina.evaluate.portions import cut_items

EXAMPLES = "the cat sat, the rat sat, "


def _item(id_: str, context: str, *answers: str, group: str | None = None) -> ChoiceItem:
    pairs = tuple(Pair(context, answer) for answer in answers)
    return ChoiceItem(id_, pairs, (0,), tuple(map(len, answers)), group)


ITEMS = (
    _item("0", f"{EXAMPLES}the hat", " sat", " a", group="cats"),
    _item("1", f"{EXAMPLES}a bat", " on the mat", " ate", " on a", group="cats"),
    _item("2", "the hat:", " A", " B", " C", " D"),
    _item("3", "the cat sat on the mat," * 9, " hat", " mat"),
    _item("4", f"{EXAMPLES}no", "!", group="cats"),
    _item("5", "", "the mat", "the hat"),
)


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Path]) -> LanguageModel:
    return load_model(find_model(make_model(positions=40)))


def _answers(model: LanguageModel, items: tuple[ChoiceItem, ...], tokens: int) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    for portion in plan_choices(model, items, batch_tokens=tokens):
        answers = answer_choices(model, portion)
        assert tuple(answers) == portion.ids
        found |= answers
    return found


def _alone(model: LanguageModel, pair: Pair) -> tuple[float, bool]:
    """By one plain pass in float64."""
    import torch

    network: Any = model.network
    context = model.tokenizer.encode(pair.context) or [0]
    tokens = (context + model.tokenizer.encode(pair.continuation))[-41:]
    scored = len(model.tokenizer.encode(pair.continuation))
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([tokens[:-1]])).logits[0, -scored:].double()
    logprobs = logits.log_softmax(-1)[range(scored), tokens[-scored:]]
    return float(logprobs.sum()), logits.argmax(-1).tolist() == tokens[-scored:]


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_every_answer_has_the_likelihood_it_has_alone(
    model: LanguageModel, batch_tokens: int
) -> None:
    found = _answers(model, ITEMS, batch_tokens)
    for item in ITEMS:
        wanted = [_alone(model, pair) for pair in item.pairs]
        assert found[item.id]["logprobs"] == pytest.approx([v for v, _ in wanted], rel=1e-5)
        assert found[item.id]["greedy"] == [greedy for _, greedy in wanted]


def test_what_the_model_would_say_is_greedy(model: LanguageModel) -> None:
    import torch

    network: Any = model.network
    tokens = model.tokenizer.encode("the cat")
    with torch.no_grad():
        best = int(network(input_ids=torch.tensor([tokens])).logits[0, -1].argmax())
    said = str(model.tokenizer.decode(best))
    item = _item("x", "the cat", said, "zz")
    if model.tokenizer.encode(f"the cat{said}") == [*tokens, best]:
        assert _answers(model, (item,), 100)["x"]["greedy"] == [True, False]
    else:
        pytest.skip("the likeliest token cannot be written here")


def test_the_plan_holds_every_item_once_and_tells_what_is_cut(model: LanguageModel) -> None:
    plan = plan_choices(model, ITEMS, batch_tokens=20)
    assert sorted(id_ for portion in plan for id_ in portion.ids) == [item.id for item in ITEMS]
    assert len(plan) > 2
    lost = len(model.tokenizer.encode(ITEMS[3].pairs[0].context)) + 1 - 41
    assert cut_items(plan) == {"3": lost}
    assert plan == plan_choices(model, ITEMS, batch_tokens=20)


def test_a_common_beginning_is_read_once(model: LanguageModel) -> None:
    first, *others = plan_choices(model, ITEMS, batch_tokens=10_000)
    assert set(first.ids) == {"0", "1", "4"}
    assert first.content.begin == len(model.tokenizer.encode(EXAMPLES.rstrip()))
    assert [portion.content.begin for portion in others] == [0]


def test_portions_do_not_change_an_answer_that_is_resumed(model: LanguageModel) -> None:
    plan = plan_choices(model, ITEMS, batch_tokens=20)
    whole = {id_: raw for portion in plan for id_, raw in answer_choices(model, portion).items()}
    later = {
        id_: raw for portion in plan[::-1] for id_, raw in answer_choices(model, portion).items()
    }
    assert whole == later


def test_things_fill_groups_in_order() -> None:
    assert filled("abcde", [3, 3, 9, 1, 2], 6) == [("a", "b"), ("c",), ("d", "e")]
    assert filled("", [], 6) == []


def test_weights_that_are_not_numbers_are_told(make_model: Callable[..., Path]) -> None:
    import torch

    broken = load_model(find_model(make_model(seed=7)))
    with torch.no_grad():
        next(iter(broken.network.parameters())).fill_(math.nan)
    (portion,) = plan_choices(broken, ITEMS[2:3], batch_tokens=100)
    with pytest.raises(CheckpointError, match=r"not a number on 1 items \(2\)"):
        answer_choices(broken, portion)
