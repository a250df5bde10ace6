"""The verb eval. Everything heavy is imported inside it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lamina.core.errors import RecipeError

Names = Annotated[tuple[str, ...], Parameter(negative=())]
Files = Annotated[tuple[Path, ...], Parameter(negative=())]


def evaluate(
    models: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    /,
    *,
    tasks: Names = (),
    data: Path | None = None,
    task_file: Files = (),
    text: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    out: Path | None = None,
    limit: int | None = None,
    few_shot: int | None = None,
    few_shot_file: Path | None = None,
    compare: Annotated[list[Path] | None, Parameter(negative=(), consume_multiple=True)] = None,
    reference: str | None = None,
    chat: bool = False,
    cut: bool = False,
    allow_code: bool = False,
    samples: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int = 1234,
    harness: Annotated[tuple[str, ...], Parameter(negative=(), consume_multiple=True)] = (),
    batch: str = "auto",
    base: str | None = None,
    dtype: str | None = None,
    max_length: int | None = None,
) -> None:
    """Measure models: benchmarks with intervals and paired differences, losses on held-out text.

    lamina eval MODEL... --tasks mmlu,gsm8k --data DIR --out FILE.json, or --text FILE.

    Parameters
    ----------
    models
        Folders of models or adapters, or hub names.
    tasks
        Any of wikitext2, gsm8k, humaneval, mbpp, mmlu, arc_easy, arc_challenge, hellaswag, piqa,
        winogrande, openbookqa, boolq, truthfulqa, lambada; commas between them.
    data
        A folder with the rows of the tasks (gsm8k_test.jsonl.gz, ...); default: the hub.
    task_file
        Your own rows: question, choices and answer; or question and answer; or text.
    text
        Held-out text for losses, or name=file, as often as there are domains.
    out
        Write the result there (FILE.json), with the answers (FILE.samples.jsonl.gz) and a page
        (FILE.html). A run that was killed goes on from what it had measured.
    limit
        Only the first so many items of each task (of each subject of mmlu).
    few_shot
        Examples before each question; default: as many as the task is usually asked with.
    few_shot_file
        Where the examples of --task-file are.
    compare
        Pairs every model with the reference; or with earlier results: --compare EARLIER.json.
    reference
        The model that others are compared with, and forgetting is counted from; default: the first.
    chat
        Ask through the model's chat template.
    cut
        Let contexts that are too long for the model lose their beginning, as the harness does.
    allow_code
        Run the programs that the model writes (humaneval, mbpp), each in a sandbox.
    samples
        Answers to each question, for pass@k.
    temperature
        Draw the answers; without it the likeliest token is taken each time.
    top_p
        Draw only from the likeliest tokens that have so much probability together.
    seed
        For few-shot examples, drawn answers and bootstrap intervals.
    harness
        Hand these tasks (names or YAML files) to lm-evaluation-harness: extra lamina[eval].
    batch
        Tokens of one batch, or auto.
    base
        The model that adapters belong to; default: the one they name.
    dtype
        float32, bfloat16, float16 or auto (as the model's files); default: float32, and on a GPU
        that has it bfloat16.
    max_length
        Tokens the model sees at once; default: what it was made for.
    """
    texts = _texts(text)
    if texts and not (tasks or task_file or harness or compare is not None or reference):
        _tell_ignored(
            {"--limit": limit, "--few-shot": few_shot, "--few-shot-file": few_shot_file,
             "--data": data, "--chat": chat, "--cut": cut, "--allow-code": allow_code,
             "--samples": samples > 1, "--temperature": temperature, "--top-p": top_p,
             "--batch": batch != "auto"}
        )  # fmt: skip
        _measure_texts(
            models, texts, out, base=base, dtype=dtype or "float32", max_length=max_length
        )
        return
    from lamina.cli.progress import progress_watcher
    from lamina.jobs.evaluate import run_evaluation
    from lamina.jobs.evaluate_request import Request

    asked = Request(
        models=models,
        tasks=_words(tasks),
        task_files=task_file,
        texts=texts,
        harness=_words(harness),
        data=data,
        limit=limit,
        few_shot=few_shot,
        few_shot_file=few_shot_file,
        batch=batch,
        chat=chat,
        cut=cut,
        allow_code=allow_code,
        samples=samples,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        reference=reference,
        compare=None if compare is None else tuple(compare),
        out=out,
        base=base,
        dtype=dtype,
        max_length=max_length,
    )
    with progress_watcher() as watch:
        result = run_evaluation(asked, watch)
    _print(result, out)


def _print(result: Mapping[str, Any], out: Path | None) -> None:
    from lamina.cli.output import print_evaluation

    earlier = result.get("compared")
    print_evaluation(result, "evaluation" if out is None else out.stem)
    if earlier is not None:
        print_evaluation(earlier, "against earlier results")
    if out is not None and out.with_suffix(".html").is_file():
        print(f"result:  {out}\npage:    {out.with_suffix('.html')}")


def _measure_texts(
    models: Sequence[str],
    texts: dict[str, Path],
    out: Path | None,
    *,
    base: str | None,
    dtype: str,
    max_length: int | None,
) -> None:
    """Held-out text alone: the losses of `metrics.json`."""
    from lamina.cli.output import print_metrics
    from lamina.evaluate.run import run_eval

    metrics = run_eval(
        models, texts, out=out, base=base, dtype=dtype, max_length=max_length, progress=_tell
    )
    print_metrics(metrics)
    if out is not None:
        _tell(f"written: {out}")


def _tell_ignored(flags: Mapping[str, object]) -> None:
    given = [flag for flag, value in flags.items() if value is not None and value is not False]
    if given:
        _tell(f"warning: {', '.join(given)} left aside: held-out text alone is read, and whole.")


def _texts(entries: Sequence[str]) -> dict[str, Path]:
    texts: dict[str, Path] = {}
    for entry in entries:
        name, equals, file = entry.partition("=")
        known = Path(entry).exists() or not equals
        key = Path(entry).name.partition(".")[0] if known else name
        if key in texts:
            raise RecipeError(f"two texts are called `{key}`; write --text name=file.")
        texts[key] = Path(entry if known else file)
    return texts


def _words(values: Sequence[str]) -> tuple[str, ...]:
    """`a,b c` as three names."""
    return tuple(word for value in values for word in value.split(",") if word)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
