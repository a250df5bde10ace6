"""How far two rankings agree, beside what chance would give."""
