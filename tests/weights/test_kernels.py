"""Every kernel against plain numpy: merges bit for bit, sums to their rounding, counts exactly."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import (
    BF16,
    BLOCK,
    F16,
    F32,
    Held,
    combine,
    held,
    narrow,
    reference_combine,
    trimmed,
    widen,
)

from lamina.merge.thresholds import BINS, KEEP_ALL, find_bin
from lamina.weights import kernels

DTYPES = (F32, F16, BF16)
KEYS = (0x1234567890ABCDEF, 99, 0xFFFFFFFFFFFFFFFF)


def normal(n: int, seed: int, size: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32) * np.float32(size)


def family(n: int, dtypes: tuple[int, ...], seed: int = 0) -> list[Held]:
    """A model and its relatives, at odd addresses, rounded to their dtypes."""
    origin = normal(n, seed)
    return [
        held(origin + normal(n, seed + k, 0.05 if k else 0.0), dtype, offset=k % 3)
        for k, dtype in enumerate(dtypes)
    ]


def both(
    experts: list[Held],
    weights: list[float],
    *,
    out_dtype: int = F32,
    chunk: int = 0,
    **options: Any,
) -> tuple[Any, np.ndarray]:
    """What the kernel gave and the reference's update; equal bit for bit, or this fails."""
    n = options.get("n") or experts[0].stored.size
    target, reference = options.get("target"), options.get("reference")
    ours = combine(experts, weights, out_dtype=out_dtype, chunk=chunk or 1 << 20, **options)
    plain = {key: value for key, value in options.items() if key not in OURS}
    update, result = reference_combine(
        [expert.values for expert in experts],
        weights,
        target=None if target is None else target.values,
        reference=None if reference is None else reference.values,
        **plain,
    )
    expected = narrow(result, out_dtype)
    assert ours.stored.tobytes() == expected.tobytes(), np.flatnonzero(ours.stored != expected)[:5]
    before = narrow(np.zeros(n) if target is None else target.values, out_dtype)
    kind = np.uint32 if out_dtype == F32 else np.uint16
    same = expected.view(kind) == before.view(kind)
    assert ours.counts[kernels.CHANGED] == (~same).sum()
    assert ours.counts[kernels.VANISHED] == (same & (update != 0)).sum()
    return ours, update


OURS = ("target", "reference", "out_offset")
SIZES = (1, 31, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 333)
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one model": {"models": 1},
    "divided": {"divisor": 0.7},
    "factor": {"factor": 1.3},
    "scaled": {"scales": [0.25, 1.0, 0.0]},
    "rescaled": {"rescales": [1.0, 1.7, 3.0]},
    "all numbers": {"scales": [0.3, 2.0, 1.0], "rescales": [1.1, 1.0, 1.7], "divisor": 3.0,
                    "factor": -0.6},
    "elected": {"elect": True},
    "elected, normalised": {"elect": True, "normalize": True},
    "elected, normalised, factor": {"elect": True, "normalize": True, "factor": 0.4,
                                    "scales": [0.5, 1.0, 2.0]},
    "trimmed": {"modes": [1, 1, 1], "thresholds": [0x3D4CCCCD] * 3, "quotas": [0, 5, 1 << 40]},
    "trimmed, elected": {"modes": [1, 1, 0], "thresholds": [0x3D000000] * 3, "quotas": [3, 0, 0],
                         "elect": True, "normalize": True},
    "dropped": {"modes": [2, 2, 2], "thresholds": [1 << 31, 1 << 30, 0xFFFFFFFF], "keys": KEYS,
                "rescales": [2.0, 4.0, 1.0]},
    "dropped, elected": {"modes": [2, 2, 2], "thresholds": [1 << 31] * 3, "keys": KEYS,
                         "rescales": [2.0] * 3, "elect": True},
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("origin", ["none", "target", "other", "target only"])
def test_combine_is_the_formula_bit_for_bit(variant: dict[str, Any], origin: str) -> None:
    for number, n in enumerate(SIZES):
        options = dict(variant)
        models = options.pop("models", 3)
        for out_dtype in DTYPES:
            dtypes = tuple(DTYPES[(number + out_dtype + k) % 3] for k in range(models + 2))
            target, reference, *experts = family(n, dtypes, seed=number)
            if origin == "target" or origin == "target only":
                options["target"] = target
            if origin == "target":
                options["reference"] = target
            if origin == "other":
                options |= {"target": target, "reference": reference}
            both(
                experts,
                [0.5, -1.25, 0.375][:models],
                out_dtype=out_dtype,
                out_offset=number % 2,
                **options,
            )


