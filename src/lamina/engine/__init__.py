"""A model in memory: load it, train it on packed rows, measure its losses, sample from it.

Importing this package loads nothing heavy; its modules import torch and are imported by jobs only
when a run needs them.
"""
