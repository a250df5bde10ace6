"""A picture as the templates want it."""

from dataclasses import dataclass

from markupsafe import Markup

from lamina.report.tables import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture, its caption, and the table of its numbers, folded away."""

    title: str
    note: str
    drawing: Markup
    table: Table | None = None
