"""What a merge file may say, and what is told when it says something else."""

from pathlib import Path

import pytest

from lamina.core.errors import RecipeError
from lamina.core.layers import LayerMap
from lamina.core.yaml import load_yaml
from lamina.merge.recipe import (
    MergeRecipe,
    Setting,
    from_dict,
    load_recipe,
    unmatched_filters,
    value_problems,
)

LATA = """
merge_method: lata
base_model: ./base
instruct_model: ./instruct
models:
  - {model: ./math, parameters: {weight: 0.5}}
  - {model: ./code, parameters: {weight: -0.25}}
parameters: {rule: linear_drop}
dtype: bfloat16
"""
TIES = """
merge_method: ties
base_model: ./base
models:
  - {model: ./math, parameters: {weight: 0.5, density: 0.4}}
  - {model: ./code, parameters: {weight: 1e-1}}
parameters: {density: 0.7}
"""
LAYERS = LayerMap.from_names(
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
        *(
            f"model.layers.{block}.{module}.weight"
            for block in range(12)
            for module in ("self_attn.q_proj", "mlp.up_proj", "input_layernorm")
        ),
    ]
)


def read(text: str) -> MergeRecipe:
    return from_dict(load_yaml(text), "recipe.yaml")


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(text)
    return str(caught.value)


def one_expert(method: str, parameters: str, own: str = "weight: 0.5") -> str:
    return (
        f"merge_method: {method}\nbase_model: ./base\n"
        f"models: [{{model: ./math, parameters: {{{own}}}}}]\nparameters: {{{parameters}}}\n"
    )


def test_lata_recipe_with_its_defaults() -> None:
    recipe = read(LATA)
    assert recipe.method == "lata"
    assert recipe.target_model == recipe.instruct_model == "./instruct"
    assert [entry.name for entry in recipe.models] == ["math", "code"]
    assert [entry.weight for entry in recipe.models] == [(Setting(0.5),), (Setting(-0.25),)]
    assert (recipe.granularity, recipe.others, recipe.others_coefficient) == ("block", "keep", 0.0)
    assert (recipe.normalize, recipe.lambda_, recipe.threshold) == (False, 1.0, None)
    assert recipe.output_dtype == "bfloat16"
    assert recipe.controls.permutations == 5
    assert recipe.warnings == ()


@pytest.mark.parametrize(
    ("method", "normalize", "rescale"),
    [
        ("linear", True, False),
        ("task_arithmetic", False, False),
        ("ties", True, False),
        ("dare_linear", False, True),
        ("dare_ties", False, True),
    ],
)
def test_defaults_are_those_of_mergekit(method: str, normalize: bool, rescale: bool) -> None:
    text = one_expert(method, "")
    recipe = read(text.replace("base_model: ./base\n", "") if method == "linear" else text)
    assert (recipe.normalize, recipe.rescale, recipe.lambda_) == (normalize, rescale, 1.0)
    assert recipe.models[0].density is None


def test_own_settings_come_before_those_of_the_file() -> None:
    math_entry, code_entry = read(TIES).models
    assert math_entry.density == (Setting(0.4),)
    assert code_entry.density == (Setting(0.7),)
    text = one_expert("task_arithmetic", "weight: 0.1", "weight: [{filter: mlp, value: [0, 1]}]")
    assert read(text).models[0].weight == (Setting((0.0, 1.0), "mlp"), Setting(0.1))


def test_base_among_the_models_is_no_expert() -> None:
    text = TIES.replace("models:\n", "models:\n  - model: base/\n")
    assert [entry.name for entry in read(text).models] == ["math", "code"]
    told = read(text.replace("model: base/", "{model: ./base, parameters: {weight: 9}}"))
    assert told.warnings == ("models[0].parameters: has no effect: this is the base model",)


def test_unlisted_base_of_linear_is_one_more_input() -> None:
    text = one_expert("linear", "weight: 2")
    recipe = read(text)
    assert [(e.name, e.weight) for e in recipe.models] == [
        ("math", (Setting(0.5),)),
        ("base", (Setting(2.0),)),
    ]
    assert "one more input" in recipe.warnings[0]
    assert "has no weight; list it under `models:`" in refused(one_expert("linear", ""))


