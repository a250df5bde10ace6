import re

import pytest
from families import CHOICES, FAMILIES, choices, linears_of, names_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.ila.export.pattern import pattern_of


def matched(pattern: str, names) -> set[str]:
    return {name for name in names if re.fullmatch(pattern, name)}


def test_all_thirteen_families_are_here():
    assert len(FAMILIES) == 13
    assert all(len(linears_of(family).by_id) >= 24 for family in FAMILIES)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_matches_exactly_the_chosen_names(family, choice):
    linears = linears_of(family)
    wanted = {linears.by_id[one].path for one in choices(linears)[choice]}
    pattern = pattern_of(sorted(wanted), linears.prefix)
    modules, _ = names_of(family)
    assert matched(pattern, modules) == wanted
    under_peft = {f"base_model.model.{name}" for name in modules}
    assert matched(pattern, under_peft) == set(), "PEFT asks for names without its prefix"
    assert matched(rf"base_model\.model\.{pattern}", under_peft) == {
        f"base_model.model.{name}" for name in wanted
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_subset_of_any_family(data):
    linears = linears_of(data.draw(st.sampled_from(sorted(FAMILIES))))
    paths = [one.path for one in linears.by_id.values()]
    wanted = data.draw(st.sets(st.sampled_from(paths), min_size=1))
    pattern = pattern_of(sorted(wanted), linears.prefix)
    assert matched(pattern, paths) == wanted
    assert len(pattern) < 60 + sum(map(len, wanted))


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(0, 130), min_size=1))
def test_any_set_of_blocks(blocks):
    names = [f"model.layers.{n}.mlp.up_proj" for n in range(131)]
    wanted = {names[n] for n in blocks}
    assert matched(pattern_of(sorted(wanted), "model.layers"), names) == wanted


def test_dots_are_dots_and_names_are_whole():
    pattern = pattern_of(["model.layers.1.mlp.up_proj"], "model.layers")
    assert pattern == r"model\.layers\.1\.mlp\.up_proj"
    for other in ("modelxlayers.1.mlp.up_proj", "model.layers.11.mlp.up_proj",
                  "model.layers.1.mlp.up_proj.lora_A", "x.model.layers.1.mlp.up_proj"):  # fmt: skip
        assert re.fullmatch(pattern, other) is None


def test_it_is_short_where_blocks_are_alike():
    rows = [(n, part) for n in range(32) for part in ("self_attn.q_proj", "self_attn.v_proj")]
    names = [f"model.layers.{n}.{part}" for n, part in rows]
    assert pattern_of(names, "model.layers") == (
        r"model\.layers\.(?:[0-9]|1[0-9]|2[0-9]|3[01])\.self_attn\.(?:q_proj|v_proj)"
    )


def test_modules_outside_the_blocks_are_spelt_out():
    names = ["lm_head", "model.norm", "model.layers.0.input_layernorm"]
    pattern = pattern_of(names, "model.layers")
    assert pattern == r"(?:model\.layers\.0\.input_layernorm|lm_head|model\.norm)"
    assert matched(pattern, [*names, "norm", "model.layers.0.norm", "model.lm_head"]) == set(names)
