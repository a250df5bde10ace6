"""The first lines of an exported YAML file: what it is, and from which plan."""

from collections.abc import Mapping
from typing import Any

from lamina.core.plan import LayerPlan
from lamina.core.yaml import dump_yaml

MARK = "# lamina export"
"""What every YAML file of ours begins with: only such a file is replaced."""


def yaml_text(plan: LayerPlan, tool: str, use: str, values: Mapping[str, Any]) -> str:
    """The file's text: two lines of comment, then the keys."""
    given = ", ".join(f"{key}={value}" for key, value in plan.parameters.items())
    rule = f"{plan.rule} ({given})" if given else plan.rule
    num = f"{len(plan.chosen)} of {len(plan.coefficients)}"
    units = "blocks" if plan.granularity == "block" else "modules"
    lines = [f"{MARK} --to {tool}: {num} {units}, rule {rule}", f"# {use}"]
    return "".join(f"{_plain(line)}\n" for line in lines) + dump_yaml(values)


def _plain(line: str) -> str:
    """One line, whatever the plan says."""
    return "".join(c if c.isprintable() else " " for c in line)