def test_names_are_made_unique_and_leave_the_roles_free() -> None:
    text = """
merge_method: task_arithmetic
base_model: ./x
parameters: {weight: 1}
models:
  - model: a/math
  - model: b/math
  - model: c/math/
  - model: ./base
  - {model: d, name: math-2}
"""
    names = [entry.name for entry in read(text).models]
    assert names == ["math", "math-3", "math-4", "base-2", "math-2"]
    assert "the name `math-2` is given twice" in refused(
        text.replace("./base", "e\n    name: math-2")
    )
    assert "stands for another model" in refused(text.replace("name: math-2", "name: target"))
    assert "cannot name a folder" in refused(text.replace("name: math-2", "name: ../x"))


def test_all_problems_come_in_one_message() -> None:
    message = refused(
        """
merge_method: latta
base_modle: ./base
instruct_model: ./instruct
models:
  - {model: ./math, parameters: {wieght: 0.5}}
  - {model: ./code, weight: 1}
parameters: {rule: log_dorp, granularity: layer, thresold: 1, dtype: float32}
"""
    )
    assert message.startswith("9 problems in recipe.yaml:\n")
    for line in (
        "merge_method: unknown method `latta`; did you mean `lata`?",
        "base_modle: unknown key; did you mean `base_model`?",
        "base_model: is missing; `lata` needs it",
        "models[0].parameters.wieght: unknown key; did you mean `weight`?",
        "models[1].weight: belongs under this model's `parameters:`",
        "parameters.rule: unknown value `log_dorp`; did you mean `log_drop`?",
        "parameters.granularity: unknown value `layer`",
        "parameters.thresold: unknown key; did you mean `threshold`?",
        "parameters.dtype: belongs at the top level of the file",
    ):
        assert f"\n  {line}" in message, line


@pytest.mark.parametrize(
    "key", ["slices", "modules", "tokenizer_source", "tokenizer", "chat_template"]
)
def test_keys_of_mergekit_that_lamina_has_not_are_named(key: str) -> None:
    message = refused(LATA + f"{key}: base\n")
    assert f"\n  {key}: is mergekit's and not supported here; " in message


