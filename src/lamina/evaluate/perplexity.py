"""How well a model predicts held-out text: token-mean loss, word and byte perplexity.

Word and byte perplexity are those of lm-evaluation-harness (same windows, same tokens, same counts;
bench/perplexity_vs_harness.py runs both). Losses are summed over tokens, never averaged in between:
log-softmax in float32, sums in float64. Only scored positions get an output, and batches are filled
by tokens, so peak memory is the weights plus about 0.3 GB of outputs, whatever the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lamina.core.errors import CheckpointError, DataError
from lamina.evaluate.encode import start_of
from lamina.evaluate.models import LanguageModel, Progress, find_model, load_model, quiet
from lamina.evaluate.text import Document
from lamina.evaluate.wikitext import count_bytes, count_words
from lamina.evaluate.windows import Window, batches, completion_window, rolling_windows

if TYPE_CHECKING:
    import torch

# Values of output kept at once (float32): 256 MB.
_MAX_OUTPUTS = 2**26
# Positions whose log-softmax is taken at once, by values: 16 MB.
_MAX_SOFTMAX = 2**22


@dataclass(frozen=True, slots=True)
class TextLoss:
    """Summed loss, in nats, of one model on one text, with the counts to divide it by."""

    loss_sum: float
    tokens: int
    words: int
    bytes: int
    row_sums: tuple[float, ...]
    """A sum for each document, in the order of the file, so that models can be compared by row."""
    row_tokens: tuple[int, ...]
    skipped: tuple[int, ...] = ()
    """Documents (from 0) whose completion is longer than the model: not scored, not counted."""
    shortened: int = 0
    """Documents whose prompt lost its beginning to fit the model."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.loss_sum / self.tokens

    @property
    def loss_se(self) -> float | None:
        """Standard error of `loss`, over documents; None when there is but one.

        The loss is a ratio of two sums over documents (the delta method for a ratio estimator).
        """
        return ratio_se(self.row_sums, self.row_tokens)

    @property
    def perplexity(self) -> float:
        return _exp(self.loss)

    @property
    def word_perplexity(self) -> float:
        return _exp(self.loss_sum / self.words)

    @property
    def byte_perplexity(self) -> float:
        return _exp(self.loss_sum / self.bytes)

    @property
    def bits_per_byte(self) -> float:
        return self.loss_sum / self.bytes / math.log(2)


def ratio_se(sums: Sequence[float], counts: Sequence[float]) -> float | None:
    """Standard error of sum(sums) / sum(counts) over rows drawn at random; None below two rows."""
    rows = [(value, count) for value, count in zip(sums, counts, strict=True) if count]
    if len(rows) < 2:
        return None
    total = sum(count for _, count in rows)
    ratio = math.fsum(value for value, _ in rows) / total
    squares = math.fsum((value - ratio * count) ** 2 for value, count in rows)
    return math.sqrt(squares * len(rows) / (len(rows) - 1)) / total


def measure(
    model: Path | str,
    domains: Mapping[str, Sequence[Document]],
    *,
    max_length: int | None = None,
    batch_tokens: int = 4096,
    dtype: str = "float32",
    base: Path | str | None = None,
    progress: Progress | None = None,
) -> dict[str, TextLoss]:
    """The loss of one model on each text; the model is loaded once.

    Args:
        model: a model's folder, an adapter's folder, or a hub name.
        batch_tokens: positions in one batch; more needs more memory and is not faster on a CPU.
        base: the model an adapter belongs to, where its own config does not lead there.
        progress: told, in words, what is being done.
    """
    tell = progress or _silent
    source = find_model(model, base=base)
    tell(f"{source.name}: loading")
    loaded = load_model(source, dtype=dtype, max_length=max_length)
    losses = {}
    for domain, documents in domains.items():
        tell(f"{source.name}: reading {domain} ({len(documents)} texts)")
        losses[domain] = score(loaded, documents, batch_tokens=batch_tokens, what=domain)
    return losses


