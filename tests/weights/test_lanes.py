"""Conversions bit for bit as torch does them; checksums that see every change."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import BF16, BLOCK, F16, F32, SPECIAL, Held, combine, held, narrow, widen

from lamina.weights import kernels
from lamina.weights.sources import digest_of

HALVES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)


def to_f32(tensor: Held, n: int) -> np.ndarray:
    values = np.full(n + 8, np.float32(7.5))
    kernels.to_f32(n, np.uint64(tensor.address), tensor.dtype, values)
    assert (values[n:] == 7.5).all(), "wrote behind the output"
    return values[:n]


def from_f32(values: np.ndarray, dtype: int, offset: int = 0) -> np.ndarray:
    """Rounded by the kernel: a linear merge of one model with weight 1."""
    return combine([held(values, F32)], [1.0], out_dtype=dtype, out_offset=offset).stored


def same_values(ours: np.ndarray, theirs: np.ndarray, bits: type) -> None:
    """Equal bit for bit; NaN is NaN whatever its payload."""
    nan = np.isnan(theirs)
    assert (np.isnan(ours) == nan).all()
    assert (ours.view(bits)[~nan] == theirs.view(bits)[~nan]).all()


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("offset", [0, 1, 2, 7])
def test_all_halves_widen_as_torch_widens_them(dtype: int, offset: int) -> None:
    import torch

    kind = torch.float16 if dtype == F16 else torch.bfloat16
    theirs = torch.from_numpy(HALVES.view(np.int16).copy()).view(kind).float().numpy()
    ours = to_f32(Held(HALVES, dtype, offset), HALVES.size)
    same_values(ours, theirs, np.uint32)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_all_halves_survive_the_way_there_and_back(dtype: int) -> None:
    values = widen(HALVES, dtype)
    back = from_f32(values, dtype)
    sound = ~np.isnan(values) & (HALVES != 0x8000)  # a linear merge adds to +0: -0 becomes +0
    assert (back[sound] == HALVES[sound]).all()
    assert np.isnan(widen(back, dtype)[np.isnan(values)]).all()


def fp32_to_round() -> np.ndarray:
    """Special values, every bf16 and fp16 midpoint with its neighbours, and random bits."""
    rng = np.random.default_rng(5)
    bits = [rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)]
    for dtype in (F16, BF16):
        value = widen(HALVES, dtype)
        value = np.sort(value[np.isfinite(value)])
        middle = ((value[1:].astype(np.float64) + value[:-1]) / 2).astype(np.float32)
        bits += [middle.view(np.uint32) + np.uint32(step) for step in (0, 1, 0xFFFFFFFF)]
    return np.concatenate([SPECIAL, *(one.view(np.float32) for one in bits)])


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
@pytest.mark.parametrize("offset", [0, 1])
def test_fp32_rounds_as_torch_rounds_it(dtype: int, offset: int) -> None:
    values = fp32_to_round()
    values = values[values.view(np.uint32) != 0x80000000]
    with np.errstate(over="ignore", invalid="ignore"):
        ours, theirs = from_f32(values, dtype, offset), narrow(values, dtype)
    nan = np.isnan(values)
    assert nan.any()
    zero = (theirs.view(np.uint32 if dtype == F32 else np.uint16) << 1).astype(
        np.uint32 if dtype == F32 else np.uint16
    ) == 0
    sound = ~nan & ~zero
    assert (ours[sound].view(np.uint8) == theirs[sound].view(np.uint8)).all()
    assert (widen(ours, dtype)[zero] == 0).all()
    assert np.isnan(widen(ours, dtype)[nan]).all()


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
def test_a_target_that_is_left_alone_keeps_every_bit(dtype: int) -> None:
    stored = HALVES if dtype != F32 else SPECIAL
    stored = stored[~np.isnan(widen(stored, dtype))]
    target, expert = Held(stored, dtype, 1), held(np.ones(stored.size), F32)
    done = combine(
        [expert],
        [0.0],
        target=target,
        reference=target,
        limits=[0, stored.size],
        out_dtype=dtype,
    )
    assert done.stored.tobytes() == stored.tobytes()
    assert done.counts[kernels.CHANGED] == done.counts[kernels.VANISHED] == 0


# Checksums


def lanes_of(data: bytes, cuts: list[int] | None = None) -> np.ndarray:
    lanes = np.zeros(32, np.uint64)
    memory = np.frombuffer(data + bytes(8), np.uint8)
    edges = [0, *sorted(256 * cut for cut in cuts or [] if 256 * cut < len(data)), len(data)]
    for begin, end in pairwise(edges):
        kernels.checksum(np.uint64(memory.ctypes.data + begin), end - begin, lanes)
    return lanes


def checksum(data: bytes, cuts: list[int] | None = None) -> str:
    return digest_of(lanes_of(data, cuts), len(data))


@given(st.binary(min_size=1, max_size=3000), st.lists(st.integers(0, 12), max_size=6))
def test_a_checksum_does_not_see_where_chunks_begin(data: bytes, cuts: list[int]) -> None:
    assert checksum(data, cuts) == checksum(data)


@given(st.binary(min_size=1, max_size=2000), st.data())
def test_a_flipped_bit_changes_the_checksum(data: bytes, draw: st.DataObject) -> None:
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    assert checksum(bytes(flipped)) != checksum(data)


@given(st.binary(min_size=16, max_size=2000), st.data())
def test_swapped_words_change_the_checksum(data: bytes, draw: st.DataObject) -> None:
    for size in (1, 2, 4, 8):
        words = np.frombuffer(data[: len(data) // size * size], f"u{size}").copy()
        a, b = (draw.draw(st.integers(0, words.size - 1)) for _ in range(2))
        if words[a] == words[b]:
            continue
        before = words.tobytes()
        words[[a, b]] = words[[b, a]]
        assert checksum(words.tobytes()) != checksum(before)


@given(st.integers(0, 1500), st.integers(0, 1500))
def test_zeros_of_another_length_have_another_checksum(a: int, b: int) -> None:
    assert (checksum(bytes(a)) == checksum(bytes(b))) == (a == b)


def test_swapped_stripes_and_blocks_change_the_checksum() -> None:
    data = np.random.default_rng(0).integers(0, 256, 50 * 256, dtype=np.uint8)
    found = {checksum(data.tobytes())}
    for size in (8, 256, 4096):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            swapped = data.copy()
            one, two = slice(a * size, (a + 1) * size), slice(b * size, (b + 1) * size)
            swapped[one], swapped[two] = data[two], data[one]
            found.add(checksum(swapped.tobytes()))
    assert len(found) == 1 + 9


@pytest.mark.parametrize("dtype", [F32, F16, BF16])
def test_a_merge_takes_the_same_checksums_as_reading_does(dtype: int) -> None:
    rng = np.random.default_rng(1)
    n = 3 * BLOCK + 77
    target = held(rng.standard_normal(n), dtype, 3)
    other = held(rng.standard_normal(n), F16)
    expert = held(rng.standard_normal(n), BF16, 1)
    done = combine([expert], [0.5], target=target, reference=other, out_dtype=dtype, chunk=BLOCK)
    for row, stored in enumerate((expert.stored, target.stored, other.stored, done.stored)):
        assert (done.hashes[row] == lanes_of(stored.tobytes())).all(), row
