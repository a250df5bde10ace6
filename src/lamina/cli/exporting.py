"""The verb `export`. Everything heavy is imported inside it."""

import sys
from pathlib import Path


def export(
    plan: Path,
    /,
    *,
    to: str,
    out: Path | None = None,
    method: str = "lora",
    rank: int = 16,
    alpha: int = 32,
    base: str | None = None,
    tuned: str | None = None,
) -> None:
    """Write a plan as the file that another tool reads: exactly its modules, or a refusal.

    Parameters
    ----------
    plan
        plan.json of `lamina plan` or `lamina rank`, or the folder that holds it.
    to
        peft, axolotl, llamafactory, ms-swift or mergekit.
    out
        The file to write; default: print it.
    method
        lora (adapters on the planned modules) or full (their own weights, all else frozen).
    rank
        Of the adapters, where the plan gives no other.
    alpha
        At this rank; alpha / rank is the same for all adapters.
    base
        mergekit: the base model; default: the model that the plan was made for.
    tuned
        mergekit: the tuned model whose planned modules are taken.
    """
    from lamina.jobs.export import run_export

    text = run_export(
        plan, to, out=out, method=method, rank=rank, alpha=alpha, base=base, tuned=tuned
    )
    if out is None:
        print(text, end="")
    else:
        print(f"written: {out}", file=sys.stderr, flush=True)
