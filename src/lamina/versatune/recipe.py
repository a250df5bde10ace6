"""The recipe of `lamina tune`: a model, data in domains, how to train, and how weights move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lamina.core.errors import RecipeError, did_you_mean
from lamina.core.recipe import Recipe, load_mapping, validate
from lamina.data.recipe import DataSection, DomainSpec
from lamina.engine.layerwise_recipe import LayerwiseSection
from lamina.engine.plan_recipe import PlanSection
from lamina.engine.recipe import Count, Positive, Share, TrainSection
from lamina.versatune.detect_recipe import DetectSection
from lamina.versatune.policies import POLICIES, check, parameters_of

USES_REFERENCE = ("foster", "expand", "doremi", "sheared", "velocity")
"""Policies that compare a loss with the one that could be reached."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ReferenceSection(Recipe):
    """Where the loss that a domain could reach comes from."""

    way: Literal["tuned", "given", "fraction"] = "tuned"
    """`tuned`: the lowest held-out loss of a tuning on that domain alone; `fraction`: of the loss
    at the start; `given`: as in `losses`."""
    losses: dict[str, Positive] = Field(default_factory=dict)
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.8
    windows: Count = 8
    """`tuned`: at most so many windows for each domain."""
    window_steps: Count | None = None
    """Steps of such a window; by default as in `train`."""
    patience: Count = 2
    """`tuned`: stop after so many windows without a lower held-out loss."""

    @model_validator(mode="after")
    def _given_or_not(self) -> Self:
        if self.way == "given" and not self.losses:
            raise ValueError("way is `given`, so `losses` must hold a number for every domain")
        if self.way != "given" and self.losses:
            raise ValueError(f"`losses` are given, but way is `{self.way}`; write way: given")
        return self


class StageSection(Recipe):
    """One policy for some windows. Its own parameters stand beside the common keys."""

    policy: str = "foster"
    start: str | dict[str, Weight] = "uniform"
    """Weights of the first window: `detected`, `uniform`, `by_size`, or one for each domain; a
    later stage starts where the one before stopped, unless it says otherwise."""
    detected: str | None = None
    """A folder that `lamina detect` wrote; without it a tune run detects by itself."""
    windows: Count | None = None
    """Windows of this stage, where there are several."""
    name: str | None = None
    unit: Literal["tokens", "rows"] = "tokens"
    """What a weight is a share of: trained tokens, or packed rows."""
    loss_unit: Literal["tokens", "bytes"] = "tokens"
    """Compare domains by nats a token, or a byte (for domains that tokenise unlike)."""
    smoothing: Share = 1e-4
    floor: Share = 0.0
    max_repeats: Positive | None = None
    """No domain's rows are read more often than this on average, as far as the others allow."""
    reference: ReferenceSection = ReferenceSection()
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The policy's own: sigma, growth, link, target, ..."""

    @model_validator(mode="before")
    @classmethod
    def _own_parameters(cls, values: Any) -> Any:
        """Keys that are not common ones belong to the policy; what it does not use is refused."""
        if not isinstance(values, Mapping):
            return values
        policy = values.get("policy", "foster")
        if not isinstance(policy, str) or policy not in POLICIES:
            raise ValueError(
                f"policy {policy!r} is unknown; {did_you_mean(str(policy), POLICIES)} "
                f"(known: {', '.join(POLICIES)})"
            )
        common, own = cls.model_fields, parameters_of(policy)
        given = {key: value for key, value in values.items() if key in common}
        extra = {key: value for key, value in values.items() if key not in common}
        parameters = {**given.get("parameters", {}), **extra}
        problems = []
        for key in sorted(set(parameters) - set(own)):
            users = sorted(name for name in POLICIES if key in parameters_of(name))
            told = (
                f"policy `{policy}` does not use it ({', '.join(users)}: yes)"
                if users
                else f"unknown key; {did_you_mean(key, [*own, *common])}"
            )
            problems.append(f"`{key}`: {told}")
        if problems:
            raise ValueError("; ".join(problems))
        return {**given, "parameters": parameters}

    @field_validator("start", mode="before")
    @classmethod
    def _shares(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping):
            raise ValueError("write detected, uniform, by_size, or a weight for each domain")
        if isinstance(value, Mapping):
            bad = [
                f"{name}: {share!r}"
                for name, share in value.items()
                if isinstance(share, bool)
                or not isinstance(share, int | float)
                or not 0 <= share < float("inf")
            ]
            if bad:
                raise ValueError(f"weights are numbers of 0 or more, not {', '.join(bad)}")
        return value

    @field_validator("start")
    @classmethod
    def _known_start(cls, value: Any) -> Any:
        known = ("detected", "uniform", "by_size")
        if isinstance(value, str) and value not in known:
            raise ValueError(
                f"`{value}` is unknown; {did_you_mean(value, known)} (or a weight per domain)"
            )
        return value

    @property
    def title(self) -> str:
        return self.name or self.policy


