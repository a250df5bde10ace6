"""Several models on several texts: the numbers of `metrics.json`, with paired differences."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.core.manifest import write_json_atomic
from lamina.evaluate.compare import Difference, paired_difference
from lamina.evaluate.models import Progress, Source, find_model, load_model
from lamina.evaluate.perplexity import TextLoss, score
from lamina.evaluate.text import Document, read_documents

SCHEMA = "lamina.metrics/1"


def run_eval(
    models: Sequence[Path | str] | Mapping[str, Path | str],
    texts: Mapping[str, Path | str],
    *,
    out: Path | None = None,
    base: Path | str | None = None,
    dtype: str = "float32",
    max_length: int | None = None,
    batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures each model on each text and gives what `metrics.json` holds.

    All texts are read and all models found before the first one is loaded; each is loaded once,
    one at a time.

    Args:
        models: folders, adapters' folders or hub names; a mapping names them.
        texts: by domain, the file of it.
        out: where to write the result as JSON, too.
        base: the model that adapters among the models belong to.
        progress: told, in words, what is being done.
    """
    tell = progress or _silent
    if out is not None and out.is_dir():
        raise OutputError(f"{out} is a folder; give the name of a file for the numbers.")
    if out is not None and not out.parent.is_dir():
        raise OutputError(
            f"There is no folder {out.parent} to write {out.name} into. Make it first."
        )
    named = dict(models) if isinstance(models, Mapping) else short_names(models)
    if not named or not texts:
        raise RecipeError(f"Nothing to measure: {len(named)} models, {len(texts)} texts.")
    domains = {domain: read_documents(path) for domain, path in texts.items()}
    sources = {name: find_model(model, base=base) for name, model in named.items()}
    if base is not None and all(source.adapter is None for source in sources.values()):
        raise RecipeError(f"A base was given ({base}), but no model is an adapter. Leave it out.")
    losses: dict[str, dict[str, TextLoss]] = {}
    lengths: dict[str, int] = {}
    for name, source in sources.items():
        losses[name], lengths[name] = _measured(
            name, source, domains, dtype, max_length, batch_tokens, tell
        )
    metrics = {
        "schema": SCHEMA,
        "domains": list(domains),
        "order": list(losses),
        "models": {name: metrics_of(by_domain) for name, by_domain in losses.items()},
        "paired": paired_with(losses, next(iter(losses))),
        "texts": {
            domain: {"path": str(texts[domain]), "rows": len(documents)}
            for domain, documents in domains.items()
        },
        "settings": {
            "paths": {name: str(model) for name, model in named.items()},
            "max_length": lengths,
            "dtype": dtype,
        },
        "warnings": [
            warning
            for name, by_domain in losses.items()
            for warning in warnings_of(name, by_domain)
        ],
    }
    if out is not None:
        write_json_atomic(out, metrics)
    return metrics


def short_names(models: Sequence[Path | str]) -> dict[str, Path | str]:
    """A name for each model: as many of the last parts of its path as tell it from the others.

    Raises:
        RecipeError: one path twice.
    """
    parts = {str(model): PurePath(Path(str(model)).absolute()).parts for model in models}
    if len(parts) < len(models):
        twice = sorted(name for name in parts if [str(model) for model in models].count(name) > 1)
        raise RecipeError(f"Named twice: {', '.join(twice)}. Each model is measured once.")
    named: dict[str, Path | str] = {}
    for model in models:
        own = parts[str(model)]
        others = [other for name, other in parts.items() if name != str(model)]
        length = 1
        while length < len(own) and any(other[-length:] == own[-length:] for other in others):
            length += 1
        named["/".join(own[-length:])] = model
    if len(named) < len(models):
        raise RecipeError(
            f"Two of {', '.join(map(str, models))} are the same folder. Name it once."
        )
    return named


def metrics_of(by_domain: Mapping[str, TextLoss]) -> dict[str, dict[str, Any]]:
    """One model's entry of `metrics.json`; a number that is not finite is null, as JSON wants."""
    return {
        domain: {
            "loss": loss.loss,
            "loss_se": loss.loss_se,
            "tokens": loss.tokens,
            "rows": len(loss.row_tokens) - len(loss.skipped),
            "words": loss.words,
            "bytes": loss.bytes,
            "perplexity": _finite(loss.perplexity),
            "word_perplexity": _finite(loss.word_perplexity),
            "byte_perplexity": _finite(loss.byte_perplexity),
            "bits_per_byte": loss.bits_per_byte,
        }
        for domain, loss in by_domain.items()
    }


def warnings_of(name: str, by_domain: Mapping[str, TextLoss]) -> list[str]:
    """What was left out or cut, in words."""
    told = []
    for domain, loss in by_domain.items():
        rows = len(loss.row_tokens)
        if loss.skipped:
            some = ", ".join(str(row + 1) for row in loss.skipped[:5])
            more = ", ..." if len(loss.skipped) > 5 else ""
            told.append(
                f"{name} on {domain}: {len(loss.skipped)} of {rows} texts left out, as their "
                f"completion is longer than the model reads (texts {some}{more})"
            )
        if loss.shortened:
            told.append(
                f"{name} on {domain}: {loss.shortened} of {rows} prompts lost their beginning "
                "to fit the model"
            )
    return told


def _measured(
    name: str,
    source: Source,
    domains: Mapping[str, Sequence[Document]],
    dtype: str,
    max_length: int | None,
    batch_tokens: int,
    tell: Progress,
) -> tuple[dict[str, TextLoss], int]:
    """Losses by domain and the length the model reads; the model is gone when this returns."""
    tell(f"{name}: loading")
    model = load_model(source, dtype=dtype, max_length=max_length)
    losses = {}
    for domain, documents in domains.items():
        tell(f"{name}: reading {domain} ({len(documents)} texts)")
        losses[domain] = score(model, documents, batch_tokens=batch_tokens, what=domain)
    return losses, model.max_length


def paired_with(losses: Mapping[str, Mapping[str, TextLoss]], reference: str) -> dict[str, Any]:
    """Every model against one of them, by domain; null where they read other tokens."""
    return {
        "reference": reference,
        "differences": {
            other: {
                domain: _difference(loss, losses[reference][domain])
                for domain, loss in by_domain.items()
            }
            for other, by_domain in losses.items()
            if other != reference
        },
    }


def _difference(loss: TextLoss, reference: TextLoss) -> dict[str, Any] | None:
    try:
        difference = paired_difference(loss, reference)
    except DataError:
        return None
    return difference_entry(difference)


def difference_entry(difference: Difference) -> dict[str, Any]:
    """A difference as `metrics.json` holds it."""
    return {"difference": difference.value, "se": difference.se, "shown": difference.shown}


def _finite(value: float) -> float | None:
    return value if value not in (float("inf"), float("-inf")) else None


def _silent(message: str) -> None:
    del message