@pytest.mark.parametrize("name", ["trimmed", "dropped", "trimmed, elected", "plain"])
def test_chunks_give_the_same_bytes_as_the_whole(name: str) -> None:
    n = 5 * BLOCK + 99
    target, *experts = family(n, (BF16, F16, BF16, F32))
    whole = both(experts, [0.5, 0.5, 1.0], target=target, reference=target, **VARIANTS[name])[0]
    parts = both(
        experts, [0.5, 0.5, 1.0], target=target, reference=target, chunk=BLOCK, **VARIANTS[name]
    )[0]
    assert parts.stored.tobytes() == whole.stored.tobytes()
    assert (parts.hashes == whole.hashes).all()
    assert (parts.counts == whole.counts).all()
    assert (parts.quotas == whole.quotas).all()
    assert (parts.sums == whole.sums).all()


@pytest.mark.parametrize("elect", [False, True])
def test_limits_end_an_input_early(elect: bool) -> None:
    n = 4 * BLOCK
    target, reference, *experts = family(n, (F32, BF16, BF16, F16, F32))
    for limits in ([n, n, n, n], [BLOCK + 3, 2 * BLOCK, 0, 3 * BLOCK], [5, 5, 5, 5]):
        options: dict[str, Any] = {"elect": elect, "limits": limits}
        both(experts, [0.5, 0.25, 1.0], target=target, reference=reference, **options)
        both(experts, [0.5, 0.25, 1.0], target=target, reference=reference, chunk=BLOCK, **options)


def test_where_the_update_is_zero_minus_zero_stays() -> None:
    zeros = np.array([-0.0, 0.0, 1.5, -1.5] * 600, np.float32)
    for dtype in DTYPES:
        target = held(zeros, dtype)
        done = combine(
            [held(zeros, dtype)], [0.5], target=target, reference=target, out_dtype=dtype
        )
        assert done.stored.tobytes() == target.stored.tobytes()
        assert done.counts[:3].tolist() == [0, 0, 0]


def test_sums_are_the_squares() -> None:
    n = 3 * BLOCK + 17
    target, reference, *experts = family(n, (BF16, F32, BF16, F16))
    done, update = both(experts, [0.5, 0.25], target=target, reference=reference)
    for k, expert in enumerate(experts):
        delta = (expert.values - reference.values).astype(np.float64)
        assert done.sums[k] == pytest.approx((delta**2).sum(), rel=1e-5)
    assert done.sums[2] == pytest.approx((update.astype(np.float64) ** 2).sum(), rel=1e-5)
    assert done.sums[3] == pytest.approx((target.values.astype(np.float64) ** 2).sum(), rel=1e-5)


@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize("mode", [kernels.WHOLE, kernels.TRIM, kernels.DROP])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(bad: float, mode: int, elect: bool) -> None:
    n = 2 * BLOCK + 40
    target, *experts = family(n, (BF16, BF16, F32))
    places = [0, BLOCK, n - 1]
    broken = experts[0].values.copy()
    broken[places] = bad
    done = combine(
        [held(broken, F32, 1), experts[1]],
        [0.5, 0.5],
        target=target,
        reference=target,
        modes=[mode, mode],
        thresholds=[0x3C000000, 0x3C000000] if mode == kernels.TRIM else [1 << 31] * 2,
        elect=elect,
        out_dtype=BF16,
    )
    assert done.counts[kernels.NONFINITE_IN] == 3
    assert done.counts[kernels.NONFINITE_IN + 1] == 0


def test_a_broken_target_is_counted_as_the_target() -> None:
    values = normal(3000, 0)
    values[[7, 2999]] = np.nan, np.inf
    target = held(values, BF16)
    done = combine([held(normal(3000, 1), F32)], [0.5], target=target, out_dtype=BF16)
    assert done.counts[kernels.NONFINITE_OUT] == 2
    assert done.counts[kernels.NONFINITE_IN] == 0
    assert done.counts[kernels.NONFINITE_IN + 1] == 2


def test_what_overflows_the_output_is_counted_in_the_output_only() -> None:
    target = held(np.full(100, 60000.0), F16)
    done = combine([held(np.full(100, 60000.0), F32)], [1.0], target=target, out_dtype=F16)
    assert done.counts[kernels.NONFINITE_OUT] == 100
    assert not done.counts[kernels.NONFINITE_IN :].any()


