"""LATA (arXiv 2502.20186): how much of each layer to merge, or to take away."""
