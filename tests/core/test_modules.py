"""Linear modules: sizes, the units they belong to, and scores spread over them."""

import pytest

from lamina.core.errors import LayerError
from lamina.core.modules import Linear, Linears, check_units, unit_of
from lamina.core.scores import LayerScores

KINDS = {"self_attn.q_proj": "attention", "self_attn.o_proj": "attention", "mlp.up_proj": "mlp"}
MODEL = Linears(
    "model.layers",
    11,
    {
        f"{b}.{kind}": Linear(f"{b}.{kind}", f"model.layers.{b}.{kind}", b, role, 48, 96)  # type: ignore
        for b in range(11)
        for kind, role in KINDS.items()
    },
)


def scores_of(values, granularity, **more):
    return LayerScores(
        method="ila",
        unit="nats",
        granularity=granularity,
        higher_means="important",
        values=values,
        model="m",
        inputs={},
        **more,
    )


def test_sizes():
    one = MODEL.by_id["3.mlp.up_proj"]
    assert (one.weights, one.lora_parameters(4)) == (48 * 96, 4 * (48 + 96))


def test_units_are_in_model_order_and_block_one_is_not_block_ten():
    assert MODEL.units("block") == tuple(str(b) for b in range(11))
    assert MODEL.units("sublayer")[:3] == ("0.attention", "0.mlp", "1.attention")
    assert MODEL.units("module") == tuple(MODEL.by_id)
    assert MODEL.members("1", "block") == tuple(f"1.{kind}" for kind in KINDS)
    assert MODEL.members("10.attention", "sublayer") == (
        "10.self_attn.q_proj",
        "10.self_attn.o_proj",
    )
    assert MODEL.members("3.mlp.up_proj", "module") == ("3.mlp.up_proj",)
    assert MODEL.members("11", "block") == MODEL.members("x", "module") == ()


def test_every_module_belongs_to_one_unit_of_each_grain():
    for grain in ("block", "sublayer", "module"):
        members = [one for unit in MODEL.units(grain) for one in MODEL.members(unit, grain)]
        assert sorted(members) == sorted(MODEL.by_id)
        assert all(unit_of(MODEL.by_id[one], grain) in MODEL.units(grain) for one in members)


def test_scores_of_blocks_are_those_of_their_modules():
    by_block = scores_of(
        {str(b): float(b) for b in range(11)},
        "block",
        columns={"seed_0": {str(b): 2.0 * b for b in range(11)}},
        spread={"10": 0.5},
    )
    spread = MODEL.by_module(by_block)
    assert spread.granularity == "module"
    assert list(spread.values) == list(MODEL.by_id)
    assert (spread.values["1.mlp.up_proj"], spread.values["10.mlp.up_proj"]) == (1.0, 10.0)
    assert spread.columns["seed_0"]["10.self_attn.q_proj"] == 20.0
    assert spread.spread == {f"10.{kind}": 0.5 for kind in KINDS}
    assert MODEL.by_module(spread) is spread


def test_scores_of_another_model_are_told_with_all_that_is_wrong():
    with pytest.raises(LayerError, match=r"no value for 10; the model has no 11, 12\."):
        MODEL.by_module(scores_of({str(b): 1.0 for b in (*range(10), 11, 12)}, "block"))
    with pytest.raises(LayerError, match="and 2 more"):
        check_units({}, tuple("abcdefgh"), what="coefficients")
