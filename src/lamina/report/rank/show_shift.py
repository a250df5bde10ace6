"""What `lamina shift` found, in a terminal: which tokens the base would not have said."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lamina.report.formats import count, percent
from lamina.report.soft import Soft, soft_json
from lamina.report.terminal import Bar, new_table, reading
from lamina.report.tune.words import sentence
from lamina.report.verdicts import Part

_CLASSES = ("unshifted", "marginal", "shifted")
_MOST = 12


def render_shift(folder: Path) -> RenderableType:
    """Fractions of tokens by set of modules, by position for the base alone, and the words."""
    problems: list[str] = []
    found = soft_json(folder / "shift.json", problems)
    facts = soft_json(folder / "manifest.json", problems)
    sets = found.get("sets").listed()
    parts: list[RenderableType] = [
        Text(f"What {_name(found, 'model')} says that its base would not", style="bold")
    ]
    if not sets:
        problems.append("shift.json is missing or names no set of modules.")
    warnings = [sentence(one) for one in (*problems, *facts.get("warnings").texts())]
    if sets:
        parts += [Text(""), reading([Part("What was found", _words(found, sets[0]))])]
        parts += [Text(""), _table("The base with these modules of the model in it", sets)]
        places = sets[0].get("by_position").listed()
        if places:
            parts += [Text(""), _table("By position in the answer, the base alone", places)]
    parts[1:1] = [Text(f"! {one}", style="yellow") for one in dict.fromkeys(warnings)]
    told = [
        f"{one.get('token').text()!r} {count(one.get('shifted').number())} of "
        f"{count(one.get('said').number())}"
        for one in found.get("most_shifted").listed()[:_MOST]
    ]
    if told:
        parts += [Text(""), Text("Shifted most often: " + ", ".join(told))]
    return Group(*parts)


def _name(found: Soft, key: str) -> str:
    return found.get(key).text().rstrip("/").rpartition("/")[2] or "the model"


def _words(found: Soft, alone: Soft) -> str:
    shares = {key: alone.get("fractions").get(key).number() for key in _CLASSES}
    return (
        f"Of {count(alone.get('tokens').number())} tokens in "
        f"{count(found.get('prompts').number())} answers, {_name(found, 'base')} alone has "
        f"{percent(shares['unshifted'])} as its first choice (unshifted), "
        f"{percent(shares['marginal'])} in second or third place, and {percent(shares['shifted'])} "
        "further down (shifted)."
    )


def _table(title: str, rows: list[Soft]) -> Table:
    table = new_table(title)
    for head in ("", "tokens", *_CLASSES):
        table.add_column(head, justify="right" if head else "left", no_wrap=bool(head))
    table.add_column("shifted")
    for row in rows:
        shares = [row.get("fractions").get(key).number() for key in _CLASSES]
        table.add_row(
            Text(_row_words(row)),
            Text(count(row.get("tokens").number())),
            *(Text(percent(share)) for share in shares),
            Bar(shares[2] or 0.0),
        )
    return table


def _row_words(row: Soft) -> str:
    name = row.get("name").text()
    if not name:
        first, last = row.get("first").number(), row.get("last").number()
        return f"{count(first)} to {count(last)}"
    modules = row.get("modules").number()
    return f"{name} ({count(modules)} modules)" if modules else f"{name}, nothing of the model"
