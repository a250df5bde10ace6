"""What `lamina eval` needs, found and checked before weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lamina.core.errors import CheckpointError, DataError, RecipeError
from lamina.evaluate.nouns import Task
from lamina.jobs.evaluate_request import Request
from lamina.jobs.watch import Watcher

if TYPE_CHECKING:
    from lamina.engine.load import Source
    from lamina.evaluate.tasks import Chosen
    from lamina.evaluate.text import Document


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that was found before the first model is loaded."""

    asked: Request
    sources: Mapping[str, Source]
    fingerprints: Mapping[str, str]
    tasks: tuple[Chosen, ...]
    """The tasks as a model without a chat template is asked."""
    rendered: Mapping[str, tuple[Chosen, ...]]
    """By model, with its chat template, where that was asked."""
    documents: Mapping[str, Sequence[Document]]
    reference: str | None
    skipped: Mapping[str, str]
    protection: str | None
    harness: tuple[Any, list[Any]] | None

    def chosen_for(self, model: str) -> tuple[Chosen, ...]:
        return self.rendered.get(model, self.tasks)


def find_all(asked: Request, watch: Watcher) -> Plan:
    """Finds models, rows, texts and the sandbox; raises for whatever is not there."""
    from lamina.engine.load import find_model, fingerprint, load_tokenizer, quiet
    from lamina.evaluate.run import short_names
    from lamina.evaluate.tasks import check_files, find_tasks
    from lamina.evaluate.text import read_documents

    tasks = find_tasks(asked.tasks) if asked.tasks else []
    if asked.harness:
        from lamina.jobs.evaluate_harness import check_harness

        check_harness(asked)
    skipped, protection = _check_code(tasks, asked)
    models = list(asked.models)
    if asked.reference is not None and asked.reference not in models:
        models.insert(0, asked.reference)
    named = short_names(models)
    sources = {name: find_model(model, base=asked.base) for name, model in named.items()}
    if asked.base is not None and all(source.adapter is None for source in sources.values()):
        raise RecipeError(
            f"A base was given ({asked.base}), but no model is an adapter. Leave it out."
        )
    reference = next((n for n, m in named.items() if m == asked.reference), next(iter(named)))
    documents = {domain: read_documents(path) for domain, path in asked.texts.items()}
    kept = [task for task in tasks if task.name not in skipped]
    if asked.data is not None:
        check_files(kept, data=asked.data, few_shot=asked.few_shot)
    chosen = _choose(kept, asked, None)
    _check_earlier(chosen, asked)
    rendered = {}
    with quiet():
        for name, source in sources.items():
            tokenizer = load_tokenizer(source)
            if asked.chat:
                rendered[name] = _choose(kept, asked, _template(name, tokenizer))
    harness = None
    if asked.harness:
        from lamina.jobs.evaluate_harness import find_harness_tasks

        harness = find_harness_tasks(asked, watch)
    return Plan(
        asked=asked.on_this_machine(),
        sources=sources,
        fingerprints={name: fingerprint(source) for name, source in sources.items()},
        tasks=chosen,
        rendered=rendered,
        documents=documents,
        reference=reference if len(sources) > 1 else None,
        skipped=skipped,
        protection=protection,
        harness=harness,
    )


def _choose(
    tasks: Sequence[Task], asked: Request, chat: Callable[..., str] | None
) -> tuple[Chosen, ...]:
    from lamina.evaluate.tasks import build_items, read_task_file

    built = [
        build_items(
            task,
            data=asked.data,
            limit=asked.limit,
            few_shot=asked.few_shot,
            seed=asked.seed,
            chat=chat,
        )
        for task in tasks
    ]
    own = [
        read_task_file(
            path,
            few_shot_file=asked.few_shot_file,
            limit=asked.limit,
            few_shot=asked.few_shot,
            seed=asked.seed,
            chat=chat,
        )
        for path in asked.task_files
    ]
    names = [chosen.task.name for chosen in (*built, *own)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(
            f"Two tasks are called {', '.join(twice)}: a file of rows has its own name as its "
            "task. Rename the file."
        )
    return (*built, *own)


def _check_earlier(tasks: Sequence[Chosen], asked: Request) -> None:
    """Raises before anything is measured where an earlier result asked for other items."""
    from lamina.evaluate.result_files import read_result

    problems = []
    for path in asked.compare or ():
        earlier = read_result(path).tasks
        shared = [chosen for chosen in tasks if chosen.task.name in earlier]
        if not shared:
            problems.append(f"{path} has none of the tasks that are asked for")
        problems += [
            f"{path}: {chosen.task.name} over {earlier[chosen.task.name]['items']} other items "
            f"than the {len(chosen.items)} of now (rows, --limit, --few-shot and --seed decide)"
            for chosen in shared
            if earlier[chosen.task.name]["fingerprint"] != chosen.fingerprint
        ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(
            f"Runs over different items cannot be compared; nothing was measured.{lines}"
        )


def _template(name: str, tokenizer: Any) -> Callable[[list[dict[str, str]]], str]:
    if tokenizer.chat_template is None:
        raise CheckpointError(
            f"--chat: the tokenizer of {name} has no chat template. Leave --chat out, or put a "
            "chat_template.jinja into its folder."
        )

    def render(messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            return _rendered(messages)
        except TemplateError:  # as the harness does: some templates know no system message
            return _rendered([one for one in messages if one["role"] != "system"])

    def _rendered(messages: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    return render


def _check_code(tasks: Sequence[Task], asked: Request) -> tuple[dict[str, str], str | None]:
    """Which tasks that run programs are skipped, and what protects the others."""
    code = [task.name for task in tasks if task.kind == "code"]
    if not code:
        return {}, None
    if not asked.allow_code:
        raise RecipeError(
            f"{', '.join(code)} run programs that the model wrote, each in a sandbox of its own. "
            "Say --allow-code if you want that on this machine; docs/sandbox.md tells what "
            "protects it."
        )
    from lamina.evaluate.sandbox import probe

    protection = probe()
    if protection.enough:
        return {}, protection.line
    why = f"not run, as this machine cannot hold such programs: {protection.why}"
    return dict.fromkeys(code, why), protection.line
