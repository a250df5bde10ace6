"""The verb `shift`. Everything heavy is imported inside it."""

from pathlib import Path


def shift(
    model: str,
    /,
    *,
    data: str,
    out: Path,
    base: str | None = None,
    scores: str | None = None,
    share: float = 0.3,
    prompts: int = 64,
    tokens: int = 64,
    seed: int = 0,
    dtype: str = "float32",
    chat_template: str | None = None,
    overwrite: bool = False,
) -> None:
    """Which tokens of an aligned model its base would not have said: by position, by modules.

    Parameters
    ----------
    model
        A folder or hub name of the aligned model, or a PEFT adapter's folder.
    data
        Rows whose prompts are answered: conversations, or prompt and completion.
    out
        The folder for shift.json, answers.jsonl and the manifest.
    base
        What the model was aligned from; default for an adapter: its own base.
    scores
        A ranking's scores.json: its top, lowest and a random share of modules are carried over.
    share
        That share. Default 0.3.
    prompts
        Prompts that are answered, drawn from the rows.
    tokens
        Tokens of an answer, at most.
    seed
        Another seed draws other prompts and another random set.
    dtype
        float32, bfloat16, float16 or auto.
    chat_template
        chatml, alpaca, plain, or a .jinja file; default: the tokenizer's own.
    overwrite
        Replace OUT if it is an output of lamina.
    """
    from lamina.cli.progress import progress_watcher
    from lamina.cli.shifted import print_shifted
    from lamina.jobs.shift import Asked, run_shift

    asked = Asked(
        model=model, data=data, base=base, scores=scores, share=share, prompts=prompts,
        tokens=tokens, seed=seed, dtype=dtype, chat_template=chat_template,
    )  # fmt: skip
    with progress_watcher() as watch:
        told = run_shift(asked, out, overwrite=overwrite, watch=watch)
    print_shifted(out, told)
