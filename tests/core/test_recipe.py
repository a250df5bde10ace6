from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lamina.core.errors import RecipeError
from lamina.core.recipe import (
    Recipe,
    apply_overrides,
    describe_validation_error,
    load_mapping,
    validate,
)


class Parameters(Recipe):
    weight: float
    density: Annotated[float, Field(gt=0, le=1)] = 1.0


class Entry(Recipe):
    model: str
    parameters: Parameters | None = None


class Merge(Recipe):
    method: Literal["linear", "ties", "lata"] = Field(alias="merge_method")
    models: tuple[Entry, ...]
    threads: int = 1

    @model_validator(mode="after")
    def _some(self) -> "Merge":
        if not self.models:
            raise ValueError("no models; name at least one")
        return self


def refusal(values, model=Merge) -> str:
    with pytest.raises(RecipeError) as caught:
        validate(model, values, "r.yaml")
    return str(caught.value)


GOOD = {"merge_method": "lata", "models": [{"model": "./a", "parameters": {"weight": 1}}]}


def test_a_good_recipe_is_frozen():
    recipe = validate(Merge, GOOD, "r.yaml")
    assert recipe.models[0].parameters == Parameters(weight=1)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.threads = 2


def test_every_problem_is_in_one_message():
    told = refusal(
        {
            "merge_method": "latta",
            "models": [
                {"model": "./a", "parameters": {"wieght": 1}},
                {"modle": "./b"},
                {"model": 5, "parameters": {"weight": "x", "density": 0}},
            ],
            "thread": 1,
        }
    )
    lines = told.splitlines()
    assert lines[0] == "r.yaml: 9 problems"
    assert sorted(line.strip() for line in lines[1:]) == sorted(
        [
            "merge_method: 'latta' is unknown; did you mean `lata`? (known: linear, ties, lata)",
            "models[0].parameters.weight: missing",
            "models[0].parameters.wieght: unknown key; did you mean `weight`?",
            "models[1].model: missing",
            "models[1].modle: unknown key; did you mean `model`?",
            "models[2].model: input should be a valid string, not 5",
            "models[2].parameters.weight: input should be a valid number, unable to parse string as"
            " a number, not 'x'",
            "models[2].parameters.density: input should be greater than 0, not 0",
            "thread: unknown key; did you mean `threads`?",
        ]
    )


def test_one_problem_is_one_line():
    assert refusal(GOOD | {"threads": "many"}) == (
        "r.yaml: threads: input should be a valid integer, unable to parse string as an integer,"
        " not 'many'"
    )
    assert refusal(GOOD | {"models": []}) == "r.yaml: no models; name at least one"


def test_far_names_list_the_known_ones():
    assert "merge_method: 'zzz' is unknown; known: linear, ties, lata" in refusal(
        GOOD | {"merge_method": "zzz"}
    )
    assert "zzz: unknown key; known: merge_method, models, threads" in refusal(GOOD | {"zzz": 1})
    assert "merge_method: 5 is unknown; known: 'linear', 'ties' or 'lata'" in refusal(
        GOOD | {"merge_method": 5}
    )


def test_known_keys_are_found_inside_a_map_of_names():
    class Named(Recipe):
        entries: dict[str, Entry]

    told = refusal({"entries": {"a": {"modle": "x"}}}, Named)
    assert "entries.a.modle: unknown key; did you mean `model`?" in told


def test_odd_keys_and_long_values_stay_readable():
    told = refusal(GOOD | {"a\nb": 1, "threads": "x" * 1000})
    assert "'a\\nb': unknown key" in told
    assert all(len(line) < 200 for line in told.splitlines())


def test_without_the_model_the_paths_are_still_told():
    class Plain(BaseModel):
        model_config = ConfigDict(extra="forbid")

    with pytest.raises(ValidationError) as caught:
        Plain.model_validate({"x": 1})
    told = describe_validation_error(caught.value, "r.yaml")
    assert isinstance(told, RecipeError)
    assert str(told) == "r.yaml: x: unknown key"


def test_overrides_set_copies_and_make_what_is_missing():
    before = {"a": {"b": 1, "c": [1, {"d": 2}]}, "n": None}
    after = apply_overrides(
        before,
        ["a.b=1e-5", "a.c.1.d=no", "x.y.z=[1, 2]", "n.k={p: true}", "a.c.0=", "e=a=b", " a.s = 3"],
    )
    assert after == {
        "a": {"b": 1e-5, "c": [None, {"d": "no"}], "s": 3},
        "n": {"k": {"p": True}},
        "x": {"y": {"z": [1, 2]}},
        "e": "a=b",
    }
    assert before == {"a": {"b": 1, "c": [1, {"d": 2}]}, "n": None}


def test_a_key_with_dots_is_found():
    assert apply_overrides({"heldout": {"v1.2": "x"}}, ["heldout.v1.2=y"]) == {
        "heldout": {"v1.2": "y"}
    }


def test_bad_overrides_are_told_all_at_once():
    with pytest.raises(RecipeError) as caught:
        apply_overrides(
            {"a": 1, "l": [1]}, ["a", "=1", "a..b=1", "a.b=1", "l.1=2", "l.x=2", "b=[1", "l.-1=0"]
        )
    lines = str(caught.value).splitlines()
    starts = ["-s a: write", "-s =1: write", "-s a..b=1: write", "-s a.b: `a` is the value 1",
              "-s l.1: `l` is a list of 1", "-s l.x: `l` is a list of 1", "-s b, line 1",
              "-s l.-1: `l` is a list"]  # fmt: skip
    found = [line for line in lines if line.startswith("-s ")]
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True)), found


@given(st.dictionaries(st.sampled_from("abc"), st.integers() | st.none()), st.text(max_size=20))
def test_any_override_is_applied_or_refused(recipe, override):
    try:
        apply_overrides(recipe, [override])
    except RecipeError:
        return


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "is empty"), ("- a\n", "holds a list of 1 at the top"), ("lata", "the value 'lata'")],
)
def test_a_recipe_is_a_map(tmp_path, text, told):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=told):
        load_mapping(path)


def test_a_recipe_file_with_overrides(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("merge_method: lata\nmodels: [{model: a}]\n")
    assert load_mapping(path, ["models.0.model=b"]) == {
        "merge_method": "lata",
        "models": [{"model": "b"}],
    }
