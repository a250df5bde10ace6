"""`lamina check` of a tune recipe: everything that can be said without reading a row."""

import json
from pathlib import Path

import pytest

from lamina.core.errors import CheckpointError, DataError, RecipeError
from lamina.core.recipe import is_tune
from lamina.jobs.check import check_recipe

DEMO = Path(__file__).parents[2] / "src" / "lamina" / "demo"


def recipe(tmp_path: Path, **changes: object) -> Path:
    (tmp_path / "law.jsonl").write_text('{"text": "a"}\n')
    values = {
        "model": str(DEMO / "models" / "base"),
        "domains": {"law": "law.jsonl", "code": str(DEMO / "domains" / "code.jsonl.gz")},
        "mixture": {"policy": "constant", "start": {"law": 0.25, "code": 0.75}},
    }
    file = tmp_path / "tune.yaml"
    file.write_text(json.dumps(values | changes))
    return file


def test_a_good_recipe_is_told(tmp_path: Path) -> None:
    told = check_recipe(recipe(tmp_path, train={"windows": 2, "window_steps": 5}), None, False)
    assert (told["policies"], told["optimiser_steps"], told["trains"]) == (
        "constant", 10, "an adapter",
    )  # fmt: skip
    assert told["domain law"] == "law.jsonl"


def test_all_files_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    file = recipe(
        tmp_path,
        domains={"law": "lew.jsonl", "code": {"path": "law.jsonl", "heldout": "held.csv"}},
        general="general.txt",
        data={"chat_template": "chat.jinja"},
        mixture={"policy": "uniform"},
    )
    with pytest.raises(DataError) as told:
        check_recipe(file, None, False)
    for name in ("lew.jsonl", "held.csv", "general.txt", "chat.jinja"):
        assert name in str(told.value)


def test_a_model_that_is_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="bse"):
        check_recipe(recipe(tmp_path, model="./bse"), None, False)


def test_a_hub_name_is_not_asked_for(tmp_path: Path) -> None:
    told = check_recipe(recipe(tmp_path, model="org/name"), None, False)
    assert told["model"] == "org/name"


@pytest.mark.parametrize(
    ("start", "word"),
    [
        ({"law": 0.5, "code": -0.5}, "numbers of 0 or more"),
        ({"law": 0.5, "code": 0.6}, "sum to 1.1"),
        ({"law": 1.0}, "no weight for code"),
        ({"law": 0.5, "cod": 0.5}, "did you mean `code`"),
        ("detekted", "did you mean `detected`"),
        (3, "detected, uniform, by_size"),
    ],
    ids=["negative", "sum", "missing", "misspelt", "unknown", "a number"],
)
def test_weights_that_cannot_be_are_told_in_words(tmp_path: Path, start: object, word: str) -> None:
    with pytest.raises(RecipeError) as told:
        check_recipe(recipe(tmp_path, mixture={"policy": "constant", "start": start}), None, False)
    assert word in str(told.value)
    assert "mixture[0]" not in str(told.value)


def test_a_key_that_the_policy_does_not_use_is_refused(tmp_path: Path) -> None:
    start = {"law": 0.25, "code": 0.75}
    with pytest.raises(RecipeError, match="does not use `start`"):
        check_recipe(recipe(tmp_path, mixture={"policy": "uniform", "start": start}), None, False)
    odm = {"policy": "odm", "reference": {"way": "fraction"}}
    with pytest.raises(RecipeError, match="does not use `reference`"):
        check_recipe(recipe(tmp_path, mixture=odm), None, False)


def test_keys_tell_a_tune_recipe_from_a_merge() -> None:
    assert is_tune({"domains": {}})
    assert is_tune({"domain": {}, "train": {}})
    assert not is_tune({"merge_method": "lata", "domains": {}})
    assert not is_tune({"models": []})


def test_a_merge_of_a_tune_recipe_names_the_other_verb() -> None:
    from lamina.merge.recipe import from_dict

    with pytest.raises(RecipeError, match="lamina tune"):
        from_dict({"domains": {}, "train": {}}, "r.yaml")
