import json
import math

import pytest

from lamina.core.domains import Change, DomainLosses, RowLosses
from lamina.core.errors import DataError
from lamina.versatune.ledger import (
    StageEnd,
    backward_transfer,
    balance,
    crossed,
    forgotten,
    interval,
    ledger,
)

NAMES = ("law", "code")


def rows(loss, wobble=0.0):
    """Two examples of ten tokens, `wobble` nats a token above and below the loss."""
    return RowLosses((10 * (loss + wobble), 10 * (loss - wobble)), (10, 10), (50, 50))


def measured(law, code, step=0, wobble=0.0):
    return DomainLosses(step, {"law": rows(law, wobble), "code": rows(code, wobble)})


START = StageEnd("start", measured(2.0, 3.0), general=rows(4.0))
FIRST = StageEnd("law", measured(1.0, 3.3, 20), "expand", ("law",), rows(4.5))
SECOND = StageEnd("code", measured(1.5, 2.2, 40), "expand", ("code",), rows(4.25))
WINDOWS = [
    START.losses,
    measured(0.8, 3.1, 10),
    FIRST.losses,
    measured(1.2, 2.0, 30),
    SECOND.losses,
]


def whole(**changed):
    arguments = {"general_path": "wiki.txt", "max_forgetting": 0.05, **changed}
    return ledger([START, FIRST, SECOND], WINDOWS, **arguments)


def test_the_ledger_by_hand():
    told = whole()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["schema"] == "lamina.ledger/1"
    assert told["domains"] == ["law", "code"]
    assert told["unit"] == "nats per token"
    assert told["stages"] == [
        {"name": "start", "step": 0},
        {"name": "law", "step": 20, "policy": "expand", "domains": ["law"]},
        {"name": "code", "step": 40, "policy": "expand", "domains": ["code"]},
    ]
    assert [at["loss"] for at in told["losses"]["law"]] == [2.0, 1.0, 1.5]
    assert told["losses"]["law"][0] == {"loss": 2.0, "se": 0.0, "tokens": 20}
    assert [at["value"] for at in told["changes"]["code"]] == pytest.approx([0.3, -1.1])
    assert told["total"]["law"]["value"] == -0.5
    # From the lowest of all windows: 1.5 - .8 and 2.2 - 2.
    assert told["forgetting"] == pytest.approx({"law": 0.7, "code": 0.2})
    # Law was learnt first, to 1.0, and stands at 1.5: .5, and .5 / 1.
    assert (told["bwt"], told["nbwt"], told["why"]) == (0.5, 0.5, None)
    assert told["general"]["path"] == "wiki.txt"
    assert [at["loss"] for at in told["general"]["losses"]] == [4.0, 4.5, 4.25]
    assert told["general"]["total"]["value"] == 0.25
    # Window 1 ends the first stage: law rose from .8 to 1.0, a quarter; code from 3 to 3.3, .1.
    assert told["gate"] == {
        "max_forgetting": 0.05,
        "crossed": {"window": 1, "domain": "law", "value": pytest.approx(0.25)},
    }


def test_the_ledger_in_nats_per_byte():
    told = whole(unit="nats per byte", max_forgetting=None)
    assert [at["loss"] for at in told["losses"]["law"]] == pytest.approx([0.4, 0.2, 0.3])
    assert told["changes"]["law"][0]["value"] == pytest.approx(-0.2)
    assert (told["bwt"], told["nbwt"]) == (pytest.approx(0.1), pytest.approx(0.5))
    assert told["gate"] == {"max_forgetting": None, "crossed": None}


def test_general_text_that_was_not_measured_is_null():
    assert whole(general_path=None)["general"] is None
    stages = [START, StageEnd("foster", FIRST.losses, "foster")]
    assert ledger(stages, WINDOWS[:3], general_path="wiki.txt")["general"] is None


def test_the_ledger_of_a_run_that_did_not_train():
    told = ledger([START], [START.losses])
    assert told["changes"] == {"law": [], "code": []}
    assert told["total"]["law"] == {"value": 0.0, "se": 0.0, "low": 0.0, "high": 0.0}
    assert told["bwt"] is None


def test_stages_of_different_examples_are_refused():
    other = DomainLosses(9, {name: RowLosses((1.0,), (1,), (1,)) for name in NAMES})
    with pytest.raises(DataError, match="not the same examples"):
        ledger([START, StageEnd("foster", other)], [START.losses])


def test_an_interval_is_1_96_standard_errors_on_either_side():
    told = interval(Change(0.5, 0.1))
    assert (told["low"], told["high"]) == pytest.approx((0.304, 0.696), abs=1e-5)


def test_an_unknown_standard_error_is_null_not_infinite():
    assert interval(Change(0.5, math.inf)) == {"value": 0.5, "se": None, "low": None, "high": None}


