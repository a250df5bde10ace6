"""Runs that train or sample, shown: what `lamina tune` and `lamina detect` leave behind.

A run that is going on, or that was killed, has only some of its files, and a torn last line is no
surprise. So nothing here refuses: what is missing or damaged is told, the rest is shown.
"""