def test_updates_that_vanish_are_counted() -> None:
    target = held(np.ones(1000), BF16)
    expert = held(np.ones(1000, np.float32) + np.float32(2**-12), F32)
    done, _ = both([expert], [1.0], target=target, reference=target, out_dtype=BF16)
    assert done.counts[:3].tolist() == [0, 1000, 0]


# LATA's sums


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("has_base", [True, False])
def test_gram_is_the_sums_in_float64(n: int, has_base: bool) -> None:
    instruct, base, *experts = family(n, (BF16, F16, BF16, F32, F16), seed=3)
    num = len(experts)
    sums, counts = np.zeros((1 + 2 * num, 32)), np.zeros(num + 2, np.int64)
    hashes = np.zeros((num + 2, 32), np.uint64)
    for first in range(0, n, BLOCK):
        m = min(BLOCK, n - first)
        kernels.gram(
            m,
            base.at(first) if has_base else np.uint64(0),
            base.dtype,
            instruct.at(first),
            instruct.dtype,
            np.array([expert.at(first) for expert in experts], np.uint64),
            np.array([expert.dtype for expert in experts], np.int64),
            np.array([m] * (num + 1), np.int64),
            hashes,
            sums,
            counts,
        )
    found = sums.sum(axis=1)
    middle = instruct.values.astype(np.float64)
    u = middle - base.values if has_base else middle
    wanted = [u @ u]
    scale = [u @ u]
    for expert in experts:
        t = expert.values.astype(np.float64) - middle
        wanted += [t @ t, t @ u]
        scale += [t @ t, np.sqrt((t @ t) * (u @ u))]
    assert (np.abs(found - wanted) <= 1e-6 * np.array(scale)).all(), (found, wanted)
    assert not counts.any()


def test_gram_counts_what_is_not_finite() -> None:
    n = BLOCK + 10
    instruct, base, expert = (
        values.copy() for values in (normal(n, 0), normal(n, 1), normal(n, 2))
    )
    instruct[3], base[[4, n - 1]], expert[[5, 6, n - 2]] = np.nan, np.inf, -np.inf
    models = [held(values, F32, 1) for values in (base, instruct, expert)]
    counts = np.zeros(3, np.int64)
    kernels.gram(
        n, models[0].at(0), F32, models[1].at(0), F32, np.array([models[2].at(0)], np.uint64),
        np.array([F32], np.int64), np.array([n, n], np.int64), np.zeros((3, 32), np.uint64),
        np.zeros((3, 32)), counts,
    )  # fmt: skip
    assert counts.tolist() == [3, 1, 2]


@pytest.mark.parametrize("dtypes", [(F32, F32), (BF16, F16), (F16, F32)])
def test_products(dtypes: tuple[int, int]) -> None:
    n = 2 * BLOCK + 5
    a, b = family(n, dtypes)
    sums = np.zeros((3, 32))
    kernels.products(n, a.at(0), a.dtype, b.at(0), b.dtype, sums)
    x, y = a.values.astype(np.float64), b.values.astype(np.float64)
    np.testing.assert_allclose(sums.sum(axis=1), [x @ x, y @ y, x @ y], rtol=1e-6)


# Thresholds


def histogram(expert: Held, reference: Held | None, scale: float, within: int) -> np.ndarray:
    counts = np.zeros(BINS, np.int64)
    n = expert.stored.size
    for first in range(0, n, 2 * BLOCK):
        kernels.count_magnitudes(
            min(2 * BLOCK, n - first),
            np.uint64(0) if reference is None else reference.at(first),
            F32 if reference is None else reference.dtype,
            expert.at(first),
            expert.dtype,
            np.float32(scale),
            counts,
            within,
        )
    return counts


def threshold(
    expert: Held, reference: Held | None, keep: int, scale: float = 1.0
) -> tuple[int, int]:
    upper, left = find_bin(histogram(expert, reference, scale, -1), keep)
    lower, quota = find_bin(histogram(expert, reference, scale, upper), left)
    return upper << 16 | lower, quota


MANY_EQUAL = {
    "random": normal(9000, 1),
    "bf16 steps": widen(narrow(normal(9000, 2), BF16), BF16),
    "five values": np.random.default_rng(3).integers(-2, 3, 9000).astype(np.float32),
    "mostly zero": np.where(np.arange(9000) % 7 == 0, normal(9000, 4), 0).astype(np.float32),
    "all zero": np.zeros(9000, np.float32),
    "all equal": np.full(9000, -0.125, np.float32),
    "denormal": (normal(9000, 5) * np.float32(1e-40)).astype(np.float32),
    "one": np.array([3.0], np.float32),
}


