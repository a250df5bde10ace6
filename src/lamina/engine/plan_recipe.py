"""The `plan:` section of a recipe: which modules are tuned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, field_validator, model_serializer, model_validator

from lamina.core.errors import RecipeError, did_you_mean
from lamina.core.recipe import Recipe
from lamina.core.rules import RULES, check_rule, parameters_of

WITHOUT_SCORES = ("all", "first", "last", "random")
"""Rules that look at no score."""


class PlanSection(Recipe):
    """Which modules are tuned, from a plan's file or by a rule from scores.

    A text alone is a plan's file. The rule's parameters stand beside the common keys, as a policy's
    do in `mixture`: `plan: {scores: ranked/scores.json, rule: top, share: 0.3}`.
    """

    file: str | None = None
    """`plan.json` of `lamina plan` or of another tuning; or the folder that holds it."""
    scores: str | None = None
    """`scores.json` of `lamina rank` or of a merge; then `rule` chooses."""
    expert: str | None = None
    """Whose scores, in those of a merge."""
    rule: str = "top"
    """A rule of `core.rules`; its parameters stand beside it: `share: 0.3`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Those of the rule."""
    unfreeze: tuple[str, ...] = ()
    """Modules trained whole beside the adapters: `norm`, `lm_head`, `3.mlp.down_proj`."""
    start: str | None = None
    """An adapter's folder: the planned modules' adapters begin with its factors, not with zero."""
    cache_prefix: bool = False
    """Compute the frozen blocks below the plan once, and read their outputs from the disk."""
    check_base: bool = True
    """Refuse scores and plans that were made on another model than the one that is tuned."""

    @model_validator(mode="before")
    @classmethod
    def _own_parameters(cls, values: Any) -> Any:
        """A text is a file; keys that are not common ones are the rule's.

        `parameters` is a map of them, or, written flat, the number that rule `budget` calls so.
        """
        if isinstance(values, str):
            values = {"file": values}
        if not isinstance(values, Mapping):
            return values
        common = cls.model_fields
        given = {key: value for key, value in values.items() if key in common}
        flat = {key: value for key, value in values.items() if key not in common}
        inner = given.pop("parameters", {})
        if not isinstance(inner, Mapping):
            inner = {"parameters": inner}
        return {**given, "parameters": {**inner, **flat}}

    @field_validator("unfreeze", mode="before")
    @classmethod
    def _one_module(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @model_serializer(mode="wrap")
    def _flat(self, handler: Any) -> dict[str, Any]:
        """As it is written: the rule's parameters beside the common keys, and none that says
        nothing."""
        values = handler(self)
        parameters = values.pop("parameters")
        if self.file is not None:
            values.pop("rule")
        kept = {key: value for key, value in values.items() if value not in (None, [], ())}
        return {**kept, **parameters}

    def problems(self, method: str) -> list[str]:
        """All that is wrong with the section, in words.

        Args:
            method: `train.method` of the recipe.
        """
        found = [*self._source(), *self._rule()]
        if self.start is not None and method != "lora":
            found.append(
                "plan.start gives adapters their first factors, but train.method is `full`; "
                "leave it out, or tune `model: BASE+ADAPTER`"
            )
        twice = sorted({name for name in self.unfreeze if self.unfreeze.count(name) > 1})
        if twice:
            found.append(f"plan.unfreeze names {', '.join(twice)} twice")
        return found

    def _source(self) -> list[str]:
        if self.file is not None and self.scores is not None:
            return ["plan: give either `file` (a plan) or `scores` (and a rule), not both"]
        found = []
        if self.file is None and self.scores is None and self.rule not in WITHOUT_SCORES:
            found.append(
                f"plan: neither `file` nor `scores` is given, and rule `{self.rule}` needs scores; "
                f"write file: plan.json, or scores: FILE (without scores: "
                f"{', '.join(WITHOUT_SCORES)})"
            )
        if self.expert is not None and self.scores is None:
            found.append("plan.expert is used with `scores` of a merge alone; leave it out")
        return found

    def _rule(self) -> list[str]:
        own_keys = {key for rule in RULES for key in parameters_of(rule)}
        if self.file is not None:
            strange = sorted(self.parameters.keys() - own_keys)
            found = [_unknown(key, type(self).model_fields) for key in strange]
            idle = sorted(self.parameters.keys() & own_keys)
            idle += ["rule"] if "rule" in self.model_fields_set else []
            if idle and self.scores is None:
                found.append(
                    f"plan: `file` is a plan that is made already, so {', '.join(idle)} would "
                    "change nothing; leave that out, or give `scores` in place of `file`"
                )
            return found
        if self.rule not in RULES:
            return [
                f"plan.rule `{self.rule}` is unknown; {did_you_mean(self.rule, RULES)} "
                f"(known: {', '.join(RULES)})"
            ]
        own, common = parameters_of(self.rule), type(self).model_fields
        told = []
        for key in sorted(self.parameters.keys() - own.keys()):
            users = sorted(name for name in RULES if key in parameters_of(name))
            told.append(
                f"plan.{key}: rule `{self.rule}` does not use it ({', '.join(users)}: yes)"
                if users
                else _unknown(key, [*own, *common])
            )
        try:
            known = {key: value for key, value in self.parameters.items() if key in own}
            check_rule(self.rule, known)
        except RecipeError as error:
            told.append(f"plan: {error}")
        return told


def _unknown(key: str, known: Iterable[str]) -> str:
    return f"plan.{key}: unknown key; {did_you_mean(key, known)}"
