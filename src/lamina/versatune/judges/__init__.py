"""Who says of which domain a text is. One interface: texts in, rows of probabilities out."""

from lamina.versatune.judges.interface import Judge, JudgeStopped, make_judge

__all__ = ["Judge", "JudgeStopped", "make_judge"]
