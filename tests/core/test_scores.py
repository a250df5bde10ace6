import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lamina.core.errors import DataError, LayerError
from lamina.core.scores import LayerScores


def scores(values, **more):
    return LayerScores(
        **{
            "method": "lata_cosine",
            "unit": "cosine",
            "granularity": "block",
            "higher_means": "more like the instruction vector",
            "values": values,
            "model": "math",
            "inputs": {"base": "fp"},
            **more,
        }
    )


SOME = st.lists(st.floats(-1, 1), min_size=1, max_size=40).map(
    lambda xs: scores({str(n): x for n, x in enumerate(xs)})
)


def test_rank_one_is_the_highest_value_and_ties_go_by_layer_order():
    assert scores({"0": 0.5, "1": 0.9, "2": 0.5, "10": 0.9}).rank() == {
        "0": 3,
        "1": 1,
        "2": 4,
        "10": 2,
    }


@given(SOME)
def test_ranks_are_a_permutation_and_never_contradict_the_values(some):
    ranks = some.rank()
    assert sorted(ranks.values()) == list(range(1, len(some.values) + 1))
    assert list(ranks) == list(some.values)
    ordered = sorted(ranks, key=ranks.__getitem__)
    assert [some.values[unit] for unit in ordered] == sorted(some.values.values(), reverse=True)


@given(SOME, st.floats(0, 1))
def test_top_and_bottom_are_the_ends_of_the_ranking(some, share):
    ranks = some.rank()
    top, bottom = some.top(share), some.bottom(share)
    assert [ranks[unit] for unit in top] == list(range(1, len(top) + 1))
    assert [ranks[unit] for unit in bottom] == list(range(len(ranks), len(ranks) - len(bottom), -1))


def test_half_of_three_layers_is_two():
    three = scores({"0": 1.0, "1": 2.0, "2": 3.0})
    assert three.top(0.5) == ("2", "1")
    assert three.bottom(0.5) == ("0", "1")
    assert (three.top(0), three.top(1)) == ((), ("2", "1", "0"))
    with pytest.raises(LayerError, match=r"between 0 and 1, this is 1\.5"):
        three.top(1.5)
    with pytest.raises(LayerError):
        three.top(float("nan"))


def test_overlap_with_its_chance_level_worked_by_hand():
    ours = scores({"0": 4.0, "1": 3.0, "2": 2.0, "3": 1.0})
    theirs = scores({"0": 4.0, "1": 1.0, "2": 3.0, "3": 2.0})
    # Top halves {0, 1} and {0, 2}: one of two in common, as chance would give.
    assert ours.overlap(theirs, 0.5) == (0.5, 0.5, 0.0)
    # Top quarters {0} and {0}: chance is 1/4, corrected (1 - 1/4) / (1 - 1/4).
    assert ours.overlap(theirs, 0.25) == (1.0, 0.25, 1.0)
    assert ours.overlap(theirs, 1.0) == (1.0, 1.0, 0.0)
    assert ours.overlap(theirs, 0.0) == (0.0, 0.0, 0.0)
    with pytest.raises(LayerError, match="only one has 3"):
        ours.overlap(scores({"0": 1.0, "1": 1.0, "2": 1.0}), 0.5)


@given(SOME)
def test_json_gives_the_same_scores_back_in_the_same_order(some):
    back = LayerScores.from_json(some.to_json())
    assert back == some
    assert list(back.values) == list(some.values)


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "not the JSON"), ("[]", "None"), ('{"schema": "lamina.scores/2"}', "scores/2"),
     ('{"schema": "lamina.scores/1"}', "method"), ("[" * 100_000, "not the JSON")],
)  # fmt: skip
def test_what_is_not_ours_is_a_data_error(text, told):
    with pytest.raises(DataError, match=told):
        LayerScores.from_json(text)


def test_scores_are_finite_frozen_and_complete():
    with pytest.raises(LayerError, match="1: nan"):
        scores({"0": 1.0, "1": float("nan")})
    with pytest.raises(LayerError, match="layers without a score: 7"):
        scores({"0": 1.0}, columns={"rho": {"7": 0.1}})
    with pytest.raises(ValidationError, match="Extra inputs"):
        scores({"0": 1.0}, colour="red")
    with pytest.raises(ValidationError, match="frozen"):
        scores({"0": 1.0}).method = "other"


def test_a_rule_makes_a_plan():
    plan = scores({"0": 0.99, "1": 0.9}).plan(
        lambda value: float(value < 0.95), name="threshold", others=0.0
    )
    assert plan.coefficients == {"0": 0.0, "1": 1.0}
    assert (plan.rule, plan.from_scores, plan.granularity) == ("threshold", "scores.json", "block")
