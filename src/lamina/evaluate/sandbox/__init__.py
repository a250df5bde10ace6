"""Programs nobody has read, run so that they cannot hurt the machine or write their own verdict.

    with Sandbox(Limits(wall_seconds=5)) as sandbox:
        verdict = sandbox.run("assert sorted([2, 1]) == [1, 2]")

What holds, what does not and what it costs: docs/sandbox.md. Standard library only; Linux only.
"""

from lamina.evaluate.sandbox.host import Sandbox, probe
from lamina.evaluate.sandbox.nouns import REASONS, SCHEMA, Limits, Protection, Verdict

__all__ = ["REASONS", "SCHEMA", "Limits", "Protection", "Sandbox", "Verdict", "probe"]
