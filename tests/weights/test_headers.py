"""Headers: what is refused, in words, and that a damaged file never raises anything else."""

import io
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_family import write_raw, write_safetensors

from lamina.core.errors import CheckpointError
from lamina.weights import headers
from lamina.weights.headers import read_header

DATA = bytes(range(24))
GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
}


def changed(name: str = "b.weight", **fields: Any) -> dict[str, Any]:
    return GOOD | {name: GOOD[name] | fields}


def refuse(file: Path, *says: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    told = str(caught.value)
    assert str(file) in told
    for word in says:
        assert word in told, (word, told)
    assert len(told) < 4000, "a message that a person can read"
    return told


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_good_header_is_read_in_the_order_of_the_data(file: Path) -> None:
    write_raw(file, {"b.weight": GOOD["b.weight"], "a.weight": GOOD["a.weight"]}, DATA)
    header = read_header(file)
    begin = file.stat().st_size - len(DATA)
    assert [(t.name, t.dtype, t.shape, t.begin, t.end) for t in header.tensors] == [
        ("a.weight", "F32", (2, 2), begin, begin + 16),
        ("b.weight", "BF16", (4,), begin + 16, begin + 24),
    ]
    assert header.size == file.stat().st_size
    assert [t.num_elements for t in header.tensors] == [4, 4]


HEADERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "overlap": (changed(data_offsets=[8, 16]), ("b.weight", "overlaps")),
    "same range twice": (
        GOOD | {"c.weight": GOOD["b.weight"]},
        ("overlaps the tensor before it",),
    ),
    "gap": (changed("a.weight", shape=[2], data_offsets=[0, 8]), ("b.weight", "gap")),
    "gap at the end": (
        {"a.weight": GOOD["a.weight"]},
        ("the tensors end at byte", "the file at"),
    ),
    "out of range": (
        changed(shape=[400], data_offsets=[16, 816]),
        ("b.weight", "truncated"),
    ),
    "range backwards": (changed(data_offsets=[24, 16]), ("before it begins",)),
    "negative offset": (changed(data_offsets=[-8, 0]), ("absurd offsets",)),
    "offset as a float": (changed(data_offsets=[16.0, 24.0]), ("absurd offsets",)),
    "offset as a bool": (changed(data_offsets=[True, 24]), ("absurd offsets",)),
    "offset of 2^63": (changed(data_offsets=[16, 1 << 63]), ("absurd offsets",)),
    "three offsets": (changed(data_offsets=[16, 20, 24]), ("absurd offsets",)),
    "offsets as a table": (changed(data_offsets={"begin": 16}), ("absurd offsets",)),
    "shape with 0 and 2^62": (
        GOOD | {"c": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [24, 24]}},
        ("c", "absurd shape"),
    ),
    "shape of a negative": (changed(shape=[-4]), ("absurd shape",)),
    "shape of a bool": (changed(shape=[True, 4]), ("absurd shape",)),
    "shape of a float": (changed(shape=[4.0]), ("absurd shape",)),
    "shape of 9 dimensions": (changed(shape=[4] + [1] * 8), ("absurd shape",)),
    "shape that overflows 64 bits": (changed(shape=[1 << 40] * 8), ("needs",)),
    "shape and bytes differ": (changed(shape=[5]), ("needs 10 bytes, its range has 8",)),
    "unknown dtype": (changed(dtype="BF17"), ("unknown dtype 'BF17'",)),
    "dtype as a list": (changed(dtype=["BF16"]), ("unknown dtype",)),
    "dtype as a table": (changed(dtype={}), ("unknown dtype",)),
    "half a byte": (
        GOOD | {"c": {"dtype": "F4", "shape": [1], "data_offsets": [24, 24]}},
        ("needs",),
    ),
    "a field too many": (changed(strides=[1]), ("and no more",)),
    "a field too few": (GOOD | {"b.weight": {"dtype": "BF16", "shape": [4]}}, ("must have",)),
    "entry as a list": (GOOD | {"b.weight": [16, 24]}, ("must have",)),
    "name with ..": (GOOD | {"../../etc/x": GOOD["b.weight"]}, ("`..`",)),
    "name with a slash": (GOOD | {"/etc/x": GOOD["b.weight"]}, ("`/`",)),
    "name with NUL": (GOOD | {"a\0b": GOOD["b.weight"]}, ("control character", "a\\x00b")),
    "name with a line break": (GOOD | {"a\nb": GOOD["b.weight"]}, ("control character",)),
    "name with an escape": (GOOD | {"a\x1b[31m": GOOD["b.weight"]}, ("control character",)),
    "name with a line separator": (GOOD | {"a\u2028b": GOOD["b.weight"]}, ("unprintable",)),
    "name that turns text around": (GOOD | {"a\u202eb": GOOD["b.weight"]}, ("unprintable",)),
    "half of a surrogate pair": (GOOD | {"a\ud800": GOOD["b.weight"]}, ("unprintable",)),
    "empty name": (GOOD | {"": GOOD["b.weight"]}, ("0 characters",)),
    "name of 600 letters": (GOOD | {"a" * 600: GOOD["b.weight"]}, ("600 characters",)),
    "metadata of numbers": (GOOD | {"__metadata__": {"step": 3}}, ("`__metadata__`",)),
    "metadata as a list": (GOOD | {"__metadata__": []}, ("`__metadata__`",)),
    "a list": ([1, 2], ("is a list",)),
    "a number": (7, ("is a int",)),
    "not JSON": (b'{"a":', ("is not JSON",)),
    "not UTF-8": (b'{"\xff": 1}', ("is not JSON",)),
    "nested 100,000 deep": (b'{"a":' + b"[" * 100_000, ("is not JSON",)),
    "a number of 10,000 digits": (b'{"a":' + b"9" * 10_000 + b"}", ("is not JSON",)),
    "a tensor twice": (
        b'{"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"a.weight":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}',
        ("twice", "a.weight"),
    ),
    "a field twice": (
        b'{"a.weight":{"dtype":"F32","shape":[6],"data_offsets":[0,24],"shape":[2,3]}}',
        ("twice", "shape"),
    ),
}


