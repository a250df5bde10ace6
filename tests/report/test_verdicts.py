"""What losses and controls say, and that they say no more than they show."""

from types import ModuleType

import pytest

from lamina.report.nouns import Control, Controls, Measured, Metrics
from lamina.report.verdicts import change, losses_words, mean_change, mean_loss, verdict


def controls(*differences: float, se: float = 0.001) -> Controls:
    rows = [Control("lata", 2.0, 0.0, 0.0)]
    rows += [
        Control(f"permuted_{place}", 2.0 + difference, difference, se)
        for place, difference in enumerate(differences, start=1)
    ]
    return Controls("", "LATA", tuple(rows))


def cell(loss: float, se: float | None = 0.01, **paired: float) -> Measured:
    return Measured(loss, se, 100.0, None, None, **paired)


def test_a_ranking_that_helps_is_called_so() -> None:
    assert verdict(controls(0.02, 0.021, 0.019)).startswith("Yes, on this text: over 3 draws")


def test_a_ranking_that_adds_nothing_is_called_so() -> None:
    words = verdict(controls(0.001, -0.001, 0.0005))
    assert words.startswith("There is no sign of it")
    assert "carried no information" in words


def test_a_ranking_that_harms_is_called_so() -> None:
    assert verdict(controls(-0.02, -0.021)).startswith("No, it did harm")


def test_draws_that_scatter_are_no_proof() -> None:
    assert verdict(controls(0.04, -0.03, 0.01)).startswith("There is no sign of it")


def test_without_permuted_draws_nothing_is_said_of_the_ranking() -> None:
    assert "nothing can be said" in verdict(controls())


def test_a_difference_is_called_one_only_beyond_two_standard_errors() -> None:
    metrics = Metrics(
        ("math", "law", "code"),
        {
            "instruct": {"math": cell(2.0), "law": cell(3.0), "code": cell(2.5)},
            "LATA": {
                "math": cell(1.7, difference=-0.3, difference_se=0.01),
                "law": cell(3.01, difference=0.01, difference_se=0.02),
                "code": cell(2.6, difference=0.1, difference_se=0.01),
            },
        },
    )
    assert losses_words(metrics, ["LATA"]) == (
        "Against instruct, the loss of LATA falls on math (−0.30) and rises on code (+0.10); "
        "on law it cannot be told apart."
    )


def test_without_paired_errors_the_two_count_as_independent() -> None:
    metrics = Metrics(("law",), {"instruct": {"law": cell(3.0, 0.03)}, "x": {"law": cell(3, 0.04)}})
    moved = change(metrics, "x", "law")
    assert moved is not None
    assert moved.se == pytest.approx(0.05)
    assert not moved.paired
    assert not moved.clear
    assert change(metrics, "instruct", "law") is None


def test_a_mean_over_some_of_the_domains_is_no_mean() -> None:
    metrics = Metrics(("law", "math"), {"instruct": {"law": cell(3.0)}})
    assert mean_loss(metrics, "instruct") is None


def test_the_hand_made_controls_speak_for_the_ranking(make: ModuleType) -> None:
    rows = [
        Control(row["name"], row["mean_loss"], row["difference"], row["se"])
        for row in make.metrics()["controls"]["rows"]
    ]
    words = verdict(Controls("", "LATA", tuple(rows)))
    assert words.startswith("Yes")
    assert "The reversed ranking is worse by 0.0174." in words


def test_the_error_of_a_mean_is_that_of_domains_that_share_no_document() -> None:
    moved = {"difference": -0.2, "difference_se": 0.03}
    metrics = Metrics(
        ("law", "math"),
        {
            "instruct": {"law": cell(3.0), "math": cell(2.0)},
            "x": {
                "law": cell(2.8, **moved),
                "math": cell(1.8, difference=-0.4, difference_se=0.04),
            },
            "y": {"law": cell(2.8, **moved), "math": cell(1.8)},
        },
        reference="instruct",
    )
    mean = mean_change(metrics, "x")
    assert mean is not None
    assert mean.value == pytest.approx(-0.3)
    assert mean.se == pytest.approx(0.025)
    assert mean_change(metrics, "y") is None  # no pair in math: other tokens
