"""The page of a ranking of modules, and the part of a tuning's page that shows its plan.

Reads files alone: what is missing or damaged is told on the page, never an error.
"""