@pytest.mark.parametrize("values", MANY_EQUAL.values(), ids=MANY_EQUAL)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 1.0])
def test_the_threshold_is_the_one_a_sort_finds(values: np.ndarray, share: float) -> None:
    keep = max(1, round(share * values.size))
    expert = held(values, F32)
    bits, quota = threshold(expert, None, keep)
    magnitude = values.view(np.uint32) & np.uint32(0x7FFFFFFF)
    ordered = np.sort(magnitude)[::-1]
    assert bits == ordered[keep - 1]
    assert quota == keep - (magnitude > bits).sum()
    done = combine([expert], [1.0], modes=[1], thresholds=[bits], quotas=[quota], chunk=BLOCK)
    assert (done.stored == trimmed(values, bits, quota)).all()
    kept = trimmed(np.where(values == 0, np.float32(1), values), 0, 0)
    assert kept.size == values.size
    assert (done.stored != 0).sum() == min(keep, (values != 0).sum())


def test_the_threshold_counts_scaled_differences() -> None:
    n = 3 * BLOCK + 11
    reference, expert = family(n, (BF16, F16))
    delta = (expert.values - reference.values) * np.float32(0.3)
    bits, quota = threshold(expert, reference, n // 5, 0.3)
    magnitude = delta.view(np.uint32) & np.uint32(0x7FFFFFFF)
    assert bits == np.sort(magnitude)[::-1][n // 5 - 1]
    sums = np.zeros(2)
    left = kernels.sum_magnitudes(
        n, reference.at(0), reference.dtype, expert.at(0), expert.dtype, np.float32(0.3),
        np.uint32(bits), quota, sums,
    )  # fmt: skip
    assert left == 0
    assert sums[0] == pytest.approx(np.abs(delta.astype(np.float64)).sum(), rel=1e-9)
    kept = np.abs(trimmed(delta, bits, quota).astype(np.float64)).sum()
    assert sums[1] == pytest.approx(kept, rel=1e-9)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_find_bin_is_a_sort(table: list[int], draw: st.DataObject) -> None:
    if not sum(table):
        return
    keep = draw.draw(st.integers(1, sum(table)))
    values = np.repeat(np.arange(len(table)), table)[::-1]
    place, quota = find_bin(np.array(table), keep)
    assert place == values[keep - 1]
    assert quota == keep - (values > place).sum()


def test_keep_all_keeps_all() -> None:
    values = normal(5000, 1)
    done = combine(
        [held(values, F32)], [1.0], modes=[1], thresholds=[KEEP_ALL.bits], quotas=[KEEP_ALL.quota]
    )
    assert (done.stored == values).all()


# Noise


def test_dropping_keeps_the_share_asked_for_and_no_pattern() -> None:
    n = 1 << 18
    ones = held(np.ones(n), F32)
    kept = {
        key: combine([ones], [1.0], modes=[2], thresholds=[1 << 30], keys=[key]).stored != 0
        for key in KEYS
    }
    for mask in kept.values():
        assert mask.mean() == pytest.approx(0.25, abs=0.005)
        for step in (1, 2, 32, 2048):
            both_kept = (mask[step:] & mask[:-step]).mean()
            assert both_kept == pytest.approx(1 / 16, abs=0.004), step
    first, second, _ = kept.values()
    assert (first & second).mean() == pytest.approx(1 / 16, abs=0.004)


# LoRA


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_add_lora_is_base_plus_product_wherever_a_chunk_begins(dtype: int, rank: int) -> None:
    rows, columns = 37, 211
    base = held(normal(rows * columns, 1), dtype, 1)
    left, right = normal(rows * rank, 2).reshape(rows, rank), normal(rank * columns, 3)
    right = right.reshape(rank, columns)

    def part(first: int, n: int) -> np.ndarray:
        values = np.full(n + 4, np.float32(9))
        kernels.add_lora(n, first, columns, base.at(first), dtype, left, right, values)
        assert (values[n:] == 9).all()
        return values[:n]

    whole = part(0, rows * columns)
    exact = base.values.astype(np.float64) + (left.astype(np.float64) @ right).reshape(-1)
    np.testing.assert_allclose(whole, exact, rtol=0, atol=1e-5)
    for cut in (1, 210, 211, 212, BLOCK, 5000):
        pieces = np.concatenate([part(0, cut), part(cut, rows * columns - cut)])
        assert (pieces == whole).all(), cut
