"""Two updates of every policy, against numbers worked by hand (VersaTune, arXiv 2411.11266).

Three domains start at P = (1/2, 3/10, 2/10). gamma = max((l - l_ref) / l, 0):

    window   l              l_ref       gamma
    0        (2, 4, 1)      (1, 3, 1)   (1/2, 1/4, 0)
    1        (5/4, 3, 4/5)  (1, 3, 1)   (1/5, 0, 0)        4/5 is below its reference: 0
"""

import json
import math

import pytest

from lamina.core.domains import DomainLosses, RowLosses
from lamina.versatune.policies import POLICIES, Seen, opening
from lamina.versatune.project import project

NAMES = ("law", "medicine", "code")
START = (0.5, 0.3, 0.2)
LOSSES = [(2.0, 4.0, 1.0), (1.25, 3.0, 0.8)]
REFERENCE = (1.0, 3.0, 1.0)


def named(values):
    return dict(zip(NAMES, values, strict=False))


def measured(losses, step):
    """Two held-out examples of ten tokens a domain, both with the loss: a standard error of 0."""
    return DomainLosses(
        step,
        {
            name: RowLosses((10 * loss, 10 * loss), (10, 10), (40, 40))
            for name, loss in named(losses).items()
        },
    )


def updates(name, losses=LOSSES, *, first=None, reference=REFERENCE, start=START, **parameters):
    """The decisions of a policy after every window; memory goes through JSON in between."""
    trained, share = parameters.pop("trained", losses), parameters.pop("share", None)
    steps = parameters.pop("steps", 8)
    table = [measured(losses[0] if first is None else first, 0)]
    table += [measured(row, steps * (number + 1)) for number, row in enumerate(losses)]
    weights, memory, decided = named(start), {}, []
    for window in range(len(losses)):
        seen = Seen(
            window=window,
            windows=len(losses) + 1,
            start=named(start),
            weights=weights,
            losses=table[window + 1],
            previous=table[window],
            first=table[0],
            reference=None if reference is None else named(reference),
            trained=named(trained[window]),
            memory=json.loads(json.dumps(memory)),
            share=None if share is None else named(share[window]),
        )
        decided.append(POLICIES[name](seen, **parameters))
        weights, memory = decided[-1].weights, decided[-1].memory
    return decided


def close(values):
    return pytest.approx(named(values), rel=1e-12)


def weights_of(decided):
    return [decision.weights for decision in decided]


def test_every_policy_is_worked_here():
    assert set(POLICIES) == {
        *("uniform", "inverse", "constant", "foster", "expand"),
        *("doremi", "sheared", "velocity", "odm"),
    }


def test_uniform():
    assert weights_of(updates("uniform")) == [close((1 / 3, 1 / 3, 1 / 3))] * 2
    assert opening("uniform", named(START)) == close((1 / 3, 1 / 3, 1 / 3))


def test_inverse():
    # 1/P = (2, 10/3, 5) = (6, 10, 15) / 3, and 6 + 10 + 15 = 31.
    assert weights_of(updates("inverse")) == [close((6 / 31, 10 / 31, 15 / 31))] * 2
    assert opening("inverse", named(START)) == close((6 / 31, 10 / 31, 15 / 31))


def test_constant():
    assert weights_of(updates("constant")) == [named(START)] * 2
    assert opening("constant", named(START)) == named(START)


def test_foster_with_sigma():
    # sigma = 1/2:  (.5, .3, .2) * (1.25, 1.125, 1) = (.625, .3375, .2) = (50, 27, 16) / 80;
    #               50 + 27 + 16 = 93.
    # then (50, 27, 16) * (1.1, 1, 1) = (55, 27, 16), 98 in all.
    first, second = updates("foster", sigma=0.5)
    assert first.potential == close((0.5, 0.25, 0.0))
    assert first.weights == close((50 / 93, 27 / 93, 16 / 93))
    assert second.potential == close((0.2, 0.0, 0.0))
    assert second.weights == close((55 / 98, 27 / 98, 16 / 98))
    # .5376 - .5 = .0376 and .2 - 16/93 = .0280.
    assert first.reason == "law +.04: most left to learn (potential .50); code -.03: least (.00)"


