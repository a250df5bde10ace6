"""Checkpoints out of core: headers, lazy readers, fused kernels, the resumable writer."""
