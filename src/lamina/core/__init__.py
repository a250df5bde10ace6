"""Nouns and file forms: pydantic, yaml and the standard library only."""
