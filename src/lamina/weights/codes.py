"""Numbers that the kernels and their callers share. No numpy, no numba."""

F32, F16, BF16 = 0, 1, 2
"""Codes of the three dtypes a kernel reads and writes."""

BLOCK = 2048
"""Elements worked on at a time: every fp32 buffer of a block (8 KB) stays in the first-level
cache."""
LANES = 32
STRIPE_BYTES = 8 * LANES
"""A checksum runs over stripes of this size: 32 lanes of 64-bit words."""

WHOLE, TRIM, DROP = 0, 1, 2
"""What happens to a delta before it is weighted: nothing, trim (TIES), random drop (DARE)."""

CHANGED, VANISHED, NONFINITE_OUT, NONFINITE_IN = 0, 1, 2, 3
"""Columns of `counts`; NONFINITE_IN + k belongs to expert k, NONFINITE_IN + num_experts to the
target."""
