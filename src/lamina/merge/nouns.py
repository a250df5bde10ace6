"""What a merge is to do: one frozen recipe, whatever the method.

`merge/recipe.py` reads it from the YAML that mergekit users know, plus `merge_method: lata`. A
recipe names files but opens none, and knows no tensor: `value_problems` asks the questions that
need the tensors' names. No numpy.
"""

import math
from collections.abc import Mapping
from typing import Literal

from lamina.core.errors import RecipeError
from lamina.core.layers import LayerMap
from lamina.core.recipe import Recipe
from lamina.core.yaml import dump_yaml
from lamina.merge.values import (
    Problems,
    Value,
    constant,
    is_constant,
    negated,
    numbers_in,
    resolve,
    setting_for,
    size_in_bytes,
    unmatched,
    write_value,
)

Method = Literal["linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp", "lata"]
Rule = Literal["linear_drop", "log_drop", "threshold", "scores"]
Shape = Literal["linear", "log", "top"]
Dtype = Literal["float32", "float16", "bfloat16"]

FORGETTING: tuple[Method, ...] = ("lata", "task_arithmetic")


class ModelEntry(Recipe):
    """One model that is merged in."""

    model: str
    """Folder of the model or of a LoRA adapter, as the user wrote it."""
    name: str
    """Short and unique: the folder's name unless the recipe gives another."""
    weight: Value | None = None
    """Own settings, then the recipe's top-level ones; None only for slerp."""
    density: Value | None = None
    """Share of the values kept; None keeps all."""
    scores: str | None = None
    """Rule `scores`: the file that holds a score for every layer of this model."""
    expert: str | None = None
    """Whose scores, in a file with those of several; None: of this model's name."""


class SweepSetting(Recipe):
    """One more output written from the same read, with other weights."""

    name: str
    weights: Mapping[str, Value]
    """The weight of every expert, by its name."""


class Controls(Recipe):
    """How the ranking of the layers is put to the test."""

    permutations: int = 5
    seed: int = 0