@pytest.mark.parametrize("method", ["della", "model_stock", "breadcrumbs", "passthrough"])
def test_methods_of_mergekit_that_lamina_has_not_are_named(method: str) -> None:
    message = refused(one_expert(method, ""))
    assert f"merge_method: `{method}` is mergekit's and not supported here" in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (one_expert("ties", "epsilon: 0.1"), "parameters.epsilon: is mergekit's and not supported"),
        (one_expert("ties", "t: 0.1"), "parameters.t: belongs to slerp; `ties` does not take it"),
        (one_expert("ties", "", "weight: 1, normalize: false"), "is not a model's own"),
        (one_expert("ties", "normalize: [true, false]"), "is mergekit's only; give true or false"),
        (one_expert("ties", "normalize: maybe"), "needs true or false, found `maybe`"),
        (one_expert("ties", "lambda: [1, 2]"), "is mergekit's only; put it into the weights"),
        (one_expert("ties", "scope: modl"), "unknown value `modl`; did you mean `model`?"),
        (one_expert("ties", "", "density: 0.5"), "`./math` has no weight; add one"),
        (one_expert("ties", "", "weight: .nan"), "parameters.weight: is nan"),
        (one_expert("ties", "", "weight: [1, -.inf]"), "parameters.weight[1]: is -inf"),
        (one_expert("ties", "", "weight: true"), "needs a number, found `True`"),
        (one_expert("ties", "", "weight: half"), "needs a number, found the text `half`"),
        (one_expert("ties", "", "weight: []"), "is an empty list"),
        (one_expert("ties", "", "weight: [1, {value: 2}]"), "are mixed in one list"),
        (one_expert("ties", "", "weight: [{filter: mlp}]"), "has no `value`"),
        (one_expert("ties", "", "weight: {value: 1, fliter: x}"), "did you mean `filter`?"),
        (one_expert("ties", "", "weight: {value: 1, filter: a..b}"), "has an empty part"),
        (one_expert("ties", "", "weight: 1, density: 0"), "density: is 0; it is the share kept"),
        (one_expert("ties", "", "weight: 1, density: 1.5"), "density: is 1.5; it is the share"),
        (one_expert("slerp", "", ""), "parameters.t: is missing"),
        (one_expert("slerp", "t: 0.5", "t: 0.5"), "parameters.t: is not a model's own"),
        (one_expert("lata", "rule: log_drop"), "instruct_model: is missing"),
        (one_expert("ties", "") + "instruct_model: x\n", "belongs to `merge_method: lata`"),
        (one_expert("ties", "") + "weight: 1\n", "weight: belongs under `parameters:`"),
        (one_expert("ties", "") + "dtype: float64\n", "`float64` is mergekit's and not supported"),
        (one_expert("ties", "") + "out_dtype: bf16\n", "did you mean `bfloat16`?"),
        (one_expert("ties", "") + "max_shard_size: big\n", "needs a size such as `2GB`"),
        (one_expert("ties", "") + "vocabulary: loose\n", "known: strict, common"),
        (one_expert("ties", "") + "heldout: {math: 3}\n", "heldout.math: needs the path"),
        (LATA.replace("./instruct", "./base/"), "instruct_model: is the base too"),
        (LATA.replace("linear_drop", "linear_drop, threshold: 0.5"), "has no effect with `rule: l"),
        (LATA.replace("linear_drop", "threshold, threshold: 2"), "a cosine lies from -1 to 1"),
        (LATA.replace("linear_drop", "log_drop, density: 0.5"), "has no effect without `method"),
        (LATA.replace("linear_drop", "log_drop, others: kep"), "did you mean `keep`?"),
        (LATA.replace("{rule: linear_drop}", "{}"), "parameters.rule: is missing; choose one of"),
        (LATA + "controls: {permutations: 0}\n", "needs a whole number from 1"),
        (LATA.replace("./code", "math"), "`math` is listed twice"),
        (LATA.replace("model: ./code", "model: 12"), "write it in quotes: '12'"),
        ("merge_method: linear\n", "models: is missing or empty"),
        ("merge_method: linear\nmodels: {a: b}\n", "models: is missing or empty"),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: b}]\n", "holds only the base model"),
        ("- a\n", "holds no keys"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    assert told in refused(text)


def test_weights_that_sum_to_zero_are_refused_where_they_divide() -> None:
    text = LATA.replace("-0.25", "-0.5")
    assert read(text).normalize is False
    message = refused(text.replace("linear_drop", "linear_drop, normalize: true"))
    assert "models: the weights sum to zero and `normalize` divides by that" in message
    swept = text.replace("-0.5", "1").replace("linear_drop", "linear_drop, normalize: true")
    assert "sweep.none: the weights sum" in refused(
        swept + "sweep: [{name: none, weights: {math: 1, code: -1}}]\n"
    )


def test_what_has_no_effect_is_warned_about() -> None:
    recipe = read(one_expert("task_arithmetic", "density: 0.5, int8_mask: true"))
    assert len(recipe.warnings) == 2
    assert all("has no effect with `task_arithmetic`" in line for line in recipe.warnings)
    assert "it is 1 and nothing is dropped" in read(one_expert("dare_ties", "")).warnings[0]
    assert "can undo a negative one" in read(TIES.replace("0.5", "-0.5")).warnings[0]
    dead = one_expert("task_arithmetic", "", "weight: [{value: 1}, {filter: mlp, value: 2}]")
    assert "is never reached" in read(dead).warnings[0]


def test_words_and_numbers_of_yaml() -> None:
    assert read(TIES).models[1].weight == (Setting(0.1),)
    assert read(LATA.replace("./base", "no")).base_model == "no"
    assert read(one_expert("ties", "normalize: no")).normalize is False
    assert read(one_expert("ties", "", 'weight: "0.5"')).models[0].weight == (Setting(0.5),)
    assert read(TIES + "dtype: torch.float16\n").dtype == "float16"


@pytest.mark.parametrize(
    ("size", "number"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("500mb", 5 * 10**8), ("4096", 4096)],
)
def test_shard_sizes(size: str, number: int) -> None:
    assert read(f"{LATA}max_shard_size: {size}\n").max_shard_bytes == number


def test_sweep_names_its_settings_and_keeps_what_it_does_not_name() -> None:
    sweep = "sweep: [{weight: 0.5}, {weights: {math: 1}}, {name: up, weight: [0, 1]}]\n"
    recipe = read(LATA + sweep)
    assert [setting.name for setting in recipe.sweep] == ["weight-0.5", "code--0.25_math-1", "up"]
    at_second = recipe.at(recipe.sweep[1])
    assert [entry.weight for entry in at_second.models] == [(Setting(1.0),), (Setting(-0.25),)]
    assert at_second.sweep == ()
    assert "did you mean `math`?" in refused(LATA + "sweep: [{weights: {mth: 1}}]\n")
    assert "two settings are named" in refused(LATA + "sweep: [{weight: 1}, {weight: 1.0}]\n")
    assert "give either `weight:`" in refused(LATA + "sweep: [{name: a}]\n")
    assert "needs a list" in refused(LATA + "sweep: {weight: 1}\n")


def test_sweep_alone_can_give_the_weights() -> None:
    text = LATA.replace("weight: 0.5", "").replace("weight: -0.25", "")
    assert len(read(text + "sweep: [{weight: 1}]\n").sweep) == 1
    assert "no weight for code" in refused(text + "sweep: [{weights: {math: 1}}]\n")


@pytest.mark.parametrize(
    "text",
    [
        LATA,
        TIES + "max_shard_size: 2GB\nheldout: {math: m.jsonl}\n",
        LATA.replace("linear_drop", "threshold, method: dare, density: 0.3, seed: 7, others: 0.5"),
        LATA.replace("linear_drop", "log_drop, method: ties, density: 0.3, scope: global"),
        LATA + "sweep: [{weight: 0.5}, {weights: {math: [0, 1]}}]\ncontrols: {seed: 3}\n",
        one_expert("slerp", "t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]", ""),
        one_expert("linear", "weight: 2, normalize: false"),
        one_expert("task_arithmetic", "lambda: 0.7, normalize: true"),
    ],
)
def test_written_recipe_reads_as_the_same(text: str) -> None:
    recipe = read(text).model_copy(update={"warnings": ()})
    again = read(recipe.to_yaml()).model_copy(update={"warnings": ()})
    assert again == recipe


def test_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(LATA)
    recipe = load_recipe(path, ["parameters.rule=threshold", "models.1.parameters.weight=1e-2"])
    assert (recipe.rule, recipe.threshold) == ("threshold", 0.95)
    assert recipe.models[1].weight == (Setting(0.01),)


def test_filter_that_fits_nothing_is_told_with_the_nearest() -> None:
    wrong = "weight: [{filter: slef_attn, value: 1}, {filter: _proj, value: 1}]"
    told = unmatched_filters(read(one_expert("task_arithmetic", "weight: 1", wrong)), LAYERS)
    assert told[0] == "filter `slef_attn` fits no tensor; did you mean `self_attn`?"
    assert "matches whole parts of a name here, unlike mergekit's" in told[1]
    assert len(told) == 2


def test_what_only_the_tensors_show() -> None:
    holes = one_expert("task_arithmetic", "", "weight: [{filter: mlp, value: 1}]")
    (hole,) = value_problems(read(holes), LAYERS)
    assert "no setting fits 27 of 39 tensors" in hole
    zero = """
merge_method: linear
models:
  - {model: a, parameters: {weight: [{filter: mlp, value: 1}, {value: 2}]}}
  - {model: b, parameters: {weight: -1}}
"""
    (sums,) = value_problems(read(zero), LAYERS)
    assert "the weights sum to zero for 12 of 39 tensors" in sums
    gradient = one_expert("ties", "normalize: true", "weight: [0, 1]")
    assert value_problems(read(gradient), LAYERS) == []
