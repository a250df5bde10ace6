"""What `lamina eval` needs, found and checked before weights are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import CheckpointError, RecipeError
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
    identities: Mapping[str, str]
    """By model, what answers that were kept must have come from."""
    tasks: tuple[Chosen, ...]
    """The tasks as a model without a chat template is asked."""
    templates: Mapping[str, Callable[[list[dict[str, str]]], str]]
    """By model its chat template, where that was asked."""
    documents: Mapping[str, Sequence[Document]]
    reference: str | None
    skipped: Mapping[str, str]
    protection: str | None
    harness: tuple[Any, list[Any]] | None

    def chosen_for(self, model: str) -> tuple[Chosen, ...]:
        """The tasks as this model is asked; made anew, so that one model's are held at a time."""
        if model not in self.templates:
            return self.tasks
        from lamina.evaluate.tasks import TASKS

        stock = [one.task for one in self.tasks if one.task is TASKS.get(one.task.name)]
        return _choose(stock, self.asked, self.templates[model])


def find_all(asked: Request, watch: Watcher) -> Plan:
    """Finds models, rows, texts and the sandbox; raises for whatever is not there."""
    from lamina.engine.load import find_model, fingerprint, identity, load_tokenizer, quiet
    from lamina.evaluate.models import check_length
    from lamina.evaluate.run import short_names
    from lamina.evaluate.tasks import check_files, find_tasks
    from lamina.evaluate.text import read_documents

    tasks = find_tasks(asked.tasks) if asked.tasks else []
    if asked.harness:
        from lamina.jobs.evaluate_harness import check_harness

        check_harness(asked)
    skipped, protection = _check_code(tasks, asked)
    models, meant = _models(asked)
    named = short_names(models)
    sources = {name: find_model(model, base=asked.base) for name, model in named.items()}
    if asked.base is not None and all(source.adapter is None for source in sources.values()):
        raise RecipeError(
            f"A base was given ({asked.base}), but no model is an adapter. Leave it out."
        )
    reference = next((n for n, m in named.items() if m == meant), next(iter(named)))
    documents = {domain: read_documents(path) for domain, path in asked.texts.items()}
    kept = [task for task in tasks if task.name not in skipped]
    if asked.data is not None:
        check_files(kept, data=asked.data, few_shot=asked.few_shot)
    chosen = _choose(kept, asked, None)
    _check_earlier(chosen, asked)
    templates = {}
    with quiet():
        for name, source in sources.items():
            tokenizer = load_tokenizer(source)
            check_length(source, asked.max_length)
            if asked.chat:
                templates[name] = _template(name, tokenizer)
                _choose(kept, asked, templates[name])  # so that what fails is told now
    harness = None
    if asked.harness:
        from lamina.jobs.evaluate_harness import find_harness_tasks

        harness = find_harness_tasks(asked, watch)
    return Plan(
        asked=asked.on_this_machine(),
        sources=sources,
        fingerprints={name: fingerprint(source) for name, source in sources.items()},
        identities={name: identity(source) for name, source in sources.items()},
        tasks=chosen,
        templates=templates,
        documents=documents,
        reference=reference if len(sources) > 1 else None,
        skipped=skipped,
        protection=protection,
        harness=harness,
    )


def _models(asked: Request) -> tuple[list[str], str | None]:
    """The models to measure and the reference among them, which is one of them however written.

    Raises:
        RecipeError: one folder twice.
    """
    places: dict[str, str] = {}
    for model in asked.models:
        place = _place(model)
        if place in places and places[place] != model:
            raise RecipeError(f"{places[place]} and {model} are the same folder. Name it once.")
        places[place] = model
    if asked.reference is None:
        return list(asked.models), None
    from lamina.evaluate.run import short_names

    shown = short_names(asked.models)
    if asked.reference in shown:  # as the tables name it
        return list(asked.models), str(shown[asked.reference])
    place = _place(asked.reference)
    if place in places:
        return list(asked.models), places[place]
    return [asked.reference, *asked.models], asked.reference


def _place(model: str) -> str:
    """The same text for all ways to write a folder; a hub name stays as it is."""
    path = Path(model).expanduser()
    if path.exists():
        return str(path.resolve())
    base, plus, adapter = model.partition("+")
    return f"{_place(base)}+{_place(adapter)}" if plus else model


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
    """Raises before anything is measured where earlier results cannot be compared with this one."""
    if not asked.compare or asked.out is None:
        return
    from lamina.evaluate.result_compare import check_comparable, read_results
    from lamina.evaluate.result_files import read_values, result_to_come

    earlier = read_results(asked.compare)
    entries = {chosen.task.name: task_entry_of(chosen, asked) for chosen in tasks}
    check_comparable(
        [*earlier, result_to_come(asked.out, entries, asked.as_settings())],
        advice="\nSo nothing was measured. Ask with the same --data, --limit, --few-shot, --seed "
        "and --chat.",
    )
    for result in earlier:
        read_values(result)  # its samples are there, and whole


def task_entry_of(chosen: Chosen, asked: Request) -> dict[str, Any]:
    """What the result says of a task."""
    from lamina.evaluate.results import task_entry

    return task_entry(
        chosen.task,
        items=len(chosen.items),
        fingerprint=chosen.fingerprint,
        few_shot=chosen.few_shot,
        limit=asked.limit,
        source=chosen.source,
        chat=asked.chat,
        groups=[item.group for item in chosen.items if item.group is not None],
    )


def _template(name: str, tokenizer: Any) -> Callable[[list[dict[str, str]]], str]:
    from lamina.engine.load import first_line

    if tokenizer.chat_template is None:
        raise CheckpointError(
            f"--chat: the tokenizer of {name} has no chat template. Leave --chat out, or put a "
            "chat_template.jinja into its folder."
        )

    def render(messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            try:
                return _rendered(messages)
            except TemplateError:  # as the harness does: some templates know no system message
                return _rendered([one for one in messages if one["role"] != "system"])
        except Exception as error:  # a template is a program, and each has its own kind
            raise CheckpointError(
                f"--chat: the chat template of {name} fails: {type(error).__name__}: "
                f"{first_line(error)} Mend its chat_template.jinja, or leave --chat out."
            ) from error

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
            f"{', '.join(code)}: programs that the model wrote are run, each in a sandbox of its "
            "own. Say --allow-code if you want that on this machine; docs/sandbox.md tells what "
            "protects it."
        )
    from lamina.evaluate.sandbox import probe

    protection = probe()
    if protection.enough:
        return {}, protection.line
    why = f"not run, as this machine cannot hold such programs: {protection.why}"
    return dict.fromkeys(code, why), protection.line
