"""Merging as formulas: the methods, and the YAML that merge users know."""
