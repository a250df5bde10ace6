"""The `layerwise:` section: every way's own keys, and what of `train:` goes with it."""

from typing import Any

import pytest

from lamina.core.errors import RecipeError
from lamina.core.recipe import validate
from lamina.engine.layerwise_recipe import KEYS, METHODS, LayerwiseSection
from lamina.versatune.recipe import TuneRecipe


def recipe(layerwise: Any, **train: Any) -> TuneRecipe:
    values = {"model": "m", "domains": {"law": "law.jsonl"}, "train": train}
    return validate(TuneRecipe, {**values, "layerwise": layerwise}, "tune.yaml")


@pytest.mark.parametrize("way", KEYS)
def test_a_way_alone_has_its_defaults_and_is_read_again_as_written(way: str) -> None:
    assert set(KEYS) == set(METHODS)
    made = recipe(way, method=METHODS[way])
    written = made.to_mapping()
    assert set(written["layerwise"]) == {"way", *KEYS[way]} - {"scores"}
    assert validate(TuneRecipe, written, "again").to_mapping() == written


def test_the_papers_numbers_are_the_defaults() -> None:
    lisa, prilora = (LayerwiseSection.model_validate(way) for way in ("lisa", "prilora"))
    assert (lisa.period, lisa.layers) == (20, 2)
    assert (prilora.first_rank, prilora.last_rank, prilora.every) == (4, 12, 40)
    assert (prilora.keep, prilora.decay) == (0.5, 0.9)


def test_without_the_section_a_recipe_is_what_it_was() -> None:
    assert recipe(None).layerwise is None
    assert "layerwise" not in recipe(None).to_mapping()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("liza", "layerwise: way 'liza' is unknown; did you mean `lisa`?"),
        ({"way": ["lisa"]}, "layerwise: way ['lisa'] is unknown"),
        ({"period": 3}, "layerwise.way: missing"),
        ({"way": "lisa", "keep": 0.5}, "`keep`: way `lisa` does not use it (prilora: yes)"),
        ({"way": "lisa", "perod": 3}, "`perod`: unknown key; did you mean `period`?"),
        ({"way": "lisa", "layers": 0}, "layerwise.layers: input should be greater than or equal"),
        ({"way": "spider", "every": 2, "layers": 1}, "`every`: way `spider` does not use it"),
        ({"way": "prilora", "keep": 0}, "layerwise.keep: input should be greater than 0"),
        ({"way": "prilora", "first_rank": 9, "last_rank": 3}, "first_rank is 9 and last_rank 3"),
    ],
)
def test_a_section_that_cannot_be_followed_is_refused(section: Any, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(section, method="full")
    assert told in str(error.value)


@pytest.mark.parametrize("way", KEYS)
def test_a_way_and_a_method_that_do_not_go_together_are_one_error(way: str) -> None:
    other = {"lora": "full", "full": "lora"}[METHODS[way]]
    with pytest.raises(RecipeError, match=rf"way `{way}` tunes .* write method: {METHODS[way]}"):
        recipe(way, method=other)


def test_an_optimiser_that_steps_in_the_backward_pass_is_refused() -> None:
    with pytest.raises(RecipeError, match="`galore_adamw_layerwise` steps in the backward pass"):
        recipe("spider", method="full", optimizer="galore_adamw_layerwise")