class MergeRecipe(Recipe):
    """What is merged, how, and what is written."""

    method: Method
    base_model: str | None = None
    """What task vectors are counted from; for LATA the raw language model."""
    instruct_model: str | None = None
    """LATA: what the experts were tuned from."""
    target_model: str | None = None
    """LATA: the model that is edited."""
    models: tuple[ModelEntry, ...]
    """For linear all inputs, the base too where mergekit counts it in; else the experts without the
    base.
    """
    normalize: bool = False
    rescale: bool = False
    lambda_: float = 1.0
    t: Value | None = None
    """slerp: 0 is the base, 1 the other model."""
    scope: Literal["tensor", "model"] = "tensor"
    """TIES: what the density is a share of (`tensor`, or `global` in the YAML)."""
    seed: int = 0
    """Of DARE's noise."""
    rule: Rule | None = None
    threshold: float | None = None
    """Rule `threshold`: a layer counts if its cosine is below."""
    granularity: Literal["block", "module"] = "block"
    """With the rule `scores` not used: the scores have their own."""
    shape: Shape | None = None
    """Rule `scores`: how a layer's place becomes its coefficient."""
    share: float | None = None
    """Shape `top`: the share of the layers that is taken."""
    check_base: bool = True
    """Rule `scores`: refuse scores that were measured on none of this merge's models."""
    others: Literal["keep", "merge"] | float = "keep"
    """Tensors outside the blocks: the target's, merged whole, or by a factor."""
    sparsifier: Literal["ties", "dare"] | None = None
    """LATA: applied to the weighted vectors (`method` under `parameters`)."""
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    vocabulary: Literal["strict", "common"] = "common"
    max_shard_size: str | None = None
    sweep: tuple[SweepSetting, ...] = ()
    heldout: Mapping[str, str] = {}
    """Domain to a file of held-out text."""
    controls: Controls = Controls()
    warnings: tuple[str, ...] = ()
    """What the reader noticed and the user should be told."""

    @property
    def output_dtype(self) -> Dtype | None:
        """What is written; None: as the inputs. All arithmetic is float32, so `dtype` only says
        this too.
        """
        return self.out_dtype or self.dtype

    @property
    def others_coefficient(self) -> float:
        """`others` as the factor it stands for."""
        return (
            {"keep": 0.0, "merge": 1.0}[self.others]
            if isinstance(self.others, str)
            else self.others
        )

    @property
    def max_shard_bytes(self) -> int | None:
        """The largest shard; None: shards as the input's."""
        return None if self.max_shard_size is None else size_in_bytes(self.max_shard_size)

    def at(self, setting: SweepSetting) -> "MergeRecipe":
        """This recipe under one setting of its sweep, as if it stood alone."""
        models = tuple(
            e.model_copy(update={"weight": setting.weights[e.name]}) for e in self.models
        )
        return self.model_copy(update={"models": models, "sweep": ()})

    def to_dict(self) -> dict[str, object]:
        """The recipe as its YAML holds it, every default written out; reading it gives the same
        recipe.
        """
        parameters: dict[str, object] = {}
        if self.method == "slerp":
            parameters["t"] = None if self.t is None else write_value(self.t)
        else:
            parameters["normalize"] = self.normalize
        if self.method not in ("slerp", "linear"):
            parameters["lambda"] = self.lambda_
        if self.sparsifier is not None:
            parameters["method"] = self.sparsifier
        trims = self.method == "ties" or self.sparsifier == "ties"
        draws = self.method.startswith("dare") or self.sparsifier == "dare"
        if trims or draws:
            parameters["rescale"] = self.rescale
        if trims:
            parameters["scope"] = "global" if self.scope == "model" else "tensor"
        if draws:
            parameters["seed"] = self.seed
        if self.method == "lata":
            parameters |= {"rule": self.rule, **self._ranking(), "others": self.others}
            parameters |= {} if self.threshold is None else {"threshold": self.threshold}
        written: dict[str, object] = {"merge_method": self.method}
        for key in ("base_model", "instruct_model", "target_model"):
            path = getattr(self, key)
            written |= {} if path is None else {key: path}
        written["models"] = [_entry_dict(entry) for entry in self.models]
        written["parameters"] = parameters
        for key in ("dtype", "out_dtype", "max_shard_size"):
            given = getattr(self, key)
            written |= {} if given is None else {key: given}
        written["vocabulary"] = self.vocabulary
        if self.sweep:
            written["sweep"] = [
                {"name": s.name, "weights": {n: write_value(v) for n, v in s.weights.items()}}
                for s in self.sweep
            ]
        if self.heldout:
            written["heldout"] = dict(self.heldout)
        if self.method == "lata":
            written["controls"] = self.controls.model_dump()
        return written

    def _ranking(self) -> dict[str, object]:
        """What is ranked: layers of a granularity, or those that a file has scores of."""
        if self.rule != "scores":
            return {"granularity": self.granularity}
        share = {} if self.share is None else {"share": self.share}
        return {"shape": self.shape, **share, "check_base": self.check_base}

    def to_yaml(self) -> str:
        """The recipe as YAML that runs again as it is."""
        return dump_yaml(self.to_dict())


def _entry_dict(entry: ModelEntry) -> dict[str, object]:
    parameters: dict[str, object] = {
        key: write_value(value)
        for key, value in (("weight", entry.weight), ("density", entry.density))
        if value is not None
    }
    for key, text in (("scores", entry.scores), ("expert", entry.expert)):
        parameters |= {} if text is None else {key: text}
    written: dict[str, object] = {"model": entry.model, "name": entry.name}
    return written | ({"parameters": parameters} if parameters else {})


