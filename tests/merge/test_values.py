"""Which number one tensor gets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.core.errors import RecipeError
from lamina.core.layers import LayerMap
from lamina.merge.values import (
    LARGEST,
    Problems,
    Setting,
    interpolate,
    matches,
    narrower,
    negated,
    read_value,
    resolve,
    size_in_bytes,
    write_value,
)

NAMES = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]


def layer_map(num_blocks: int) -> LayerMap:
    blocks = [f"model.layers.{n}.mlp.up_proj.weight" for n in range(num_blocks)]
    return LayerMap.from_names(NAMES + blocks)


def test_list_is_spread_from_the_first_block_to_the_last() -> None:
    layers = layer_map(5)
    value = (Setting((0.0, 1.0, 0.5)),)
    found = [resolve(value, f"model.layers.{n}.mlp.up_proj.weight", layers) for n in range(5)]
    assert found == [0.0, 0.5, 1.0, 0.75, 0.5]


def test_tensors_outside_the_blocks_get_the_first_number() -> None:
    assert [resolve((Setting((0.1, 0.9)),), name, layer_map(3)) for name in NAMES] == [0.1] * 3


def test_single_block_gets_the_last_number() -> None:
    value = (Setting((0.1, 0.9)),)
    assert resolve(value, "model.layers.0.mlp.up_proj.weight", layer_map(1)) == 0.9


def test_filter_of_block_1_leaves_10_to_19_alone() -> None:
    layers = layer_map(12)
    value = (Setting(1.0, "layers.1"), Setting(0.0))
    hit = [name for name in layers.layers if resolve(value, name, layers)]
    assert hit == ["model.layers.1.mlp.up_proj.weight"]


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("mlp", True),
        ("mlp.up_proj", True),
        ("layers.3.mlp", True),
        ("model.layers.3.mlp.up_proj.weight", True),
        ("ml", False),
        ("up", False),
        ("mlp.weight", False),
        ("layers.3.mlp.up_proj.weight.x", False),
    ],
)
def test_filters_match_whole_parts(wanted: str, fits: bool) -> None:
    assert matches(wanted, "model.layers.3.mlp.up_proj.weight") is fits


def test_first_setting_that_fits_counts() -> None:
    value = (Setting(1.0, "mlp"), Setting(2.0, "up_proj"), Setting(3.0))
    assert resolve(value, "model.layers.0.mlp.up_proj.weight", layer_map(1)) == 1.0
    assert resolve(value, "lm_head.weight", layer_map(1)) == 3.0
    with pytest.raises(RecipeError, match=r"no setting fits `lm_head\.weight`"):
        resolve(value[:2], "lm_head.weight", layer_map(1))


@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=6).map(tuple),
    st.integers(1, 40),
    st.data(),
)
def test_interpolation_stays_between_its_numbers(
    numbers: tuple[float, ...], num_blocks: int, data: st.DataObject
) -> None:
    block = data.draw(st.integers(0, num_blocks - 1))
    found = interpolate(numbers, block, num_blocks)
    assert min(numbers) - 1e-9 <= found <= max(numbers) + 1e-9
    assert interpolate(numbers, num_blocks - 1, num_blocks) == pytest.approx(numbers[-1])


@given(
    st.lists(
        st.builds(
            Setting,
            st.floats(-LARGEST, LARGEST)
            | st.lists(st.floats(-1, 1), min_size=1, max_size=4).map(tuple),
            st.none() | st.sampled_from(["mlp", "layers.3", "self_attn"]),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple)
)
def test_written_value_reads_as_the_same(value: tuple[Setting, ...]) -> None:
    problems = Problems()
    assert read_value(write_value(value), "weight", problems) == value
    assert problems.found == []
    assert negated(negated(value)) == value


@pytest.mark.parametrize("text", ["", "GB", "2XB", "-1GB", "2 G B", "1e9", "²GB"])
def test_what_is_no_size(text: str) -> None:
    assert size_in_bytes(text) is None


def test_a_filter_that_fits_more_in_mergekit_is_told() -> None:
    names = [f"model.layers.{n}.{part}_layernorm.weight" for n in (1, 10) for part in ("input",)]
    names += ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"]
    told = narrower(["norm", "layers.1", "mlp", "absent"], names)
    assert [line.split(":")[0] for line in told] == [
        "filter `norm` fits 1 tensors, in mergekit 3",
        "filter `layers.1` fits 2 tensors, in mergekit 3",
    ]