def test_forgetting_is_0_at_the_lowest_loss():
    assert forgotten([measured(2, 3), measured(1, 2)]) == {"law": 0.0, "code": 0.0}


# ---- backward transfer --------------------------------------------------------------------------


def test_backward_transfer_over_three_stages_by_hand():
    # a to 1, b to 2, c last; at the end a at 1.5 and b at 1.8: .5 and -.2; .5/1 and -.2/2.
    def at(a, b, c):
        return DomainLosses(0, {"a": rows(a), "b": rows(b), "c": rows(c)})

    stages = [
        StageEnd("start", at(3, 3, 3)),
        StageEnd("one", at(1, 3, 3), "expand", ("a",)),
        StageEnd("two", at(1.2, 2, 3), "expand", ("b",)),
        StageEnd("three", at(1.5, 1.8, 2), "expand", ("c",)),
    ]
    told = backward_transfer(stages)
    assert told["bwt"] == pytest.approx(0.15)
    assert told["nbwt"] == pytest.approx(0.2)
    # A stage for all counts as every domain's own: after "one" for all and "two" for b, a and c.
    mixed = [stages[0], StageEnd("one", at(1, 3, 3), "foster"), stages[2]]
    assert backward_transfer(mixed)["bwt"] == pytest.approx(0.1)  # a: .2, c: 0


def test_backward_transfer_counts_from_the_last_stage_that_was_for_a_domain():
    again = StageEnd("law again", measured(0.5, 2.5, 60), "expand", ("law",))
    told = backward_transfer([START, FIRST, SECOND, again])
    assert told["bwt"] == pytest.approx(0.3)  # only code, 2.2 -> 2.5


def test_where_no_domain_was_learnt_before_another_there_is_none():
    one = backward_transfer([START, StageEnd("foster", FIRST.losses, "foster")])
    assert (one["bwt"], one["nbwt"]) == (None, None)
    assert one["why"] == "one stage has no earlier one to forget"
    both = backward_transfer([START, FIRST, StageEnd("foster", SECOND.losses, "foster")])
    assert both["bwt"] is None
    assert "the last stage was for every domain" in both["why"]


def test_a_loss_of_0_has_no_relative_transfer():
    learnt = StageEnd("law", measured(0.0, 3.0), "expand", ("law",))
    told = backward_transfer([START, learnt, SECOND])
    assert (told["bwt"], told["nbwt"]) == (1.5, None)
    assert told["why"] == "nBwT divides by the loss of law: it was 0"


# ---- the gate -----------------------------------------------------------------------------------


def test_the_gate_holds_where_losses_only_fall():
    assert crossed([measured(3, 3), measured(2, 2), measured(1, 1)], 0.01) is None


def test_the_gate_counts_from_the_lowest_earlier_loss_not_from_the_last():
    steps = [measured(1.0, 1), measured(1.04, 1), measured(1.08, 1)]
    assert crossed(steps, 0.05) == {
        "window": 1,
        "domain": "law",
        "value": pytest.approx(0.08),
    }


def test_the_start_counts_too():
    assert crossed([measured(1, 1), measured(1, 1.2)], 0.05) == {
        "window": 0,
        "domain": "code",
        "value": pytest.approx(0.2),
    }


def test_the_worst_domain_of_the_first_window_is_told():
    found = crossed([measured(1, 1), measured(1.1, 1.3), measured(9, 9)], 0.05)
    assert found is not None
    assert (found["window"], found["domain"]) == (0, "code")


def test_a_rise_within_its_standard_error_does_not_cross():
    # +-.2 nats a token around a rise of .1: gaps of 3 and -1 nats, .1 +- .2.
    assert crossed([measured(1, 1), measured(1.1, 1, wobble=0.2)], 0.05) is None
    assert crossed([measured(1, 1), measured(1.1, 1, wobble=0.2)], 0.05, z=0.4) is not None


def test_a_rise_that_is_allowed_does_not_cross():
    assert crossed([measured(1, 1), measured(1.04, 1)], 0.05) is None


# ---- balance ------------------------------------------------------------------------------------


def test_balance_is_the_ratio_of_the_relative_falls():
    told = balance(measured(1.0, 2.4), measured(2.0, 3.0))
    assert told["fall"] == pytest.approx({"law": 0.5, "code": 0.2})
    assert told["kappa"] == {
        "law": {"code": pytest.approx(2.5)},
        "code": {"law": pytest.approx(0.4)},
    }


def test_a_ratio_to_noise_is_null():
    told = balance(DomainLosses(1, {"law": rows(1.0), "code": rows(2.9, 0.3)}), measured(2.0, 3.0))
    assert told["kappa"]["law"]["code"] is None
    assert told["kappa"]["code"]["law"] == pytest.approx(0.0333333 / 0.5, rel=1e-5)
