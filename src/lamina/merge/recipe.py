"""Reads the YAML that merge users know, plus `merge_method: lata`, into a `MergeRecipe`.

mergekit's keys mean what they mean there. What it has and lamina has not is refused by name, and so
is every key, method or rule that nobody knows, with the nearest one; mergekit ignores unknown keys.
All problems of a file come in one message. No numpy: `lamina check` starts with this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lamina.core.errors import RecipeError, did_you_mean
from lamina.core.recipe import is_tune, load_mapping
from lamina.merge.entries import MergeFile, check_models, read_models, read_sweep
from lamina.merge.keys import (
    DTYPES,
    PARAMETERS,
    PER_MODEL,
    PER_MODEL_TEXTS,
    RULES,
    SHAPES,
    THEIRS,
    check_keys,
    read_method,
)
from lamina.merge.nouns import (
    Controls,
    MergeRecipe,
    ModelEntry,
    SweepSetting,
    as_forgetting,
    density_of,
    sums_to_zero,
    unmatched_filters,
    value_problems,
    weight_of,
)
from lamina.merge.section import Section
from lamina.merge.values import Problems, Setting, Value, is_constant, numbers_in, resolve

__all__ = [
    "Controls",
    "MergeRecipe",
    "ModelEntry",
    "Setting",
    "SweepSetting",
    "Value",
    "as_forgetting",
    "density_of",
    "forgetting_from_dict",
    "from_dict",
    "load_forgetting",
    "load_recipe",
    "resolve",
    "unmatched_filters",
    "value_problems",
    "weight_of",
]

REQUIRED_TO_MERGE = frozenset({"rule", "weight"})


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> MergeRecipe:
    """The recipe of `lamina merge`, from a YAML file, with `a.b=1` overrides applied.

    Raises:
        RecipeError: with every problem of the file.
    """
    return from_dict(load_mapping(Path(path), overrides), str(path))


def load_forgetting(path: str | Path, overrides: Sequence[str] = ()) -> MergeRecipe:
    """The recipe of `lamina forget`: the same file with positive weights, or without any."""
    return forgetting_from_dict(load_mapping(Path(path), overrides), str(path))


def from_dict(raw: object, source: str) -> MergeRecipe:
    """The recipe that a YAML file's content stands for; `source` is what messages call the file."""
    return _read(raw, source, REQUIRED_TO_MERGE)


def forgetting_from_dict(raw: object, source: str) -> MergeRecipe:
    """The recipe with the experts taken away instead of added: see `as_forgetting`."""
    return as_forgetting(_read(raw, source, frozenset()), source)


def _read(raw: object, source: str, required: frozenset[str]) -> MergeRecipe:
    if not isinstance(raw, Mapping):
        raise RecipeError(
            f"{source} holds no keys; a merge needs at least `merge_method:` and `models:`"
        )
    if is_tune(raw):
        raise RecipeError(
            f"{source} has no `merge_method`, but keys of `lamina tune`: start it with "
            f"`lamina tune {source} --out DIR`"
        )
    problems = Problems()
    top = Section.of(raw, "", problems)
    parameters = top.below("parameters")
    method = read_method(top)
    takes = PARAMETERS[method] if method else PER_MODEL
    defaults = {key: parameters.value(key) if key in takes else None for key in PER_MODEL}
    texts = {
        key: parameters.text(key, "a text") if key in takes else None for key in PER_MODEL_TEXTS
    }
    file = MergeFile(top, parameters, method, required, defaults, texts)
    check_keys(top, parameters, method)
    fields = _read_fields(file)
    models = read_models(file)
    fields |= {"models": models, "sweep": read_sweep(file, models)}
    check_models(file, models)
    _check_weights(fields, problems)
    problems.raise_if_any(source)
    return MergeRecipe.model_validate(fields | {"warnings": tuple(problems.warnings)})


# Plain fields


def _read_fields(file: MergeFile) -> dict[str, object]:
    top, parameters, method = file.top, file.parameters, file.method
    sparsifier = parameters.choice("method", ("ties", "dare"))
    draws = sparsifier == "dare" or method in ("dare_linear", "dare_ties")
    instruct = top.text("instruct_model", "a model folder")
    if method == "slerp" and "t" not in parameters:
        parameters.wrong(
            "t", "is missing; give for instance `t: 0.5` (0 is the base, 1 the other model)"
        )
    return {
        "method": method,
        "base_model": None if file.by_scores else top.text("base_model", "a model folder"),
        "instruct_model": instruct,
        "target_model": top.text("target_model", "a model folder") or instruct,
        "normalize": parameters.flag("normalize", method in ("linear", "ties")),
        "rescale": parameters.flag("rescale", draws),
        "lambda_": parameters.number("lambda", 1.0),
        "t": parameters.value("t"),
        "scope": "tensor"
        if parameters.choice("scope", ("tensor", "global", "model")) in (None, "tensor")
        else "model",
        "seed": parameters.whole("seed", 0, 0, 2**63 - 1),
        "sparsifier": sparsifier,
        "dtype": _read_dtype(top, "dtype"),
        "out_dtype": _read_dtype(top, "out_dtype"),
        "vocabulary": top.choice("vocabulary", ("strict", "common")) or "common",
        "max_shard_size": top.size("max_shard_size"),
        "heldout": _read_heldout(top.below("heldout")),
    } | (_read_lata(file, sparsifier) if method == "lata" else {})