def score(
    model: LanguageModel,
    documents: Sequence[Document],
    *,
    batch_tokens: int = 4096,
    what: str = "the text",
) -> TextLoss:
    """The loss of a loaded model on documents; `what` names them in messages.

    Raises:
        DataError: no document can be scored, or tokens the model does not have.
        CheckpointError: losses that are not numbers, or a tokenizer without a token to start from.
    """
    windows, skipped, shortened = _windows(model, documents)
    if not windows:
        raise DataError(_nothing_scored(model, what, skipped))
    _check_tokens(model, windows, what)
    sums = [0.0] * len(documents)
    tokens = [0] * len(documents)
    max_scored = max(1, _MAX_OUTPUTS // model.num_embeddings)
    for batch in batches(windows, max_tokens=batch_tokens, max_scored=max_scored):
        for window, loss in zip(batch, _losses(model, batch), strict=True):
            sums[window.row] += loss
            tokens[window.row] += window.scored
    _check_finite(model, sums, what)
    left_out = set(skipped)
    counted = [d.measured for row, d in enumerate(documents) if row not in left_out]
    return TextLoss(
        loss_sum=math.fsum(sums),
        tokens=sum(tokens),
        words=sum(map(count_words, counted)),
        bytes=sum(map(count_bytes, counted)),
        row_sums=tuple(sums),
        row_tokens=tuple(tokens),
        skipped=skipped,
        shortened=shortened,
    )


def _windows(
    model: LanguageModel, documents: Iterable[Document]
) -> tuple[list[Window], tuple[int, ...], int]:
    """Windows of all documents; rows that do not fit; how many prompts are read in part."""
    windows: list[Window] = []
    skipped: list[int] = []
    shortened = 0
    for row, document in enumerate(documents):
        found, cut = document_windows(model, document, row=row)
        if found is None:
            skipped.append(row)
            continue
        windows += found
        shortened += cut > 0
    return windows, tuple(skipped), shortened


def document_windows(
    model: LanguageModel, document: Document, *, row: int = 0
) -> tuple[tuple[Window, ...] | None, int]:
    """A document's windows and the tokens of its prompt that are lost to fit the model.

    None where its completion is longer than the model; no window where it has no token.
    """
    with quiet():
        if document.prompt is None:
            tokens = _encode_text(model, document.text)
            if not tokens:
                return (), 0
            start, length = start_of(model), model.max_length
            return tuple(rolling_windows(row, tokens, start=start, max_length=length)), 0
        prompt = _encode_prompt(model, document.prompt)
        completion = _encode(model, document.text)
    if not completion:
        return (), 0
    window = completion_window(row, prompt, completion, max_length=model.max_length)
    if window is None:
        return None, 0
    return (window,), len(prompt) + len(completion) - len(window.tokens)


def _encode_text(model: LanguageModel, text: str) -> list[int]:
    """As the harness does: with the special tokens the tokenizer itself adds.

    So a tokenizer that adds BOS gives it twice, the second one scored; only a text that already
    begins with the start token gets none.
    """
    begins = text.startswith(str(model.tokenizer.decode(start_of(model))))
    return model.tokenizer.encode(text, add_special_tokens=not begins)


def _encode(model: LanguageModel, text: str) -> list[int]:
    return model.tokenizer.encode(text, add_special_tokens=False)


def _encode_prompt(model: LanguageModel, prompt: str) -> list[int]:
    """The prompt alone, with BOS before it where the tokenizer has one and the prompt does not."""
    tokens = _encode(model, prompt)
    if model.bos is not None and tokens[:1] != [model.bos]:
        return [model.bos, *tokens]
    return tokens or [start_of(model)]


def _losses(model: LanguageModel, batch: Sequence[Window]) -> list[float]:
    """The summed loss of each window, by one pass over all of them."""
    import torch

    length = batch[0].length
    first = min(window.first_scored for window in batch)
    # Padding is on the right: in a causal model nothing that is scored can see it.
    inputs = torch.zeros((len(batch), length), dtype=torch.long)
    owners: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row, window in enumerate(batch):
        inputs[row, : window.length] = torch.tensor(window.tokens[:-1])
        owners += [row] * window.scored
        offset = row * (length - first) - first
        places += range(offset + window.first_scored, offset + window.length)
        targets += window.tokens[-window.scored :]
    with torch.inference_mode():
        inputs = inputs.to(model.device)
        if model.keeps_logits:
            output = model.network(input_ids=inputs, use_cache=False, logits_to_keep=length - first)
            outputs = output.logits
        else:
            outputs = model.network(input_ids=inputs, use_cache=False).logits[:, first:]
        losses = _token_losses(outputs.flatten(0, 1), places, targets)
        sums = torch.zeros(len(batch), dtype=torch.float64, device=model.device)
        sums.index_add_(0, torch.tensor(owners, device=model.device), losses)
        return sums.tolist()


def _token_losses(
    outputs_PV: torch.Tensor, places: Sequence[int], targets: Sequence[int]
) -> torch.Tensor:
    """Negative log-probability of each target at its place: float32 inside, float64 out."""
    import torch

    device = outputs_PV.device
    step = max(1, _MAX_SOFTMAX // outputs_PV.shape[1])
    every = len(places) == outputs_PV.shape[0]
    place_N = torch.tensor(places, device=device)
    target_N = torch.tensor(targets, device=device)
    losses = []
    for begin in range(0, len(places), step):
        chosen = slice(begin, begin + step)
        chunk = outputs_PV[chosen] if every else outputs_PV[place_N[chosen]]
        losses.append(
            torch.nn.functional.cross_entropy(chunk.float(), target_N[chosen], reduction="none")
        )
    return torch.cat(losses).double()


def _check_tokens(model: LanguageModel, windows: Sequence[Window], what: str) -> None:
    worst = max(windows, key=lambda window: max(window.tokens))
    token = max(worst.tokens)
    if token >= model.num_embeddings:
        raise DataError(
            f"{what}, text {worst.row + 1}: the tokenizer gives token {token} "
            f"({model.tokenizer.convert_ids_to_tokens(token)!r}), but {model.name} knows "
            f"{model.num_embeddings} tokens. The tokenizer belongs to another model."
        )


def _check_finite(model: LanguageModel, sums: Sequence[float], what: str) -> None:
    wrong = [row for row, value in enumerate(sums) if not math.isfinite(value)]
    if wrong:
        raise CheckpointError(
            f"{model.name}: the loss is not a number on {len(wrong)} of {len(sums)} texts of "
            f"{what}. Its weights hold NaN or infinities, or overflow in this dtype: "
            "try dtype float32."
        )


def _nothing_scored(model: LanguageModel, what: str, skipped: Sequence[int]) -> str:
    if skipped:
        return (
            f"{what}: none of {len(skipped)} completions fits {model.name}, which reads "
            f"{model.max_length} tokens. Shorten them or use a model with a longer context."
        )
    return f"{what}: no text has a token to score."


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _silent(message: str) -> None:
    del message
