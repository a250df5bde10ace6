"""The demo's tunings of some modules, for a terminal: the table and the words of its page."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from lamina.report import demo_layers
from lamina.report.terminal import draw_table, reading


def render_demo_layers(folder: Path) -> RenderableType:
    """The table and what it says; nothing where a demo has no such tunings.

    Raises:
        DataError: `layers.json` cannot be read.
    """
    read = demo_layers.read_demo_layers(folder)
    if read is None:
        return Text("")
    shown = demo_layers.table(read)
    note = Text(shown.note, style="dim")
    return Group(reading(demo_layers.parts(read)), Text(""), draw_table(shown), note, Text(""))
