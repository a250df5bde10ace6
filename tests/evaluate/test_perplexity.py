import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import CheckpointError, DataError
from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.perplexity import TextLoss, measure, score
from lamina.evaluate.text import Document
from lamina.evaluate.wikitext import detokenise

TEXTS = ("the cat sat on the mat, the rat ate the hat and a dog bit the rat", "a hat", "")
RUNNING = tuple(Document(None, text, text) for text in TEXTS)
ASKED = (
    Document("the cat", " sat on", " sat on"),
    Document("", "the mat", "the mat"),
    Document("<s>the", " hat", " hat"),
    Document("the cat sat on the mat, " * 5, "the rat", "the rat"),
)


@pytest.fixture(scope="module")
def model(pico: Path) -> LanguageModel:
    return load_model(find_model(pico))


def _token_losses(model: LanguageModel, tokens: list[int]) -> list[float]:
    """Losses of all tokens but the first, by one plain pass in float64."""
    import torch

    network: Any = model.network
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([tokens])).logits[0].double()
    losses = -torch.log_softmax(logits, -1)
    return [float(losses[place, token]) for place, token in enumerate(tokens[1:])]


def test_a_text_is_scored_from_the_start_token_in_windows(model: LanguageModel) -> None:
    tokens = model.tokenizer.encode(TEXTS[0])
    assert 24 < len(tokens) < 48  # two windows
    first = _token_losses(model, [0, *tokens[:24]])
    last = _token_losses(model, tokens[len(tokens) - 25 :])[48 - len(tokens) :]
    loss = score(model, RUNNING[:1])
    assert loss.tokens == len(tokens) == len(first) + len(last)
    assert loss.loss_sum == pytest.approx(sum(first) + sum(last), rel=1e-6)


def test_only_the_completion_is_scored(model: LanguageModel) -> None:
    encode = model.tokenizer.encode
    wanted = []
    for document in ASKED[:3]:
        assert document.prompt is not None
        prompt = encode(document.prompt.removeprefix("<s>"))
        completion = encode(document.text)
        losses = _token_losses(model, [0, *prompt, *completion])
        wanted.append(sum(losses[-len(completion) :]))
    loss = score(model, ASKED[:3])
    assert loss.row_sums == pytest.approx(wanted, rel=1e-6)
    assert loss.row_tokens == tuple(len(encode(document.text)) for document in ASKED[:3])


def test_a_long_prompt_is_cut_from_the_left_and_told(model: LanguageModel) -> None:
    document = ASKED[3]
    assert document.prompt is not None
    tokens = model.tokenizer.encode(document.prompt) + model.tokenizer.encode(document.text)
    loss = score(model, [document])
    wanted = _token_losses(model, tokens[-25:])[-loss.tokens :]
    assert loss.loss_sum == pytest.approx(sum(wanted), rel=1e-6)
    assert loss.shortened == 1


def test_a_completion_that_does_not_fit_is_left_out_and_told(model: LanguageModel) -> None:
    long = "the cat sat on the mat, " * 5
    loss = score(model, [Document("a", long, long), ASKED[0]])
    assert loss.skipped == (0,)
    assert (loss.words, loss.bytes) == (3, 7)
    assert loss.row_tokens[0] == 0
    with pytest.raises(DataError, match=r"none of 1 completions fits .* reads 24 tokens"):
        score(model, [Document("a", long, long)])


@pytest.mark.parametrize("batch_tokens", [1, 30, 100_000])
def test_batches_do_not_change_the_loss(model: LanguageModel, batch_tokens: int) -> None:
    wanted = [score(model, [document]).loss_sum for document in (*RUNNING[:2], *ASKED)]
    loss = score(model, (*RUNNING[:2], *ASKED), batch_tokens=batch_tokens)
    assert loss.row_sums == pytest.approx(wanted, rel=1e-6)
    assert loss.loss_sum == math.fsum(loss.row_sums)


def test_a_network_that_gives_all_outputs_gives_the_same_loss(model: LanguageModel) -> None:
    plain = dataclasses.replace(model, keeps_logits=False)
    assert score(plain, ASKED).row_sums == pytest.approx(score(model, ASKED).row_sums, rel=1e-6)


def test_perplexities_divide_one_sum_by_three_counts() -> None:
    loss = TextLoss(6.0, 3, 2, 12, (6.0,), (3,))
    assert loss.loss == 2.0
    assert loss.perplexity == math.exp(2)
    assert loss.word_perplexity == math.exp(3)
    assert loss.byte_perplexity == math.exp(0.5)
    assert loss.bits_per_byte == pytest.approx(0.5 / math.log(2))
    assert TextLoss(1e6, 3, 2, 12, (1e6,), (3,)).word_perplexity == math.inf


def test_a_page_is_scored_as_text_and_counted_as_it_came(model: LanguageModel) -> None:
    page = " the cat , the 1 @,@ 000 rats \n"
    loss = score(model, [Document(None, detokenise(page), page)])
    plain = score(model, [Document(None, " the cat, the 1,000 rats\n", "x")])
    assert loss.loss_sum == plain.loss_sum
    assert (loss.words, loss.bytes) == (10, len(page))


def test_measuring_loads_once_and_tells(pico: Path) -> None:
    told: list[str] = []
    losses = measure(pico, {"a": RUNNING, "b": ASKED}, progress=told.append)
    assert list(losses) == ["a", "b"]
    assert losses["a"].row_tokens[2] == 0
    assert [message.removeprefix(f"{pico}: ") for message in told] == [
        "loading",
        "reading a (3 texts)",
        "reading b (4 texts)",
    ]


def test_a_tokenizer_without_bos_starts_from_eos(make_model: Callable[..., Path]) -> None:
    model = load_model(find_model(make_model(bos=False)))
    assert (model.start, model.bos) == (1, None)
    tokens = model.tokenizer.encode("a hat")
    wanted = sum(_token_losses(model, [1, *tokens]))
    assert score(model, RUNNING[1:2]).loss_sum == pytest.approx(wanted, rel=1e-6)
    asked = score(model, [Document("a", " hat", " hat"), Document("", "a", "a")])
    plain = _token_losses(model, model.tokenizer.encode("a") + model.tokenizer.encode(" hat"))
    assert asked.row_sums[0] == pytest.approx(sum(plain[-asked.row_tokens[0] :]), rel=1e-6)


def test_tokens_the_model_does_not_have_are_refused(make_model: Callable[..., Path]) -> None:
    folder = make_model(vocab=100)
    with pytest.raises(DataError, match=r"talk, text 1: .*knows 100 tokens"):
        score(load_model(find_model(folder)), RUNNING, what="talk")


def test_weights_that_are_not_numbers_are_told(make_model: Callable[..., Path]) -> None:
    import torch

    model = load_model(find_model(make_model(seed=7)))
    with torch.no_grad():
        next(iter(model.network.parameters()))[70] = math.nan
    with pytest.raises(CheckpointError, match=r"not a number on . of 3 texts"):
        score(model, [*RUNNING[:2], Document(None, "deckhand", "deckhand")])


def test_nothing_to_score_is_refused(model: LanguageModel) -> None:
    with pytest.raises(DataError, match="no text has a token"):
        score(model, RUNNING[2:])
