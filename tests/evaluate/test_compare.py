import math
import random

import pytest

from lamina.core.errors import DataError
from lamina.evaluate.compare import Difference, mean_difference, paired_difference, shown
from lamina.evaluate.perplexity import TextLoss


def _loss(sums: list[float], tokens: list[int]) -> TextLoss:
    return TextLoss(math.fsum(sums), sum(tokens), 1, 1, tuple(sums), tuple(tokens))


def test_the_difference_is_that_of_the_token_means() -> None:
    first, second = _loss([6.0, 3.0], [2, 1]), _loss([4.0, 4.0], [2, 1])
    difference = paired_difference(first, second)
    assert difference.value == pytest.approx(first.loss - second.loss)
    # By hand: gaps 2 and -1 over 2 and 1 tokens; mean 1/3; residuals 4/3 and -4/3.
    assert difference.value == pytest.approx(1 / 3)
    assert difference.se == pytest.approx(math.sqrt(2 * 2 * (4 / 3) ** 2) / 3)


def test_a_model_does_not_differ_from_itself() -> None:
    loss = _loss([6.0, 3.0, 1.0], [2, 1, 1])
    assert paired_difference(loss, loss) == Difference(0.0, 0.0)
    assert not paired_difference(loss, loss).shown


def test_what_makes_a_document_hard_cancels() -> None:
    tokens = [10] * 50
    hard = [random.Random(row).uniform(10, 90) for row in range(50)]
    first = _loss([value + 1.0 for value in hard], tokens)
    second = _loss(hard, tokens)
    difference = paired_difference(first, second)
    assert difference.value == pytest.approx(0.1)
    assert difference.se == pytest.approx(0.0, abs=1e-12)
    assert second.loss_se is not None
    assert second.loss_se > 0.1
    assert difference.shown


def test_the_standard_error_agrees_with_a_bootstrap() -> None:
    source = random.Random(5)
    tokens = [source.randint(5, 60) for _ in range(300)]
    gaps = [count * source.gauss(0.05, 0.3) for count in tokens]
    difference = paired_difference(_loss(gaps, tokens), _loss([0.0] * 300, tokens))
    means = []
    for _ in range(600):
        rows = source.choices(range(300), k=300)
        means.append(sum(gaps[row] for row in rows) / sum(tokens[row] for row in rows))
    centre = sum(means) / len(means)
    spread = math.sqrt(sum((mean - centre) ** 2 for mean in means) / (len(means) - 1))
    assert difference.se == pytest.approx(spread, rel=0.1)


def test_one_document_has_no_standard_error_and_shows_nothing() -> None:
    difference = paired_difference(_loss([3.0], [2]), _loss([1.0], [2]))
    assert difference == Difference(1.0, None)
    assert not difference.shown
    assert _loss([3.0], [2]).loss_se is None


def test_documents_that_were_not_scored_do_not_count() -> None:
    assert _loss([3.0, 0.0, 1.0], [2, 0, 2]).loss_se == _loss([3.0, 1.0], [2, 2]).loss_se


def test_other_tokens_are_refused() -> None:
    with pytest.raises(DataError, match="another tokenizer"):
        paired_difference(_loss([1.0], [2]), _loss([1.0], [3]))


def test_shown_is_two_standard_errors_away_from_zero() -> None:
    assert shown(-0.21, 0.1)
    assert not shown(0.19, 0.1)
    assert not shown(1.0, None)


def test_the_mean_over_domains_adds_variances() -> None:
    mean = mean_difference([Difference(0.3, 0.03), Difference(-0.1, 0.04)])
    assert mean.value == pytest.approx(0.1)
    assert mean.se == pytest.approx(0.025)
    assert mean_difference([Difference(0.3, None), Difference(-0.1, 0.04)]).se is None