@pytest.mark.parametrize(("header", "says"), HEADERS.values(), ids=HEADERS)
def test_refused_header(header: Any, says: tuple[str, ...], file: Path) -> None:
    write_raw(file, header, DATA)
    refuse(file, *says)


def test_all_wrong_tensors_are_in_one_message(file: Path) -> None:
    bad = {f"t{i}": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]} for i in range(30)}
    write_raw(file, bad, DATA)
    told = refuse(file, "30 problem(s)", "and 10 more")
    assert all(f"'t{i}'" in told for i in range(20))


def test_300_000_empty_tensors_are_refused_fast(file: Path) -> None:
    table = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(300000)}
    write_raw(file, table, b"")
    began = time.process_time()
    refuse(file, "300,000 tensors", "absurd")
    assert time.process_time() - began < 10


def test_300_000_equal_names_are_refused_fast(file: Path) -> None:
    entry = b'"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    write_raw(file, b"{" + b",".join([entry] * 300_000) + b"}", b"")
    began = time.process_time()
    refuse(file, "twice", "'a'")
    assert time.process_time() - began < 10


def test_truncated_files(file: Path) -> None:
    for size in (0, 1, 7):
        file.write_bytes(bytes(size))
        refuse(file, "truncated", f"{size} bytes")
    write_raw(file, GOOD, DATA)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    refuse(file, "truncated", "100")
    file.write_bytes(whole[:-1])
    refuse(file, "truncated", "b.weight")


def test_a_header_longer_than_the_file(file: Path) -> None:
    file.write_bytes((5000).to_bytes(8, "little") + b"{}")
    refuse(file, "truncated", "5,000 bytes", "holds 10")