def test_foster_with_a_growth_bound():
    # Three windows have U = 2 updates: sigma = 4^(1/2) - 1 = 1.
    # (.5, .3, .2) * (1.5, 1.25, 1) = (.75, .375, .2) = (30, 15, 8) / 40, 53 in all;
    # (30, 15, 8) * (1.2, 1, 1) = (36, 15, 8), 59 in all.
    first, second = updates("foster", growth=4.0)
    assert first.weights == close((30 / 53, 15 / 53, 8 / 53))
    assert second.weights == close((36 / 59, 15 / 59, 8 / 59))


def test_foster_with_the_exponential_link():
    # sigma = ln 4 / 2 = ln 2: factors 2^gamma. (.5 * 1.414214, .3 * 1.189207, .2) =
    # (.707107, .356762, .2), 1.263869 in all; then law * 2^.2 = 1.148698.
    first, second = updates("foster", link="exp", growth=4.0)
    assert first.weights == pytest.approx(named((0.559478, 0.282278, 0.158244)), abs=1e-6)
    assert second.weights == pytest.approx(named((0.593312, 0.260598, 0.146090)), abs=1e-6)


def test_growth_is_the_odds_of_a_domain_of_potential_1_over_one_of_potential_0():
    for link in ("linear", "exp"):
        decided = updates(
            "foster", [(1.0, 1.0, 1.0)] * 5, reference=(0.0, 1.0, 1.0), growth=4.0, link=link
        )
        end = decided[-1].weights
        assert end["law"] / end["medicine"] == pytest.approx(4 * 5 / 3)


def test_expand():
    # Target code, eps = .1, sigma = 1/2, l_ref = (1, 3, .8).
    # Window 0: from (2, 4, 2) to (2, 4, 1.6): gamma = (1/2, 1/4, 1/2), nobody forgot: 0 < .05.
    #   code = .2 + .05 = .25; the rest, .75, as (.5 * 1.25, .3 * 1.125) = (50, 27) / 80.
    # Window 1: to (2.2, 4, 1.28): phi = (.1, 0), .05 on average; gamma of code = .48/1.28 = .375,
    #   allowed .0375: held. gamma of law = 1.2/2.2 = 6/11: 50 * (1 + 3/11) = 700/11 and
    #   27 * 1.125 = 243/8, which is 5600 to 2673 (times 88), 8273 in all.
    first, second = updates(
        "expand",
        [(2.0, 4.0, 1.6), (2.2, 4.0, 1.28)],
        first=(2.0, 4.0, 2.0),
        reference=(1.0, 3.0, 0.8),
        target="code",
        sigma=0.5,
    )
    assert first.forgetting == named((0.0, 0.0, 0.0))
    assert first.weights == close((0.75 * 50 / 77, 0.75 * 27 / 77, 0.25))
    assert first.memory == {"failures": 0}
    assert first.reason == (
        "code +.05: left to learn .50; the others forget .000 on average, .050 is allowed"
    )
    assert second.forgetting == close((0.1, 0.0, 0.0))
    assert second.weights == close((0.75 * 5600 / 8273, 0.75 * 2673 / 8273, 0.25))
    assert second.memory == {"failures": 1}
    assert second.reason == (
        "code held at .25: the others forget .050 on average, .038 is allowed; most in law (.10)"
    )


def test_doremi_and_its_mean():
    # Excess over the reference, clipped: (ln 2, 0, 0), then (0, ln 3, 0).
    # (1, .3, .2) / 1.5 = (2/3, 1/5, 2/15);  (10, 9, 2)/15 / (21/15) = (10, 9, 2) / 21.
    # Mean: (14 + 10)/42 = 4/7, (21 + 45)/210 = 11/35, (14 + 10)/210 = 4/35.
    first, second = updates("doremi", [(1 + math.log(2), 3.0, 0.5), (0.5, 3 + math.log(3), 1.0)])
    assert first.weights == close((2 / 3, 1 / 5, 2 / 15))
    assert first.memory["mean"] == close((2 / 3, 1 / 5, 2 / 15))
    assert second.weights == close((10 / 21, 9 / 21, 2 / 21))
    assert second.memory["mean"] == close((4 / 7, 11 / 35, 4 / 35))
    # Smoothed with c = .1: .9 * 2/3 + .1/3 = 19/30, .18 + .1/3 = 16/75, .12 + .1/3 = 23/150.
    smoothed, _ = project(first.weights, smoothing=0.1)
    assert smoothed.weights == close((19 / 30, 16 / 75, 23 / 150))


