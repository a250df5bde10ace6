"""All tasks by name."""

from collections.abc import Sequence

from lamina.core.errors import RecipeError, did_you_mean
from lamina.evaluate.nouns import Task
from lamina.evaluate.tasks.definition import Definition
from lamina.evaluate.tasks.stock import STOCK

DEFINITIONS: dict[str, Definition] = {one.task.name: one for one in STOCK}
TASKS: dict[str, Task] = {name: one.task for name, one in DEFINITIONS.items()}


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, in their order.

    Raises:
        RecipeError: names that are not known, all in one message; a name given twice; none.
    """
    if not names:
        raise RecipeError(f"No task is named. Known: {', '.join(TASKS)}.")
    unknown = [name for name in dict.fromkeys(names) if name not in TASKS]
    if unknown:
        lines = "\n".join(f"  {name}: {did_you_mean(name, TASKS)}" for name in unknown)
        what = "an unknown task" if len(unknown) == 1 else f"{len(unknown)} unknown tasks"
        raise RecipeError(
            f"--tasks names {what}:\n{lines}\n"
            "Other tasks of lm-evaluation-harness run with --harness."
        )
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise RecipeError(f"--tasks names {', '.join(twice)} more than once. Name each task once.")
    return [TASKS[name] for name in names]
