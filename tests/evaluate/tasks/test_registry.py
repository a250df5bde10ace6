"""Tasks by name."""

import pytest

from lamina.core.errors import RecipeError
from lamina.evaluate.tasks import TASKS, find_tasks
from lamina.evaluate.tasks.registry import DEFINITIONS


def test_tasks_come_in_the_order_asked_for() -> None:
    assert [task.name for task in find_tasks(["piqa", "gsm8k"])] == ["piqa", "gsm8k"]


def test_all_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        find_tasks(["gsm8", "piqa", "helaswag", "qqqq"])
    message = str(caught.value)
    assert "3 unknown tasks" in message
    assert "gsm8: did you mean `gsm8k`?" in message
    assert "helaswag: did you mean `hellaswag`?" in message
    assert "qqqq: known: wikitext2, gsm8k" in message


def test_a_task_named_twice_is_told() -> None:
    with pytest.raises(RecipeError, match="names piqa more than once"):
        find_tasks(["piqa", "gsm8k", "piqa"])


def test_every_task_has_its_own_name_and_metrics() -> None:
    assert list(DEFINITIONS) == list(TASKS)
    for name, task in TASKS.items():
        assert task.name == name
        assert len({metric.name for metric in task.metrics}) == len(task.metrics) >= 1
        assert task.version == 1
