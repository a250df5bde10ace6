"""Where bytes will lie: shards by size, alignment, and an index that transformers reads."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_family import random_model, write_model, write_safetensors

from lamina.core.errors import RecipeError
from lamina.weights.checkpoint import INDEX, Checkpoint, open_checkpoint
from lamina.weights.headers import read_header
from lamina.weights.layout import Layout, plan_layout

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_model(tmp_path_factory.mktemp("m") / "model", random_model()))


def all_as(model: Checkpoint, dtype: str) -> dict[str, str]:
    return dict.fromkeys(model.tensors, dtype)


def write(layout: Layout, folder: Path) -> None:
    """The files, with every tensor's bytes set to a number of its own."""
    for shard in layout.shards:
        data = bytearray(shard.size)
        data[: len(shard.header)] = shard.header
        for number, place in enumerate(layout.places.values()):
            if place.file == shard.file:
                data[place.begin : place.end] = bytes([number % 251]) * (place.end - place.begin)
        (folder / shard.file).write_bytes(data)
    if layout.index is not None:
        (folder / INDEX).write_bytes(layout.index)


def check(layout: Layout, model: Checkpoint, dtypes: dict[str, str], folder: Path) -> None:
    """The files that a layout means are sound, whole and aligned."""
    write(layout, folder)
    assert set(layout.places) == set(model.tensors)
    seen = {}
    for shard in layout.shards:
        header = read_header(folder / shard.file)
        assert len(shard.header) % 8 == 0
        for tensor in header.tensors:
            place = layout.places[tensor.name]
            assert (place.file, place.dtype, place.shape) == (
                shard.file,
                tensor.dtype,
                tensor.shape,
            )
            assert (place.begin, place.end) == (tensor.begin, tensor.end)
            assert tensor.begin % SIZES[tensor.dtype] == 0, "aligned to its own element"
            seen[tensor.name] = tensor.dtype
    assert seen == dtypes
    assert layout.num_bytes == sum(shard.size for shard in layout.shards)


def test_files_as_the_targets(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", random_model(), shards=3)
    model = open_checkpoint(folder)
    layout = plan_layout(model, all_as(model, "F32"), None)
    assert [shard.file for shard in layout.shards] == [h.file.name for h in model.headers]
    for header in model.headers:
        assert all(layout.places[t.name].file == header.file.name for t in header.tensors)
    check(layout, model, all_as(model, "F32"), tmp_path)


def test_one_file_is_named_as_transformers_names_it(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", random_model())
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    model = open_checkpoint(folder)
    layout = plan_layout(model, all_as(model, "BF16"), None)
    assert [shard.file for shard in layout.shards] == ["model.safetensors"]
    assert layout.index is None


@pytest.mark.parametrize("most", [9216, 9217, 20_000, 50_000, 1 << 30])
def test_no_shard_is_larger_than_asked(most: int, model: Checkpoint, tmp_path: Path) -> None:
    dtypes = all_as(model, "BF16")
    layout = plan_layout(model, dtypes, most)
    check(layout, model, dtypes, tmp_path)
    for shard in layout.shards:
        assert shard.size - len(shard.header) <= most
    total = len(layout.shards)
    assert (layout.index is None) == (total == 1)
    if total > 1:
        assert [s.file for s in layout.shards] == [
            f"model-{i + 1:05}-of-{total:05}.safetensors" for i in range(total)
        ]
    packed = sum(shard.size - len(shard.header) for shard in layout.shards)
    assert packed == model.num_bytes


def test_one_tensor_too_large_is_refused(model: Checkpoint) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_layout(model, all_as(model, "BF16"), 9215)
    told = str(caught.value)
    assert "9,215 bytes" in told
    assert "11 tensor(s) are larger alone" in told
    assert "lm_head.weight (9,216 bytes)" in told


@given(st.data(), st.none() | st.integers(40_000, 400_000))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mix_of_dtypes_is_aligned(
    model: Checkpoint, tmp_path: Path, data: st.DataObject, most: int | None
) -> None:
    dtypes = {name: data.draw(st.sampled_from(["F32", "F16", "BF16"])) for name in model.tensors}
    check(plan_layout(model, dtypes, most), model, dtypes, tmp_path)


def test_tables_of_integers_keep_their_place(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", random_model())
    entries = {
        "h.0.attn.bias": ("I64", (3,), bytes(24)),
        "h.0.attn.c_attn.weight": ("BF16", (3, 1), bytes(6)),
        "wte.weight": ("BF16", (5, 1), bytes(10)),
    }
    write_safetensors(folder / "model.safetensors", entries)
    (folder / "config.json").write_text("{}")
    model = open_checkpoint(folder)
    dtypes = {name: dtype for name, (dtype, _, _) in entries.items()}
    check(plan_layout(model, dtypes, None), model, dtypes, tmp_path)


def test_the_index_is_read_by_transformers(model: Checkpoint, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    layout = plan_layout(model, all_as(model, "BF16"), 30_000)
    assert len(layout.shards) > 3
    write(layout, tmp_path)
    (tmp_path / "config.json").write_text((model.path / "config.json").read_text())
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == model.num_bytes
    loaded, told = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    state = loaded.state_dict()
    for number, name in enumerate(layout.places):
        raw = state[name].view(dtype=__import__("torch").int16).numpy().tobytes()
        assert set(raw) == {number % 251}, name
