import inspect
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.domains import DomainLosses, RowLosses
from lamina.core.errors import RecipeError
from lamina.versatune.policies import (
    FIXED,
    POLICIES,
    Seen,
    check,
    degenerate,
    forgetting,
    opening,
    parameters_of,
    potential,
    proven_forgetting,
    strength,
)
from lamina.versatune.seen import short

REFERENCED = ("foster", "expand", "doremi", "sheared", "velocity")


def measured(losses, step=0, wobble=0.0):
    """Four examples of ten tokens a domain; `wobble` nats a token up and down from the loss."""
    signs = (1, -1, 1, -1)
    return DomainLosses(
        step,
        {
            name: RowLosses(tuple(10 * (loss + wobble * s) for s in signs), (10,) * 4, (40,) * 4)
            for name, loss in losses.items()
        },
    )


def seen(**changed):
    losses = {"law": 2.0, "code": 1.0, "art": 3.0}
    return Seen(
        **{
            "window": 0,
            "windows": 4,
            "start": {"law": 0.5, "code": 0.3, "art": 0.2},
            "weights": {"law": 0.5, "code": 0.3, "art": 0.2},
            "losses": measured(losses, 8),
            "previous": measured(losses),
            "first": measured(losses),
            "reference": {"law": 1.0, "code": 0.9, "art": 1.5},
            "trained": {"law": 2.0, "code": 1.0, "art": None},
            **changed,
        }
    )


def decide(name, **changed):
    parameters = {"target": "code"} if name == "expand" else {}
    return POLICIES[name](seen(**changed), **parameters)


def test_nine_policies_in_the_order_they_are_told():
    assert list(POLICIES) == [
        *("uniform", "inverse", "constant", "foster", "expand"),
        *("doremi", "sheared", "velocity", "odm"),
    ]


@pytest.mark.parametrize("name", POLICIES)
def test_a_decision_is_on_the_simplex_and_goes_through_json(name):
    decision = decide(name)
    assert list(decision.weights) == ["law", "code", "art"]
    assert math.fsum(decision.weights.values()) == pytest.approx(1)
    assert min(decision.weights.values()) >= 0
    assert json.loads(json.dumps(decision.memory)) == decision.memory
    assert decision.potential == {"law": 0.5, "code": pytest.approx(0.1), "art": 0.5}
    assert decision.forgetting == {"law": 0.0, "code": 0.0, "art": 0.0}
    assert decision.reason
    assert decision.reason.isprintable()


@pytest.mark.parametrize("name", POLICIES)
def test_the_order_of_the_domains_does_not_matter(name):
    def turned(mapping):
        return dict(reversed(mapping.items()))

    def turned_losses(losses):
        return DomainLosses(losses.step, turned(losses.by_domain))

    at = seen()
    other = seen(
        start=turned(at.start),
        weights=turned(at.weights),
        losses=turned_losses(at.losses),
        previous=turned_losses(at.previous),
        first=turned_losses(at.first),
        reference=turned(at.reference),
        trained=turned(at.trained),
    )
    parameters = {"target": "code"} if name == "expand" else {}
    assert POLICIES[name](other, **parameters).weights == POLICIES[name](at, **parameters).weights


@pytest.mark.parametrize("name", POLICIES)
def test_potential_is_empty_without_a_reference_or_the_reference_is_asked_for(name):
    if name in REFERENCED:
        with pytest.raises(RecipeError, match=f"policy `{name}` needs reference losses"):
            decide(name, reference=None)
    else:
        assert decide(name, reference=None).potential == {}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_policies_have_their_weights_in_the_first_window_already(name):
    at = seen()
    assert opening(name, at.start) == POLICIES[name](at).weights


def test_moving_policies_open_with_the_start():
    assert opening("foster", {"a": 0.9, "b": 0.1}) == {"a": 0.9, "b": 0.1}


def test_a_reference_with_holes_is_told_whole():
    with pytest.raises(RecipeError, match=r"none for `art`; `code` is -1\. Every domain"):
        decide("foster", reference={"law": 1.0, "code": -1.0})


# ---- parameters ---------------------------------------------------------------------------------


def test_parameters_of_a_policy_with_their_defaults():
    assert parameters_of("foster") == {"sigma": None, "growth": 4.0, "link": "linear"}
    assert parameters_of("uniform") == {}
    assert parameters_of("expand")["target"] is inspect.Parameter.empty
    assert parameters_of("expand")["delta"] == 0.05
    assert parameters_of("odm") == {"scale": 10.0}