def test_sheared():
    # Not clipped: (ln 2, 0, -ln 2), then (0, ln 3, 0).
    # (1, .3, .1) / 1.4 = (10, 3, 1) / 14;  (10, 9, 1) / 20.
    first, second = updates(
        "sheared", [(1 + math.log(2), 3.0, 1 - math.log(2)), (1.0, 3 + math.log(3), 1.0)]
    )
    assert first.weights == close((10 / 14, 3 / 14, 1 / 14))
    assert second.weights == close((1 / 2, 9 / 20, 1 / 20))


def test_velocity():
    # l_0 = (3, 2, 2), target (1, 1, 2): the way is (2, 1, none).
    # V = (1/2, 1, 0), then (0, 1/2, 0); rate ln 4 makes the factors 4^V.
    # (.5 * 2, .3 * 4, .2) = (1, 1.2, .2), 2.4 in all: (5, 6, 1) / 12;  (5, 12, 1) / 18.
    first, second = updates(
        "velocity",
        [(2.0, 2.0, 1.9), (1.0, 1.5, 2.5)],
        first=(3.0, 2.0, 2.0),
        reference=(1.0, 1.0, 2.0),
        rate=math.log(4),
    )
    assert first.weights == close((5 / 12, 6 / 12, 1 / 12))
    assert second.weights == close((5 / 18, 12 / 18, 1 / 18))


def test_odm():
    # Two domains of weight 1/2, 8 steps a window, losses / 10.
    # Window 0, training losses (4, 2): R = 8 * (.4, .2) = (3.2, 1.6).
    #   eps_8 = sqrt(ln 2 / 16) = .2081387, eps_7 = sqrt(ln 2 / 14) = .2225096.
    #   exp(-.2225096 * 1.6) = .7004619: P = (1 - .4162773) / 1.7004619 + .2081387 = .5514117.
    # Window 1, (3, not read): the share is 1, so a round's reward is .3 / .5514117 = .5440581.
    #   R = (3.2 + 8 * .5440581, 1.6) = (7.5524650, 1.6).
    #   eps_16 = sqrt(ln 2 / 32) = .1471763, eps_15 = sqrt(ln 2 / 30) = .1520030.
    #   exp(-.1520030 * 5.9524650) = .4046259: P = (1 - .2943525) / 1.4046259 + .1471763 = .6495502.
    first, second = updates(
        "odm",
        [(2.0, 2.0), (2.0, 2.0)],
        start=(0.5, 0.5),
        reference=None,
        trained=[(4.0, 2.0), (3.0, None)],
        share=[(0.5, 0.5), (1.0, 0.0)],
    )
    assert first.memory == {
        "rounds": 8,
        "rewards": pytest.approx({"law": 3.2, "medicine": 1.6}, rel=1e-12),
    }
    assert first.weights == pytest.approx({"law": 0.5514117, "medicine": 0.4485883}, abs=1e-7)
    assert second.memory["rewards"] == pytest.approx({"law": 7.552465, "medicine": 1.6}, abs=1e-6)
    assert second.weights == pytest.approx({"law": 0.6495502, "medicine": 0.3504498}, abs=1e-7)


def test_ten_updates_without_a_growth_bound_take_a_tenth_to_a_half():
    """gamma .9 against .3, sigma .5: .09 -> .49, as the notes measured. No restoring force."""
    decided = updates(
        "foster",
        [(1.0, 1.0)] * 10,
        start=(0.09, 0.91),
        reference=(0.1, 0.7),
        sigma=0.5,
    )
    # The odds .09 / .91 grow by (1.45 / 1.15)^10 = 10.1522: 1.00406, so .5010; of the notes' six
    # domains the others do not all stand at .3, which makes .49.
    odds = 0.09 / 0.91 * (1.45 / 1.15) ** 10
    assert decided[-1].weights["law"] == pytest.approx(odds / (1 + odds))
    assert decided[-1].weights["law"] == pytest.approx(0.5, abs=0.02)
