"""The mover of the weights by itself: what it tells, and what it does at the end of a run."""

from lamina.core.domains import DomainLosses, RowLosses
from lamina.engine.trainer import ClosedWindow
from lamina.versatune.recipe import StageSection
from lamina.versatune.steer import Mixture, Stage

NAMES = ("law", "code")
HALF = {"law": 0.5, "code": 0.5}


def losses(step: int) -> DomainLosses:
    rows = RowLosses(sums=(4.0 - step / 10, 6.0), tokens=(2, 3), num_bytes=(8, 9))
    return DomainLosses(step=step, by_domain=dict.fromkeys(NAMES, rows))


def closed(window: int, *, read: int) -> ClosedWindow:
    return ClosedWindow(
        window=window,
        step=window + 1,
        weights=HALF,
        rows=dict.fromkeys(NAMES, 2),
        tokens=dict.fromkeys(NAMES, 20),
        train_loss=dict.fromkeys(NAMES, 2.0),
        rows_read=dict.fromkeys(NAMES, read),
        repeats=dict.fromkeys(NAMES, read / 4),
        losses=losses(window + 1),
    )


def test_a_run_that_ends_with_its_last_row_is_no_reason_for_a_warning() -> None:
    section = StageSection.model_validate({"policy": "foster", "max_repeats": 1, "unit": "rows"})
    stage = Stage(section, 2, HALF, {"law": 1.0, "code": 1.0}, "start: uniform")
    mixture = Mixture([stage], {"law": 4, "code": 4}, 4, dict.fromkeys(NAMES, 10.0))
    mixture.begin(losses(0))
    mixture.close(closed(0, read=2))
    mixture.close(closed(1, read=4))
    assert mixture.told == []