def as_forgetting(recipe: MergeRecipe, source: str = "the recipe") -> MergeRecipe:
    """The same recipe with the experts taken away instead of added: weights negative, 1 by default.

    Eq. 12 of LATA (arXiv:2502.20186): target - lambda' t'. Without a rule, the paper's for
    forgetting: a layer counts if its cosine is below .95.

    Raises:
        RecipeError: a method that cannot forget, a weight that is negative already, or
            `normalize: true`.
    """
    problems = Problems()
    if recipe.method not in FORGETTING:
        known = " or ".join(f"`{method}`" for method in FORGETTING)
        problems.add("merge_method", f"`{recipe.method}` cannot forget; use {known}")
    elif recipe.normalize:
        problems.add("parameters.normalize", "would undo the minus that forgets; set it to false")
    weights = [(f"models.{e.name}.weight", e.weight) for e in recipe.models]
    weights += [(f"sweep.{s.name}.{n}", v) for s in recipe.sweep for n, v in s.weights.items()]
    for path, value in [*weights, ("parameters.lambda", constant(recipe.lambda_))]:
        wrong = [number for number in numbers_in(value or ()) if number < 0]
        if wrong:
            problems.add(path, f"is {wrong[0]:g}: forgetting puts the minus there; remove yours")
    problems.raise_if_any(source)
    models = tuple(
        e.model_copy(update={"weight": negated(e.weight or constant(1.0))}) for e in recipe.models
    )
    sweep = tuple(
        s.model_copy(update={"weights": {name: negated(v) for name, v in s.weights.items()}})
        for s in recipe.sweep
    )
    rule = recipe.rule or ("threshold" if recipe.method == "lata" else None)
    threshold = 0.95 if rule == "threshold" and recipe.threshold is None else recipe.threshold
    return recipe.model_copy(
        update={"models": models, "sweep": sweep, "rule": rule, "threshold": threshold}
    )


def named_filters(recipe: MergeRecipe) -> list[str]:
    """Every filter of the recipe, once."""
    values = [recipe.t, *(v for e in recipe.models for v in (e.weight, e.density))]
    return list(dict.fromkeys(s.filter for v in values if v for s in v if s.filter is not None))


def unmatched_filters(recipe: MergeRecipe, layers: LayerMap) -> list[str]:
    """A sentence for each filter that fits no tensor of the model, with the nearest name that
    would.
    """
    return unmatched(named_filters(recipe), layers.layers)


def value_problems(recipe: MergeRecipe, layers: LayerMap) -> list[str]:
    """What only the tensors' names show: idle filters, tensors without a weight, weights that sum
    to zero.
    """
    problems = unmatched_filters(recipe, layers)
    asked = {"t": recipe.t} | {
        f"{key} of {e.name}": value
        for e in recipe.models
        for key, value in (("weight", e.weight), ("density", e.density))
    }
    uncovered = False
    for what, value in asked.items():
        without = [n for n in sorted(layers.layers) if value and setting_for(value, n) is None]
        if without and not what.startswith("density"):
            uncovered = True
            problems.append(
                f"{what}: no setting fits {len(without)} of {len(layers.layers)} tensors,"
                f" the first is `{without[0]}`; add a last entry `- value: ...` without a filter"
            )
    if recipe.normalize and not uncovered:
        weights = [e.weight or constant(1.0) for e in recipe.models]
        zero = [
            name
            for name in sorted(layers.layers)
            if sums_to_zero([resolve(w, name, layers) for w in weights], recipe.method)
        ]
        if zero and not all(is_constant(w) for w in weights):
            problems.append(
                f"normalize: the weights sum to zero for {len(zero)} of {len(layers.layers)}"
                f" tensors, the first is `{zero[0]}`; set `normalize: false` or change the weights"
            )
    return problems


def density_of(entry: ModelEntry, tensor_name: str, layers: LayerMap) -> float:
    """The share of one tensor's values that is kept: 1 where nothing is said."""
    if entry.density is None or setting_for(entry.density, tensor_name) is None:
        return 1.0
    return resolve(entry.density, tensor_name, layers)


def sums_to_zero(weights: list[float], method: str) -> bool:
    """Whether dividing by the weights' sum has no meaning. All zero is no update where there are
    task vectors.
    """
    if not any(weights):
        return method == "linear"
    return abs(math.fsum(weights)) <= 1e-7 * math.fsum(abs(w) for w in weights)


def weight_of(entry: ModelEntry, tensor_name: str, layers: LayerMap) -> float:
    """The weight of one expert for one tensor.

    Raises:
        RecipeError: no setting fits this tensor.
    """
    if entry.weight is None:
        raise RecipeError(f"`{entry.name}` has no weight")
    return resolve(entry.weight, tensor_name, layers)