class DistilSection(Recipe):
    """Keep old domains by the divergence from the starting model (2205.03307)."""

    weight: Positive
    domains: tuple[str, ...] | None = None
    """Rows of these; by default of every domain but the target of `expand`."""


class TuneRecipe(Recipe):
    """Everything `lamina tune` needs."""

    model: str
    """A folder or hub name. An adapter, `base+adapter`, is merged first; needs `method: full`."""
    domains: dict[str, DomainSpec]
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    mixture: tuple[StageSection, ...] = (StageSection(),)
    """One stage, or several one after the other."""
    detect: DetectSection = DetectSection()
    self_distillation: DistilSection | None = None
    plan: PlanSection | None = None
    """Which modules are tuned; without it all linear ones (`lora`) or every weight (`full`)."""
    layerwise: LayerwiseSection | None = None
    """A way that treats layers unlike one another: `lisa`, `spider` or `prilora`."""
    max_forgetting: Positive | None = None
    """End the run when a domain's held-out loss rises by more than this share."""
    general: str | None = "default"
    """Text whose loss is told before and after; `default`: a slice that lamina carries."""

    @field_validator("domains")
    @classmethod
    def _some_domains(cls, value: dict[str, DomainSpec]) -> dict[str, DomainSpec]:
        if not value:
            raise ValueError("no domain is named; write a name and a file for each")
        odd = [name for name in value if not name or not name.isprintable() or "/" in name]
        if odd:
            raise ValueError(f"names of domains must be printable, without /: {odd}")
        return value

    @field_validator("mixture", mode="before")
    @classmethod
    def _one_stage(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return (value,)
        if isinstance(value, list) and not value:
            raise ValueError("the list of stages is empty")
        return tuple(value) if isinstance(value, list) else value

    @field_validator("self_distillation", mode="before")
    @classmethod
    def _bare_weight(cls, value: Any) -> Any:
        return {"weight": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Names of domains, windows of stages: all that is wrong at once."""
        problems = [*self._unknown_domains(), *self._windows()]
        if self.plan is not None:
            problems += self.plan.problems(self.train.method)
            if "targets" in self.train.model_fields_set:
                problems.append(
                    "train.targets and `plan` both say which modules are tuned; leave one out"
                )
        if self.layerwise is not None:
            problems += self.layerwise.conflicts(self.train.method, self.train.optimizer)
            if self.layerwise.way == "lisa" and self.plan is not None and self.plan.cache_prefix:
                problems.append(
                    "plan.cache_prefix keeps what the blocks below the plan give, and layerwise "
                    "way `lisa` tunes other blocks from time to time; leave one of them out"
                )
        for stage in self.mixture:
            if isinstance(stage.start, dict):
                problems += _weights_problems(stage.start, self.domains)
            if stage.floor * len(self.domains) > 1:
                problems.append(
                    f"mixture.floor {stage.floor:g} for {len(self.domains)} domains is more than 1 "
                    f"in all; it can be {1 / len(self.domains):.3g} at most"
                )
            if stage.policy == "uniform" and stage.start != "uniform":
                problems.append("mixture: policy `uniform` does not use `start`; leave it out")
            if stage.detected is not None and stage.start != "detected":
                problems.append("mixture.detected is used with `start: detected` alone")
            if stage.policy not in USES_REFERENCE and stage.reference != ReferenceSection():
                problems.append(f"mixture: policy `{stage.policy}` does not use `reference`")
            try:
                check(stage.policy, stage.parameters, domains=tuple(self.domains))
            except RecipeError as error:
                problems.append(f"mixture: {error}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _unknown_domains(self) -> list[str]:
        named: list[tuple[str, str]] = []
        for stage in self.mixture:
            if isinstance(stage.start, dict):
                named += [("mixture.start", name) for name in stage.start]
            named += [("mixture.reference.losses", name) for name in stage.reference.losses]
        if self.self_distillation is not None:
            kept = self.self_distillation.domains or ()
            named += [("self_distillation.domains", name) for name in kept]
        return [
            f"{where} names the domain `{name}`, which is not there; "
            f"{did_you_mean(name, self.domains)}"
            for where, name in named
            if name not in self.domains
        ]

    def _windows(self) -> list[str]:
        if len(self.mixture) == 1:
            asked = self.mixture[0].windows
            if asked not in (None, self.train.windows) and "windows" in self.train.model_fields_set:
                return [f"mixture.windows is {asked}, but train.windows is {self.train.windows}"]
            return []
        missing = [str(n) for n, stage in enumerate(self.mixture) if stage.windows is None]
        if missing:
            return [f"with several stages each needs `windows`; missing in {', '.join(missing)}"]
        total = sum(stage.windows or 0 for stage in self.mixture)
        if "windows" in self.train.model_fields_set and total != self.train.windows:
            return [f"the stages have {total} windows, but train.windows is {self.train.windows}"]
        return []

    @property
    def stage_windows(self) -> tuple[int, ...]:
        """Windows of each stage."""
        if len(self.mixture) == 1:
            return (self.mixture[0].windows or self.train.windows,)
        return tuple(stage.windows or 0 for stage in self.mixture)

    @property
    def settled_train(self) -> TrainSection:
        """The training section with the windows that the stages have in all."""
        return self.train.model_copy(update={"windows": sum(self.stage_windows)})

    def to_mapping(self) -> dict[str, Any]:
        """Plain values that make the same recipe again, defaults included."""
        values = self.model_dump(mode="json", exclude_none=True)
        values["general"] = self.general  # null is a value: no such text
        values["train"]["windows"] = self.settled_train.windows
        for number, stage in enumerate(values["mixture"]):
            stage.update(stage.pop("parameters"))
            if number and "start" not in self.mixture[number].model_fields_set:
                del stage["start"]  # it goes on where the stage before stopped
        if self.train.schedule == "constant":
            values["train"].pop("warmup")
        if self.train.method == "full":
            for key in ("rank", "alpha", "dropout", "targets"):
                values["train"].pop(key)
        if self.plan is not None:
            values["train"].pop("targets", None)
        return values


def _weights_problems(start: Mapping[str, float], domains: Mapping[str, DomainSpec]) -> list[str]:
    missing = [name for name in domains if name not in start]
    problems = []
    if missing:
        problems.append(f"mixture.start has no weight for {', '.join(missing)} (0 is a weight)")
    total = sum(start.values())
    if abs(total - 1) > 1e-6:
        problems.append(f"the weights of mixture.start sum to {total:.6g}, not to 1")
    return problems


def read_tune_recipe(path: Path, overrides: Sequence[str] = ()) -> TuneRecipe:
    """A recipe file, with `-s` overrides applied.

    Raises:
        RecipeError: every problem of the file in one message.
    """
    values = load_mapping(path, overrides)
    if "merge_method" in values:
        raise RecipeError(f"{path} is a recipe for `lamina merge`: it has `merge_method`.")
    try:
        return validate(TuneRecipe, values, str(path))
    except RecipeError as error:
        if isinstance(values.get("mixture"), Mapping):  # one stage, written without a list
            raise RecipeError(str(error).replace("mixture[0]", "mixture")) from error
        raise
