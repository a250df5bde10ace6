"""The benchmark tasks of `lamina eval`, defined as lm-evaluation-harness 0.4.13 defines them.

A task's rows are found (`rows`), worded (`choices`, `writing`, `texts`, `programs`), preceded by
examples (`few_shot`) and become items; what a model answers is judged by `Task.judge`. Two things
differ from the harness: MMLU's 57 subjects are one task whose items have a `group`, and
TruthfulQA's two forms are one item with two metrics. As in the harness, a limit is for each
subject. A user's own rows are another file's (`own`).
"""

from lamina.evaluate.tasks.build import Chosen, build_items, check_files
from lamina.evaluate.tasks.few_shot import SEED, ChatTemplate, Message
from lamina.evaluate.tasks.own import read_task_file
from lamina.evaluate.tasks.registry import TASKS, find_tasks

__all__ = [
    "SEED",
    "TASKS",
    "ChatTemplate",
    "Chosen",
    "Message",
    "build_items",
    "check_files",
    "find_tasks",
    "read_task_file",
]