def _read_lata(file: MergeFile, sparsifier: str | None) -> dict[str, object]:
    parameters = file.parameters
    rule = parameters.choice("rule", RULES)
    if "rule" in file.required and "rule" not in parameters:
        parameters.wrong("rule", f"is missing; choose one of {', '.join(RULES)}")
    threshold = parameters.number("threshold", 0.95)
    if not -1 <= threshold <= 1:
        parameters.wrong("threshold", f"is {threshold:g}; a cosine lies from -1 to 1")
    if "threshold" in parameters and rule in ("linear_drop", "log_drop", "scores"):
        parameters.wrong(
            "threshold", f"has no effect with `rule: {rule}`; use `rule: threshold` or remove it"
        )
    needs = {
        "density": ("ties", "dare"),
        "rescale": ("ties", "dare"),
        "scope": ("ties",),
        "seed": ("dare",),
    }
    for key, wanted in needs.items():
        if key in parameters and sparsifier not in wanted:
            said = " or ".join(f"`method: {name}`" for name in wanted)
            parameters.wrong(key, f"has no effect without {said}; add that or remove this")
    others = parameters.given.get("others", "keep")
    if others not in ("keep", "merge"):
        others = (
            parameters.number("others", 0.0)
            if not isinstance(others, str)
            else parameters.choice("others", ("keep", "merge"))
        )
    controls = file.top.below("controls")
    controls.check_known(("permutations", "seed"))
    used = rule == "threshold" or (rule is None and "threshold" in parameters)
    return {
        "rule": rule,
        "threshold": threshold if used else None,
        "granularity": parameters.choice("granularity", ("block", "module")) or "block",
        "others": others,
        **_read_ranking(file, rule),
        "controls": Controls(
            permutations=controls.whole("permutations", 5, 1, 1000),
            seed=controls.whole("seed", 0, 0, 2**63 - 1),
        ),
    }


def _read_ranking(file: MergeFile, rule: str | None) -> dict[str, object]:
    """What the rule `scores` takes beside the file; the other rules take none of it."""
    parameters = file.parameters
    if rule != "scores":
        for key in ("scores", "expert", "shape", "share", "check_base"):
            if key in parameters and file.other_rule:
                parameters.wrong(
                    key, "has no effect without `rule: scores`; add that or remove this"
                )
        return {}
    if "granularity" in parameters:
        parameters.wrong("granularity", "has no effect with `rule: scores`: the scores have theirs")
    shape = parameters.choice("shape", SHAPES) or "linear"
    share = parameters.number("share", 1.0)
    if "share" in parameters and not 0 < share <= 1:
        parameters.wrong("share", f"is {share:g}; it is a share of the layers, above 0, at most 1")
    if shape == "top" and "share" not in parameters:
        parameters.wrong("share", "is missing; `shape: top` needs one, for instance `share: 0.3`")
    if shape != "top" and "share" in parameters:
        parameters.wrong("share", "has no effect without `shape: top`; add that or remove this")
    return {
        "shape": shape,
        "share": share if shape == "top" else None,
        "check_base": parameters.flag("check_base", True),
    }


def _read_dtype(top: Section, key: str) -> str | None:
    raw = top.given.get(key)
    if raw is None:
        return None
    name = str(raw).removeprefix("torch.")
    if name in ("float64", "int64"):
        top.wrong(key, f"`{raw}` {THEIRS}; choose one of {', '.join(DTYPES)}")
    elif name not in DTYPES:
        top.wrong(key, f"unknown dtype `{raw}`; {did_you_mean(name, DTYPES)}")
    return name if name in DTYPES else None


def _read_heldout(section: Section) -> dict[str, str]:
    paths = {domain: section.text(domain, "the path of a text file") for domain in section.given}
    return {domain: path for domain, path in paths.items() if path is not None}


def _check_weights(fields: Mapping[str, object], problems: Problems) -> None:
    """Weights that are finite and still make no sense together, and such as may surprise."""
    recipe = MergeRecipe.model_construct(None, **fields)
    drops = recipe.method in ("ties", "dare_linear", "dare_ties") or recipe.sparsifier is not None
    if drops and recipe.models and not any(entry.density for entry in recipe.models):
        problems.warn("parameters.density", "is missing, so it is 1 and nothing is dropped")
    for entry in recipe.models:
        if recipe.scope == "model" and entry.density and not is_constant(entry.density):
            problems.add(
                f"models.{entry.name}.density",
                "differs from tensor to tensor; over a whole model (`scope: global`) it must be one"
                " number",
            )
    if not recipe.normalize:
        return
    groups = {"models": [entry.weight for entry in recipe.models]}
    groups |= {f"sweep.{s.name}": list(s.weights.values()) for s in recipe.sweep}
    for name, weights in groups.items():
        plain = [w[0].numbers[0] for w in weights if w and is_constant(w)]
        if plain and len(plain) == len(weights) and sums_to_zero(plain, recipe.method):
            problems.add(
                name,
                "the weights sum to zero and `normalize` divides by that; set `normalize: false`",
            )
        elif any(n < 0 for w in weights for n in numbers_in(w or ())):
            problems.warn(
                name, "`normalize` divides by the sum of the weights, which can undo a negative one"
            )
