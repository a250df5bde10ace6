"""What TIES and DARE do to a task vector, in numbers for the kernel: thresholds and factors."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from lamina.merge.methods import DROP, TRIM, TensorNumbers, kept_count
from lamina.merge.nouns import MergeRecipe
from lamina.merge.sources import Sources, address_of
from lamina.merge.thresholds import BINS, KEEP_ALL, Threshold, find_bin
from lamina.weights import kernels
from lamina.weights.codes import BLOCK
from lamina.weights.stream import Scratch, chunks

ALL = np.iinfo(np.int64).max
WINDOW, SAMPLE_PIECES, SAMPLE_PIECE = 4, 32, 2048
"""A sample of 65,536 values places a threshold within a bin (0.8 % of its size) or two."""


def sparsifier(
    sources: Sources,
    recipe: MergeRecipe,
    thresholds: Mapping[tuple[str, str], Threshold],
    name: str,
    numbers: TensorNumbers,
    limits: list[int],
    total: int,
    used: list[bool],
    scratch: Scratch,
) -> tuple[list[int], list[Threshold], list[float]]:
    """Per expert: mode, threshold and quota, rescaling factor."""
    modes, bounds, rescales = [], [], []
    for k, expert in enumerate(sources.experts):
        density, mode, bound, rescale = numbers.densities[k], numbers.mode, KEEP_ALL, 1.0
        if mode == TRIM and used[k] and (thresholds or density < 1.0):
            bound = thresholds.get((name, expert)) or tensor_threshold(
                sources, expert, name, numbers.scales[k], density, limits[k], scratch
            )
            if recipe.rescale:
                rescale = _kept_share(
                    sources, expert, name, numbers.scales[k], bound, limits[k], scratch
                )
        elif mode == DROP and density < 1.0:
            bound = Threshold(int(density * 2**32), ALL)
            rescale = 1.0 / density if recipe.rescale else 1.0
        else:
            mode = kernels.WHOLE
        modes.append(mode)
        bounds.append(bound)
        rescales.append(rescale)
    return modes, bounds, rescales


def _pairs(
    sources: Sources,
    expert: str,
    name: str,
    end: int,
    scratch: Scratch,
    places: Iterable[tuple[int, int]] | None = None,
) -> Iterator[tuple[int, int, int, int, int]]:
    """(n, reference, its dtype, expert, its dtype) for every chunk of a tensor, or some places.

    Pages go back after each, up to the next place: the system maps more than what is read.
    """
    source, reference = sources.experts[expert], sources.reference
    buffer = scratch.get("expert") if source.needs_scratch else None
    asked = list(chunks(end) if places is None else places)
    following = [first for first, _ in asked[1:]] + [end]
    for (first, n), after in zip(asked, following, strict=True):
        origin = address_of(reference, name, first, n, end, None)
        kind = 0 if reference is None else reference.dtype(name)
        yield n, origin, kind, source.chunk(name, first, n, buffer), source.dtype(name)
        for read in (source, reference):
            if read is not None:
                read.release(name, first, after - first)


def histogram(
    sources: Sources,
    expert: str,
    name: str,
    scale: float,
    end: int,
    scratch: Scratch,
    counts: np.ndarray,
    within: int,
) -> None:
    """Add one tensor of one expert to a histogram of magnitudes (`kernels.count_magnitudes`)."""
    for pair in _pairs(sources, expert, name, end, scratch):
        kernels.count_magnitudes(
            *pair,
            scale,
            counts,
            within,
        )


def tensor_threshold(
    sources: Sources,
    expert: str,
    name: str,
    scale: float,
    density: float,
    end: int,
    scratch: Scratch,
) -> Threshold:
    """The exact threshold that keeps a share of one tensor's values.

    A sample tells about where it lies, one pass over the tensor then counts all values coarsely and
    those near that place exactly. Where the sample misled, a second pass counts the right place.
    """
    if end == 0:
        return KEEP_ALL
    keep = kept_count(density, end)
    upper_counts = np.zeros(BINS, np.int64)
    near = max(0, _guess(sources, expert, name, scale, density, end, scratch) - WINDOW // 2)
    lower_counts = np.zeros((WINDOW, BINS), np.int64)
    for pair in _pairs(sources, expert, name, end, scratch):
        kernels.count_both(
            *pair,
            scale,
            upper_counts,
            near,
            lower_counts,
        )
    upper, left = find_bin(upper_counts, keep)
    if near <= upper < near + WINDOW:
        counts = lower_counts[upper - near]
    else:
        counts = np.zeros(BINS, np.int64)
        histogram(sources, expert, name, scale, end, scratch, counts, upper)
    lower, quota = find_bin(counts, left)
    return Threshold(upper << 16 | lower, quota)


def _guess(
    sources: Sources,
    expert: str,
    name: str,
    scale: float,
    density: float,
    end: int,
    scratch: Scratch,
) -> int:
    """The bin in which the threshold lies in a sample: pieces spread evenly over the tensor."""
    counts, seen = np.zeros(BINS, np.int64), 0
    step = max(SAMPLE_PIECE, end // SAMPLE_PIECES // BLOCK * BLOCK)
    places = [(first, min(SAMPLE_PIECE, end - first)) for first in range(0, end, step)]
    for pair in _pairs(sources, expert, name, end, scratch, places):
        kernels.count_magnitudes(
            *pair,
            scale,
            counts,
            -1,
        )
        seen += pair[0]
    return find_bin(counts, kept_count(density, seen))[0]


def _kept_share(
    sources: Sources,
    expert: str,
    name: str,
    scale: float,
    bound: Threshold,
    end: int,
    scratch: Scratch,
) -> float:
    """What a trimmed vector is multiplied by to have the L1 norm it had before (`rescale`)."""
    sums, quota = np.zeros(2), bound.quota
    for pair in _pairs(sources, expert, name, end, scratch):
        quota = kernels.sum_magnitudes(
            *pair,
            scale,
            bound.bits,
            quota,
            sums,
        )
    return float(sums[0] / sums[1]) if min(sums) >= 1e-7 else 1.0
