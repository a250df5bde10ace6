"""Any other task, by lm-evaluation-harness itself: `lamina eval MODEL --harness TASK...`.

The model is found, loaded and (an adapter) merged by lamina and handed over as an object. A task is
a name the harness knows, or a YAML file of its kind. With `--data DIR` a known task reads local
files that carry the name of its data set (nq_open_validation.jsonl, for google-research-
datasets/nq_open), so that nothing is downloaded. Tasks that run what a model wrote are refused: the
harness runs it in its own processes. lm-eval is the extra `lamina[eval]`; reading its index of
tasks takes about 10 s.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, RecipeError
from lamina.jobs.evaluate_request import Request
from lamina.jobs.watch import Watcher

_KEYS = ("dataset_name", "tag", "group", "training_split", "fewshot_split", "validation_split",
         "test_split")  # fmt: skip
_SPLITS = {
    "training_split": ("train",),
    "validation_split": ("validation", "val", "dev"),
    "test_split": ("test",),
}
_ENDINGS = (".jsonl.gz", ".jsonl", ".json", ".parquet")


def check_harness(asked: Request) -> None:
    """Raises where lm-eval is missing or something was asked that it is not handed.

    Raises:
        RecipeError: the package is missing; flags that lamina's own tasks alone understand.
    """
    flags = {
        "--samples": asked.samples > 1,
        "--temperature": asked.temperature is not None,
        "--top-p": asked.top_p is not None,
        "--cut": asked.cut,
        "--allow-code": asked.allow_code,
        "--compare": asked.compare is not None,
    }
    given = [name for name, on in flags.items() if on]
    if given:
        raise RecipeError(
            f"{', '.join(given)} cannot be handed to lm-evaluation-harness, which reads its "
            "tasks' own "
            "settings. Leave it out."
        )
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise RecipeError(
            "--harness needs lm-evaluation-harness, which is not installed: "
            "pip install 'lamina[eval]'."
        ) from None


def find_harness_tasks(asked: Request, watch: Watcher) -> tuple[Any, list[Any]]:
    """The harness's task manager and what it is to load, checked by name.

    Raises:
        RecipeError: unknown tasks, all of them, with the nearest names; tasks that run code.
        DataError: no local files for a task under `--data`.
    """
    from lm_eval.tasks import TaskManager

    files = [Path(name) for name in asked.harness if name.endswith((".yaml", ".yml"))]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise DataError(f"No such task file: {', '.join(missing)}. Give the path of a YAML file.")
    names = [name for name in asked.harness if not name.endswith((".yaml", ".yml"))]
    if names:
        watch.tell("reading the harness's index of tasks (about 10 s)")
    with _muted():
        manager = TaskManager(include_defaults=bool(names))
    known = set(manager.all_tasks)
    unknown = [name for name in names if name not in known and "*" not in name]
    if unknown:
        told = "; ".join(_nearest(name, known) for name in unknown)
        raise RecipeError(f"lm-evaluation-harness has no such task: {told}")
    patterns = [name for name in names if "*" in name]
    nothing = [name for name in patterns if not manager.match_tasks([name])]
    if nothing:
        raise RecipeError(f"No task of lm-evaluation-harness is called like {', '.join(nothing)}.")
    if patterns and asked.data is not None:
        raise RecipeError(
            f"{', '.join(patterns)}: --data works with single tasks; write their names."
        )
    if asked.data is None:
        return manager, [*names, *(str(path.absolute()) for path in files)]
    return manager, [
        *(_local(manager, name, asked.data) for name in names),
        *(str(path.absolute()) for path in files),
    ]


def run_harness(model: Any, manager: Any, tasks: Sequence[Any], asked: Request) -> dict[str, Any]:
    """The harness's results for one loaded `LanguageModel`: metrics with their standard errors.

    Raises:
        RecipeError: a task that runs programs the model wrote.
        DataError: rows that could not be loaded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    batch: Any = 8 if asked.batch == "auto" else max(1, asked.batch_tokens // 512)
    try:
        with _muted():
            lm = HFLM(
                pretrained=model.network,
                tokenizer=model.tokenizer,
                batch_size=batch,
                device=str(model.device),
                max_length=model.max_length,
            )
            told = simple_evaluate(
                model=lm,
                tasks=list(tasks),
                task_manager=manager,
                num_fewshot=asked.few_shot,
                limit=asked.limit,
                apply_chat_template=asked.chat,
                fewshot_random_seed=asked.seed,
                log_samples=False,
                bootstrap_iters=1000,
            )
    except ValueError as error:
        if "unsafe" in str(error):
            raise RecipeError(
                "A task asked of --harness runs programs that the model wrote, which the "
                "harness does "
                "without a sandbox. Use --tasks humaneval,mbpp --allow-code."
            ) from None
        raise DataError(f"lm-evaluation-harness: {_first_line(error)}") from None
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise DataError(
            f"lm-evaluation-harness could not load its rows: {_first_line(error)}. Offline, give a "
            "YAML file of the task, or --data with files named after its data set."
        ) from None
    except Exception as error:  # a task is a program of its own: YAML, templates, functions
        raise DataError(
            f"lm-evaluation-harness stopped at {type(error).__name__}: {_first_line(error)}. Look "
            "at the task's file, and whether the rows are those it expects."
        ) from error
    assert told is not None, "the harness gave no result in the first process"
    return {name: _metrics(entry) for name, entry in sorted(told["results"].items())}


def _metrics(entry: dict[str, Any]) -> dict[str, Any]:
    """`acc,none` and `acc_stderr,none` of the harness as one metric with its error."""
    metrics = {}
    for key, value in entry.items():
        name, comma, rule = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = entry.get(f"{name}_stderr,{rule}")
        shown = name if rule == "none" else f"{name} ({rule})"
        metrics[shown] = {
            "value": float(value),
            "se": float(error) if isinstance(error, int | float) else None,
        }
    return metrics


def _local(manager: Any, name: str, data: Path) -> Any:
    """A known task that reads local files instead of the hub."""
    from lm_eval.tasks._yaml_loader import load_yaml

    path = manager.task_index[name].yaml_path
    if path is None:
        raise RecipeError(
            f"{name} is a group of tasks of lm-evaluation-harness; --data works with single tasks."
        )
    try:
        with _muted():
            config = load_yaml(path)
    except Exception as error:  # its functions are imported, and may load what is not here
        raise DataError(
            f"lm-evaluation-harness cannot read its task {name} here: {_first_line(error)}"
        ) from error
    if "dataset_path" not in config:
        raise RecipeError(
            f"{name} is a group of tasks of lm-evaluation-harness; --data works with single tasks."
        )
    stems = [name, str(config["dataset_path"]).rpartition("/")[2], str(config.get("dataset_name"))]
    found = {
        key: file
        for key, splits in _SPLITS.items()
        if (file := _file(data, stems, splits)) is not None
    }
    if "validation_split" not in found and "test_split" not in found:
        tried = ", ".join(sorted({f"{stem}_test.jsonl" for stem in stems if stem != "None"}))
        raise DataError(
            f"{data} has no rows of {name}: looked for {tried} and the like (test or validation; "
            f"{', '.join(_ENDINGS)}; in bench/ and text/, too)."
        )
    files = {key.removesuffix("_split"): str(file) for key, file in found.items()}
    for key in _KEYS:
        config.pop(key, None)
    config.update(
        task=name,
        dataset_path="json",
        dataset_kwargs={"data_files": files},
        **{key: key.removesuffix("_split") for key in found},
    )
    return config


def _file(data: Path, stems: Sequence[str], splits: Sequence[str]) -> Path | None:
    for folder in (data, data / "bench", data / "text"):
        for stem in stems:
            for split in splits:
                for ending in _ENDINGS:
                    path = folder / f"{stem}_{split}{ending}"
                    if path.is_file():
                        return path.absolute()
    return None


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Without the harness's logging, bars and advice."""
    before = logging.root.manager.disable
    bars = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable(logging.WARNING)
    from lamina.engine.load import quiet

    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        if bars is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = bars


def _nearest(name: str, known: set[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"`{name}`" + (f" (did you mean {', '.join(close)}?)" if close else "")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