def test_an_unknown_policy_is_told_the_nearest():
    with pytest.raises(RecipeError, match="policy `fostr` is unknown; did you mean `foster`"):
        parameters_of("fostr")


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("foster", {"sigma": 0}, "`sigma` is 0; it must be a number above 0"),
        ("foster", {"sigma": -1.0}, "`sigma` is -1.0"),
        ("foster", {"sigma": math.nan}, "`sigma` is nan"),
        ("foster", {"sigma": "much"}, "`sigma` is 'much'"),
        ("foster", {"growth": 1}, "`growth` is 1; it must be a number above 1"),
        ("foster", {"growth": None}, "`growth` is None"),
        ("foster", {"growth": True}, "`growth` is True"),
        ("foster", {"link": "exq"}, "link 'exq' is unknown; did you mean `exp`"),
        ("foster", {"sigm": 1}, "`sigm` is not used by it; did you mean `sigma`"),
        ("uniform", {"sigma": 1}, "`sigma` is not used by it; none is known"),
        ("expand", {}, "`target` is missing"),
        ("expand", {"target": "lwa"}, "target 'lwa' is not a domain; did you mean `law`"),
        ("expand", {"target": "law", "delta": 1.5}, "`delta` is 1.5; it must be .* at most 1"),
        ("expand", {"target": "law", "eps": -0.1}, "`eps` is -0.1"),
        ("expand", {"target": "law", "max_share": 0}, "`max_share` is 0"),
        ("expand", {"target": "law", "patience": 0}, "`patience` is 0; .* whole number"),
        ("expand", {"target": "law", "patience": 1.5}, "`patience` is 1.5"),
        ("expand", {"target": "law", "z": -1}, "`z` is -1"),
        ("doremi", {"rate": 0}, "`rate` is 0"),
        ("odm", {"scale": -10}, "`scale` is -10"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_parameter_that_makes_no_sense_is_told(name, parameters, told):
    with pytest.raises(RecipeError, match=f"policy `{name}`: .*{told}"):
        check(name, parameters, domains=("law", "code"))


def test_all_bad_parameters_are_told_at_once_and_where_a_policy_is_called():
    with pytest.raises(RecipeError, match=r"`gamma` is not used .*`sigma` is 0.*`growth` is 0"):
        POLICIES["foster"](seen(), sigma=0, growth=0, gamma=1)


def test_expand_needs_a_second_domain():
    with pytest.raises(RecipeError, match="a second domain beside `law`"):
        check("expand", {"target": "law"}, domains=("law",))


def test_good_parameters_pass():
    check("expand", {"target": "law", "sigma": None, "patience": 3}, domains=("law", "code"))


# ---- potential and forgetting -------------------------------------------------------------------


def test_potential_is_the_share_of_the_loss_above_the_reference():
    losses = {"a": 2.0, "b": 1.0, "c": 0.0}
    assert potential(losses, {"a": 0.5, "b": 1.5, "c": 0.0}) == {"a": 0.75, "b": 0.0, "c": 0.0}
    assert potential(losses, None) == {}


def test_forgetting_is_the_share_of_a_rise():
    assert forgetting({"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 2.0}) == {"a": 0.5, "b": 0.0}
    assert forgetting({"a": 3.0}, {"a": 0.0}) == {"a": 0.0}


def test_a_rise_within_the_noise_is_no_forgetting():
    # Gaps of 10 * (.1 +- .3) nats over ten tokens: .1 +- sqrt(4 * 9 * 4/3) / 40 = .173: z = .58.
    after, before = measured({"a": 1.1}, wobble=0.3), measured({"a": 1.0})
    assert proven_forgetting(after, before) == {"a": 0.0}
    assert proven_forgetting(after, before, z=0.5) == {"a": pytest.approx(0.1)}
    assert proven_forgetting(measured({"a": 1.1}), before) == {"a": pytest.approx(0.1)}


def test_one_held_out_example_proves_no_forgetting():
    one = DomainLosses(0, {"a": RowLosses((1.0,), (1,), (1,))})
    two = DomainLosses(1, {"a": RowLosses((5.0,), (1,), (1,))})
    assert proven_forgetting(two, one) == {"a": 0.0}


@given(st.floats(1.001, 1e3), st.integers(1, 500))
def test_strength_spends_the_growth_bound_in_all_updates(growth, updates):
    linear = strength(growth, num_updates=updates)
    assert (1 + linear) ** updates == pytest.approx(growth)
    exp = strength(growth, num_updates=updates, link="exp")
    assert math.exp(exp) ** updates == pytest.approx(growth)


def test_a_run_of_one_window_has_one_update_to_spend():
    assert strength(4.0, num_updates=0) == 3.0


# ---- degenerate references ----------------------------------------------------------------------


def test_sound_references_are_not_warned_of():
    assert degenerate({"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 0.9}) == []


def test_references_learnt_by_heart_are_told():
    told = degenerate({"a": 2.0, "b": 1.0}, {"a": 0.01, "b": 0.001})
    assert len(told) == 2
    assert "reference loss of a, b is near 0 (0.01)" in told[0]
    assert "potential is .95 or more in every domain" in told[1]


def test_one_low_reference_is_told_by_name():
    told = degenerate({"a": 2.0, "b": 1.0}, {"a": 0.0, "b": 0.5})
    assert len(told) == 1
    assert "reference loss of a is near 0" in told[0]


def test_references_above_the_model_are_told():
    told = degenerate({"a": 2.0, "b": 1.0}, {"a": 2.0, "b": 1.5})
    assert len(told) == 1
    assert "no reference loss is below" in told[0]


def test_an_over_fitted_reference_does_leave_the_weights_where_they_are():
    reference = dict.fromkeys(("law", "code", "art"), 0.0)
    decision = POLICIES["foster"](seen(reference=reference), sigma=0.5)
    assert decision.weights == pytest.approx(seen().weights)
    assert decision.reason == "no share moves by .005 (potential 1.00 to 1.00)"


# ---- foster -------------------------------------------------------------------------------------


def test_foster_at_the_reference_stays():
    at = seen(reference={"law": 2.0, "code": 1.0, "art": 3.0})
    decision = POLICIES["foster"](at)
    assert decision.weights == pytest.approx(at.weights)
    assert decision.reason == "shares stay: no domain is above its reference"


def test_foster_compares_by_bytes_where_it_is_asked_to():
    # 40 bytes for 10 tokens: losses of .5, .25 and .75 nats a byte.
    reference = {"law": 0.25, "code": 0.25, "art": 0.75}
    decision = POLICIES["foster"](seen(unit="nats per byte", reference=reference), sigma=1.0)
    assert decision.potential == {"law": 0.5, "code": 0.0, "art": 0.0}
    assert decision.weights["law"] == pytest.approx(0.75 / 1.25)


# ---- expand -------------------------------------------------------------------------------------


def expand(memory=None, parameters=None, **changed):
    return POLICIES["expand"](
        seen(memory=memory or {}, **changed), **{"target": "law", **(parameters or {})}
    )


FORGOT = measured({"law": 2.0, "code": 0.5, "art": 3.0})


def test_expand_raises_by_delta_exactly_and_keeps_the_rest_in_proportion():
    decision = expand(parameters={"delta": 0.1, "sigma": 1e-9})
    assert decision.weights == pytest.approx({"law": 0.6, "code": 0.24, "art": 0.16})


def test_expand_holds_where_the_others_forget_and_tries_again():
    held = expand(previous=FORGOT)
    assert held.weights["law"] == 0.5
    assert held.forgetting == {"law": 0.0, "code": 1.0, "art": 0.0}
    again = expand(held.memory)
    assert again.weights["law"] == pytest.approx(0.55)
    assert again.memory == {"failures": 1}


def test_expand_stops_for_good_after_patience_failures():
    held = expand({"failures": 1}, previous=FORGOT)
    assert held.memory == {"failures": 2}
    assert held.reason.endswith("most in code (1.00), raised no more")
    after = expand(held.memory)
    assert after.weights["law"] == 0.5
    assert after.reason == "law held at .50 for good: the others forgot in 2 windows"
    assert expand({"failures": 2}, {"patience": 3}).weights["law"] == pytest.approx(0.55)


def test_forgetting_of_the_target_does_not_hold_it():
    decision = expand(previous=measured({"law": 1.0, "code": 1.0, "art": 3.0}))
    assert decision.forgetting["law"] == 1.0
    assert decision.weights["law"] == pytest.approx(0.55)


def test_noise_does_not_hold_the_target():
    losses = measured({"law": 2.0, "code": 1.1, "art": 3.0}, 8, wobble=0.3)
    assert expand(losses=losses).weights["law"] == pytest.approx(0.55)
    assert expand(losses=losses, parameters={"z": 0.5}).weights["law"] == 0.5


def test_expand_stops_at_the_largest_share():
    near = {"law": 0.88, "code": 0.06, "art": 0.06}
    assert expand(weights=near).weights["law"] == 0.9
    at = expand(weights={"law": 0.9, "code": 0.05, "art": 0.05})
    assert at.weights["law"] == 0.9
    assert at.reason == "law held at .90, the most it may have (.90)"
    above = {"law": 0.95, "code": 0.03, "art": 0.02}
    assert expand(weights=above).weights["law"] == 0.95


def test_a_target_with_nothing_left_is_held_and_counts_as_no_failure():
    decision = expand(reference={"law": 2.0, "code": 0.5, "art": 1.5})
    assert decision.weights["law"] == 0.5
    assert decision.memory == {"failures": 0}
    assert "nothing left to learn there" in decision.reason


def test_expand_from_the_target_alone_shares_the_rest_evenly():
    decision = expand(weights={"law": 1.0, "code": 0.0, "art": 0.0}, parameters={"max_share": 1.0})
    assert decision.weights == {"law": 1.0, "code": 0.0, "art": 0.0}
    held = expand({"failures": 9}, weights={"law": 0.0, "code": 0.0, "art": 1.0})
    assert held.weights == {"law": 0.0, "code": 0.0, "art": 1.0}


# ---- relatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["doremi", "sheared", "velocity"])
def test_very_large_losses_do_not_overflow(name):
    at = seen(losses=measured({"law": 900.0, "code": 1.0, "art": 3.0}, 8))
    decision = POLICIES[name](at, rate=100.0)
    assert all(math.isfinite(share) for share in decision.weights.values())
    assert decision.weights["law"] == pytest.approx(1)


def test_a_domain_of_weight_0_stays_there_until_it_is_smoothed():
    decision = decide("doremi", weights={"law": 0.5, "code": 0.5, "art": 0.0})
    assert decision.weights["art"] == 0


def test_doremi_grows_only_above_the_reference_and_sheared_shrinks_below_it():
    at = seen(reference={"law": 2.0, "code": 2.0, "art": 3.0})
    assert POLICIES["doremi"](at).weights == pytest.approx(at.weights)
    assert POLICIES["sheared"](at).weights["code"] < at.weights["code"]


def test_velocity_is_0_for_a_domain_that_starts_below_its_target():
    at = seen(reference={"law": 1.0, "code": 5.0, "art": 3.0})
    decision = POLICIES["velocity"](at, rate=math.log(2))
    assert decision.weights == pytest.approx({"law": 1 / 1.5, "code": 0.2, "art": 0.2 / 1.5})


def test_odm_explores_evenly_in_its_first_rounds():
    # K = 3: sqrt(ln 3 / 3t) is above 1/3 up to t = 3, where every share is 1/3.
    at = seen(losses=measured({"law": 2.0, "code": 1.0, "art": 3.0}, 3))
    assert POLICIES["odm"](at).weights == pytest.approx(dict.fromkeys(at.weights, 1 / 3))


def test_odm_does_not_punish_a_domain_for_being_read_seldom():
    share = {"law": 0.0, "code": 0.0, "art": 1.0}
    trained = {"law": None, "code": None, "art": 2.0}
    decision = POLICIES["odm"](seen(share=share, trained=trained), scale=1.0)
    # Read five times more often than its weight of .2 says, over 8 rounds: 8 * 2 * 5.
    assert decision.memory["rewards"] == {"law": 0.0, "code": 0.0, "art": 80.0}


def test_one_domain_has_all_by_every_policy():
    losses = measured({"law": 2.0})
    alone = {
        "start": {"law": 1.0},
        "weights": {"law": 1.0},
        "losses": measured({"law": 2.0}, 8),
        "previous": losses,
        "first": losses,
        "reference": {"law": 1.0},
        "trained": {"law": 2.0},
    }
    for name in POLICIES:
        if name != "expand":
            assert decide(name, **alone).weights == {"law": pytest.approx(1.0)}


# ---- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sign", "told"),
    [(0.04, True, "+.04"), (-0.31, True, "-.31"), (0.5, False, ".50"), (1.2, False, "1.20"),
     (0.999, False, "1.00"), (0.0, False, ".00"), (10.04, True, "+10.04")],
)  # fmt: skip
def test_short_numbers(value, sign, told):
    assert short(value, sign=sign) == told


def test_a_reason_names_who_moved_most_and_why():
    # By potential .5, .1, .5: art and law share the top; the sum is 1.38: .75/1.38 = .5435.
    decision = POLICIES["foster"](seen(), sigma=1.0)
    assert decision.reason == (
        "law +.04: most left to learn (potential .50); code -.06: least (.10)"
    )


def test_a_reason_does_not_call_a_share_high_that_only_comes_back():
    weights = {"law": 0.98, "code": 0.01, "art": 0.01}
    trained = {"law": 3.0, "code": 1.0, "art": 1.0}
    decision = POLICIES["odm"](seen(weights=weights, trained=trained))
    assert "code +" in decision.reason or "art +" in decision.reason
    assert "back towards an even mix (1.00 nats)" in decision.reason
