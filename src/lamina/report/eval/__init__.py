"""Results of `lamina eval`: a page of their own, a section of a run's page, tables in a terminal.

Reads files alone: what is missing or damaged is told, never an error.
"""
