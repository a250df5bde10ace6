"""Agreement of rankings: against SciPy, by counting every pair of sets, and what is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lamina.core.agreement import compare, jaccard_by_chance, overlap, spearman
from lamina.core.errors import LayerError, RecipeError
from lamina.core.scores import LayerScores

PAIRS = st.lists(
    st.tuples(st.integers(-3, 3), st.floats(-5, 5, allow_nan=False)), min_size=2, max_size=30
)


def scores_of(values, granularity="module"):
    if not isinstance(values, dict):
        values = {f"{n}.mlp": float(value) for n, value in enumerate(values)}
    return LayerScores(
        method="ila",
        unit="nats",
        granularity=granularity,
        higher_means="important",
        values=values,
        model="m",
        inputs={},
    )


@given(PAIRS)
def test_spearman_is_scipys_with_ties(pairs):
    a, b = ({str(n): float(p[i]) for n, p in enumerate(pairs)} for i in (0, 1))
    if len(set(a.values())) == 1 or len(set(b.values())) == 1:
        assert spearman(a, b) == 0.0
        return
    expected = stats.spearmanr(list(a.values()), list(b.values())).statistic
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)


@given(PAIRS)
def test_spearman_with_itself_and_turned_round(pairs):
    a = {str(n): p[1] for n, p in enumerate(pairs)}
    if len(set(a.values())) > 1:
        assert spearman(a, a) == 1.0
        assert spearman(a, {one: -value for one, value in a.items()}) == -1.0


def test_spearman_goes_by_names_not_by_order():
    assert spearman({"a": 1, "b": 2, "c": 3}, {"c": 30, "a": 10, "b": 20}) == 1.0
    assert spearman({"a": 1.0}, {"a": 2.0}) == 0.0


def test_an_overlap_by_hand():
    a = scores_of([5, 4, 3, 2, 1, 0, 0, 0, 0, 0])
    b = scores_of([5, 0, 4, 0, 3, 0, 0, 0, 0, 0])
    found = overlap(a, b, 0.3)
    assert (found.shared, found.chance) == (2 / 3, 0.3)
    assert found.corrected == pytest.approx((2 / 3 - 0.3) / 0.7)
    assert found.jaccard == 2 / 4
    assert overlap(a, a, 0.3).corrected == overlap(a, a, 0.3).jaccard == 1.0
    assert overlap(a, b, 1).corrected == 0.0


@pytest.mark.parametrize(("count", "units"), [(1, 1), (1, 4), (2, 5), (3, 6), (5, 6)])
def test_jaccard_by_chance_is_the_mean_over_all_pairs_of_sets(count, units):
    sets = [set(s) for s in itertools.combinations(range(units), count)]
    every = [len(a & b) / len(a | b) for a in sets for b in sets]
    assert jaccard_by_chance(count, units) == pytest.approx(sum(every) / len(every))


@pytest.mark.parametrize(("share", "about"), [(0.75, 0.60), (0.3, 0.18), (0.2, 0.11)])
def test_jaccard_by_chance_is_near_p_over_two_minus_p(share, about):
    units = 2100
    assert jaccard_by_chance(round(share * units), units) == pytest.approx(about, abs=0.005)


def test_a_comparison_has_every_pair():
    found = compare({"a": scores_of([1, 2, 3]), "b": scores_of([3, 2, 1])}, 0.3)
    assert found.names == ("a", "b")
    assert found.spearman == ((1.0, -1.0), (-1.0, 1.0))
    assert found.shared == ((1.0, 0.0), (0.0, 1.0))
    assert found.jaccard == ((1.0, 0.0), (0.0, 1.0))
    assert (found.units, found.chosen, found.chance) == (3, 1, 1 / 3)
    assert found.corrected[0][1] == pytest.approx(-0.5)


def test_what_cannot_be_compared():
    one = scores_of([1, 2, 3])
    with pytest.raises(RecipeError, match="1 ranking"):
        compare({"a": one}, 0.3)
    for share in (0, -0.1, 1.5, float("nan")):
        with pytest.raises(RecipeError, match="above 0 and at most 1"):
            compare({"a": one, "b": one}, share)
    blocks = scores_of({"0": 1.0, "1": 2.0}, "block")
    with pytest.raises(LayerError, match="a by module, b by block"):
        compare({"a": one, "b": blocks}, 0.3)
    with pytest.raises(LayerError, match="the one by module, the other by block"):
        overlap(one, blocks, 0.3)
    with pytest.raises(LayerError, match=r"3 units \(a\) and 4 \(b\).*only b has 3.mlp"):
        compare({"a": one, "b": scores_of([1, 2, 3, 4])}, 0.3)
    with pytest.raises(LayerError, match="only one has x; only the other has y"):
        spearman({"x": 1.0}, {"y": 1.0})
