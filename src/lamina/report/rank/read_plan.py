"""A tuning plan read from `plan.json`; a merge's plan has another form and is none."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from lamina.report.rank.plan_nouns import Plan
from lamina.report.soft import Soft, soft_json

SCHEMA = "lamina.layer_plan/1"


def holds_plan(folder: Path) -> bool:
    """Whether `plan.json` is a tuning's."""
    value = soft_json(folder / "plan.json", []).value
    return isinstance(value, Mapping) and _of_tuning(value)


def read_plan(folder: Path, problems: list[str]) -> Plan | None:
    """The plan of a folder, None where there is none."""
    place = soft_json(folder / "plan.json", problems)
    if place.value is None:
        return None
    if not isinstance(place.value, dict) or not _of_tuning(place.value):
        place.tell(f"it has no schema `{SCHEMA}`; the plan is left out")
        return None
    return _plan(place)


def _of_tuning(value: Mapping[str, object]) -> bool:
    return value.get("schema") == SCHEMA and "experts" not in value


def _plan(place: Soft) -> Plan | None:
    coefficients = place.get("coefficients").numbers()
    full = place.get("full").texts()
    if not coefficients and not full:
        place.tell("it names no module; the plan is left out")
        return None
    return Plan(
        granularity=place.get("granularity").text() or "module",
        coefficients=MappingProxyType(coefficients),
        rule=place.get("rule").text(),
        parameters=place.get("parameters").cleaned(),
        full=full,
        ranks=MappingProxyType(place.get("ranks").numbers()),
        from_scores=place.get("from_scores").text(),
        model=place.get("model").text(),
        price=MappingProxyType(place.get("price").numbers()),
    )
