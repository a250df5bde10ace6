"""What a run counted and cost, what went in and came out, and how to run it again."""

from collections.abc import Mapping
from dataclasses import dataclass

from lamina.report import formats
from lamina.report.nouns import Run
from lamina.report.tables import Cell, Row, Table

AGAIN = "lamina merge recipe.yaml ../again"
"""What to type in the folder of the page to do it again: a merge after `lamina forget` too, as the
recipe there has the minus in it.
"""
_FIRST = ("path", "kind", "license", "tensors", "bytes", "fingerprint", "checksum")
_NAMES = {"license": "licence", "bytes": "size"}


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str
    note: str = ""


def facts(run: Run, *, cost: bool = False) -> list[Fact]:
    """The counts that every merge keeps, and its `cost` in time; what is missing is left out."""
    results = {**run.results, **(run.cost if cost else {})}

    def get(key: str) -> float | None:
        value = results.get(key)
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if ok else None  # type: ignore[arg-type]

    found: list[Fact] = []
    tensors, changed = get("tensors"), get("tensors_changed")
    if changed is not None:
        note = f"of {formats.count(tensors)}" if tensors is not None else ""
        found.append(Fact("Tensors changed", formats.count(changed), note))
    values, moved = get("values"), get("values_changed")
    if moved is not None:
        note = f"{formats.percent(moved / values)} of all" if values else ""
        found.append(Fact("Values changed", formats.count(moved), note))
    vanished = get("values_vanished")
    if vanished is not None:
        share = f"{formats.percent(vanished / values)} of all, " if values and vanished else ""
        note = f"{share}their update lost in rounding" if vanished else "no update lost in rounding"
        found.append(Fact("Values vanished", formats.count(vanished), note))
    relative = get("relative_change")
    if relative is not None:
        found.append(
            Fact(
                "Relative change", formats.percent(relative), "norm of the change over the target's"
            )
        )
    read, written = get("bytes_read"), get("bytes_written")
    if read is not None or written is not None:
        found.append(Fact("Bytes read", formats.size(read), f"written: {formats.size(written)}"))
    seconds, cpu = get("seconds"), get("cpu_seconds")
    if seconds is not None:
        note = f"CPU: {formats.duration(cpu)}" if cpu is not None else ""
        found.append(Fact("Time", formats.duration(seconds), note))
    peak = get("peak_rss_bytes")
    if peak is not None:
        found.append(Fact("Peak memory", formats.size(peak), "resident"))
    return found


def inputs(run: Run) -> Table | None:
    order = ["base", "instruct", "reference", "target", *(expert.name for expert in run.experts)]
    names = sorted(run.inputs, key=lambda one: order.index(one) if one in order else len(order))
    return _files("What went in", {name: run.inputs[name] for name in names})


def outputs(run: Run) -> Table | None:
    return _files("What came out", run.outputs)


def _files(caption: str, files: Mapping[str, Mapping[str, object]]) -> Table | None:
    if not files:
        return None
    there = {
        key
        for file in files.values()
        for key, value in file.items()
        if _simple(value) or key == "license"
    }
    keys = [*(key for key in _FIRST if key in there), *sorted(there - set(_FIRST))]
    rows = [
        Row(name, tuple(_cell(key, file.get(key)) for key in keys)) for name, file in files.items()
    ]
    return Table(
        caption, tuple(_NAMES.get(key, key.replace("_", " ")) for key in keys), tuple(rows)
    )


def _simple(value: object) -> bool:
    return isinstance(value, str | int | float) and value != ""


def _cell(key: str, value: object) -> Cell:
    if not _simple(value):
        return Cell("not named" if key == "license" else "–", numeric=False)
    if key == "bytes" and isinstance(value, int | float):
        return Cell(formats.size(value))
    if isinstance(value, bool):
        return Cell("yes" if value else "no", numeric=False)
    if isinstance(value, int | float):
        return Cell(formats.short(value))
    return Cell(
        str(value), numeric=False, tone="code" if key in ("fingerprint", "checksum", "path") else ""
    )
