"""What a ranking's recipe gives where nothing is written, and what it refuses."""

import re
from typing import Any

import pytest

from lamina.core.errors import RecipeError
from lamina.core.recipe import validate
from lamina.ila.recipe import GATED, STAGE_ONE, WAYS, RankRecipe


def recipe(**values: Any) -> RankRecipe:
    return validate(RankRecipe, {"model": "m", **values}, "r.yaml")


ROWS = {"law": "law.jsonl"}


def test_one_key_of_train_leaves_the_others_of_stage_one():
    train = recipe(domains=ROWS, train={"rank": 4}).train
    assert train.rank == 4
    assert {key: getattr(train, key) for key in STAGE_ONE} == STAGE_ONE
    assert recipe(domains=ROWS, train={"windows": 3}).train.windows == 3
    assert recipe(domains=ROWS).train == recipe(domains=ROWS, train={}).train


def test_stage_one_has_a_rate_that_does_not_fall():
    assert recipe(domains=ROWS).train.schedule == "constant_with_warmup"


@pytest.mark.parametrize("way", WAYS)
def test_what_costs_nothing_is_measured_beside_where_there_is_an_adapter(way: str):
    asked = recipe(way=way, domains=ROWS, base="raw" if way == "cosine" else None)
    assert asked.beside == (("delta_norm",) if way in GATED else ())
    assert asked.ways == {way, *asked.beside}


def test_what_is_written_is_kept():
    assert recipe(domains=ROWS, beside=[]).beside == ()
    assert recipe(domains=ROWS, beside="shapley").beside == ("shapley",)


def test_a_recipe_is_read_again_as_it_was_written():
    asked = recipe(domains=ROWS, way="learn", train={"rank": 2}, gates={"steps": 3})
    assert recipe(**asked.model_dump(mode="json", exclude_none=True)) == asked


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "`taylor` needs rows; give --data FILE"),
        ({"way": "snr", "beside": ["learn", "lora_drop"]}, "`learn`, `lora_drop` needs rows"),
        ({"way": "cosine"}, "give --base, the raw model"),
        ({"way": "snr", "instruct": "i"}, "instruct is for the way `cosine`"),
        ({"way": "snr", "train": {"method": "full"}}, "train.method is `full`"),
        ({"way": "snr", "share": 0}, "share: input should be greater than 0"),
        ({"way": "snr", "share": 1.01}, "share: input should be less than or equal to 1"),
        ({"way": "leave-one-out"}, "did you mean `leave_one_out`?"),
        ({"way": "snr", "bside": []}, "bside: unknown key; did you mean `beside`?"),
        ({"way": "snr", "gates": {"point": 2}}, "did you mean `points`?"),
    ],
)
def test_recipes_that_cannot_be(values: dict[str, Any], words: str):
    with pytest.raises(RecipeError, match=re.escape(words)):
        recipe(**values)


def test_all_problems_are_told_at_once():
    with pytest.raises(RecipeError) as told:
        recipe(way="cosine", beside=["learn"], train={"method": "full"})
    for words in ("`learn` needs rows", "--base", "train.method"):
        assert words in str(told.value)


def test_files_alone_need_no_rows():
    assert recipe(way="snr").domains == {}
    assert recipe(way="delta_norm").domains == {}
    assert recipe(way="cosine", base="raw", instruct="i").domains == {}
