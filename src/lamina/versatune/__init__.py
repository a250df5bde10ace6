"""Which data, when? VersaTune (arXiv:2411.11266): detect, compose, follow, grow."""