@pytest.mark.parametrize("claimed", [100_000_001, 1 << 40, (1 << 64) - 1])
def test_an_absurd_header_is_not_read(
    claimed: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with file.open("wb") as stream:
        stream.write(claimed.to_bytes(8, "little") + b"{")
        stream.truncate(min(claimed + 8, 1 << 31))  # sparse
    monkeypatch.setattr(headers, "_parse", lambda *_: pytest.fail("it was read"))
    refuse(file, f"{claimed:,}", "absurd")


def test_a_git_lfs_pointer(file: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    file.write_text(text)
    refuse(file, "Git LFS pointer", f"{len(text)} bytes", "git lfs pull")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle(protocol: int, file: Path) -> None:
    file.write_bytes(pickle.dumps({"a": list(range(100))}, protocol=protocol))
    refuse(file, "pickle", "save_pretrained")


def test_a_zip_of_torch(file: Path) -> None:
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 200)
    file.write_bytes(stream.getvalue())
    refuse(file, "pickle")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x4B50])
def test_a_header_whose_length_looks_like_a_pickle(length: int, file: Path) -> None:
    text = json.dumps(GOOD).encode()
    write_raw(file, text + b" " * (length - len(text)), DATA)
    assert len(read_header(file).tensors) == 2


def test_what_is_no_file(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "cannot be read", "No such file")
    refuse(tmp_path, "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "not a regular file")
    refuse(tmp_path / ("x" * 300), "cannot be read", "too long")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        refuse(tmp_path, "not a regular file")
        (tmp_path / "x").write_bytes(b"123")
        refuse(tmp_path / "x", "truncated")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Laws

DTYPES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1}
NAMES = st.text(
    st.characters(categories=["L", "N", "P"], exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda name: ".." not in name and name != "__metadata__")
TENSORS = st.dictionaries(
    NAMES,
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


@given(TENSORS, st.randoms(use_true_random=False))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_valid_files_read_as_the_safetensors_library_reads_them(
    file: Path, tensors: dict[str, tuple[str, list[int]]], random: Any
) -> None:
    from safetensors import deserialize

    entries = {}
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype]
        entries[name] = (dtype, tuple(shape), random.randbytes(size))
    write_safetensors(file, entries)
    raw = file.read_bytes()
    ours = {t.name: (t.dtype, t.shape, raw[t.begin : t.end]) for t in read_header(file).tensors}
    theirs = {
        name: (told["dtype"], tuple(told["shape"]), bytes(told["data"]))
        for name, told in deserialize(raw)
    }
    assert ours == theirs == entries


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_means_the_same(file: Path, data: st.DataObject) -> None:
    write_raw(file, GOOD, DATA)
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["set", "flip", "cut", "insert", "remove"])):
            case "set":
                raw[at] = data.draw(st.integers(0, 255))
            case "flip":
                raw[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del raw[max(1, at) :]
            case "insert":
                raw[at:at] = data.draw(st.binary(max_size=12))
            case "remove" if len(raw) > 1:
                del raw[at : at + data.draw(st.integers(1, max(1, len(raw) - 1 - at)))]
    file.write_bytes(raw)
    try:
        header = read_header(file)
    except CheckpointError:
        return
    at = 8 + int.from_bytes(raw[:8], "little")
    for tensor in header.tensors:  # whatever it says now, it says it once and inside the file
        assert tensor.begin == at
        at = tensor.end
        assert tensor.num_elements * headers.ITEM_BITS[tensor.dtype] == 8 * tensor.num_bytes
    assert at == len(raw) == header.size


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_noise_is_refused_in_words(file: Path, noise: bytes, framed: bool) -> None:
    file.write_bytes(len(noise).to_bytes(8, "little") + noise if framed else noise)
    try:
        header = read_header(file)
    except CheckpointError:
        return
    assert header.tensors == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(
    st.sampled_from(["dtype", "shape", "data_offsets", None]),
    JSON,
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_in_any_field_is_refused_in_words(
    file: Path, field: str | None, value: Any
) -> None:
    entry = value if field is None else GOOD["b.weight"] | {field: value}
    write_raw(file, GOOD | {"b.weight": entry}, DATA)
    try:
        header = read_header(file)
    except CheckpointError:
        return
    assert [t.num_bytes for t in header.tensors] == [16, 8]
