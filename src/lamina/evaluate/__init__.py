"""What a model makes of a text: losses, perplexities, and whether two models truly differ.

Importing this floor loads neither torch nor transformers; only measuring does.
"""
