"""Stage 1 ends when the probe loss stays where it is, and not before."""

import pytest

from lamina.core.domains import DomainLosses, RowLosses
from lamina.engine.trainer import ClosedWindow
from lamina.ila.stage import UntilStable


def losses(value: float, step: int) -> DomainLosses:
    """Two domains of unlike size whose mean over all tokens is `value`."""
    rows = {"law": (value + 3, 10), "code": (value - 1, 30)}
    return DomainLosses(
        step=step,
        by_domain={
            name: RowLosses(sums=(loss * tokens,), tokens=(tokens,), num_bytes=(tokens,))
            for name, (loss, tokens) in rows.items()
        },
    )


def closed(value: float, window: int) -> ClosedWindow:
    step = 5 * (window + 1)
    return ClosedWindow(
        window=window, step=step, weights={}, rows={}, tokens={}, train_loss={}, rows_read={},
        repeats={}, losses=losses(value, step),
    )  # fmt: skip


def steering(*, after: int = 0, looks: int = 3) -> UntilStable:
    return UntilStable({"law": 0.25, "code": 0.75}, change=0.01, looks=looks, after=after)


def stopped_at(steer: UntilStable, values: list[float]) -> int | None:
    """The window whose look stopped it."""
    steer.begin(losses(values[0], 0), None)
    for window, value in enumerate(values[1:]):
        if steer.close(closed(value, window)).stop is not None:
            return window
    return None


def test_it_stops_after_so_many_stable_looks_in_a_row():
    steer = steering()
    assert stopped_at(steer, [8.0, 6.0, 5.99, 5.98, 5.0, 4.99, 4.98, 4.97, 4.96]) == 6
    assert steer.stable_since == 25  # five steps a look; the fifth was the first of the three
    assert steer.seen == pytest.approx([8.0, 6.0, 5.99, 5.98, 5.0, 4.99, 4.98, 4.97])


def test_the_mean_is_over_tokens():
    steer = steering()
    steer.begin(losses(2.0, 0), None)
    assert steer.seen == pytest.approx([2.0])


def test_it_goes_on_while_the_loss_moves():
    steer = steering()
    assert stopped_at(steer, [8.0, 7.0, 6.0, 5.0, 4.0]) is None
    assert steer.stable_since is None


def test_a_loss_that_rises_is_not_stable():
    assert stopped_at(steering(), [4.0, 4.2, 4.4, 4.6, 4.8]) is None


def test_the_first_looks_do_not_count():
    flat = [8.0] * 9
    assert stopped_at(steering(), flat) == 2
    assert stopped_at(steering(after=4), flat) == 6


def test_the_weights_stay_those_of_the_rows():
    steer = steering()
    first = steer.begin(losses(3.0, 0), None)
    assert (first.weights, first.unit, first.stop) == ({"law": 0.25, "code": 0.75}, "rows", None)
    assert steer.close(closed(2.0, 0)).weights == first.weights


def test_it_goes_on_where_it_stood():
    values = [8.0, 6.0, 5.99, 5.98, 5.97]
    whole, half = steering(), steering()
    assert stopped_at(whole, values) == 3
    assert stopped_at(half, values[:3]) is None
    again = steering()
    again.restore(half.state())
    assert again.close(closed(5.98, 2)).stop is None
    stop = again.close(closed(5.97, 3)).stop
    assert stop == "the loss is stable: 3 looks in a row changed it by less than 1 %"
    assert again.state() == whole.state()
