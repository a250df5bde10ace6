"""ILA: which linear modules matter for what an adapter learnt (arXiv:2410.17875)."""
