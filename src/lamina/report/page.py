"""The page: one HTML file with everything in it, no script, no link, no font from elsewhere.

The same files give the same bytes: nothing here asks for the time, the machine or a random number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lamina.core.errors import DataError
from lamina.core.manifest import write_atomic
from lamina.report import facts, formats, grid, pictures, tables, verdicts, words
from lamina.report.nouns import Expert, Metrics, Run
from lamina.report.read import read_metrics, read_run, runs_below

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Figures:
    """The pictures of one expert."""

    name: str
    note: str
    panels: tuple[tuple[pictures.Panel, Markup], ...]
    table: tables.Table


@dataclass(frozen=True, slots=True)
class Section:
    """One merge, as the template wants it."""

    run: Run
    anchor: str
    title: str
    reading: list[verdicts.Part]
    figures: tuple[Figures, ...]
    where: tuple[tuple[str, Markup], ...]
    roles: tuple[str, ...]
    facts: list[facts.Fact]
    inputs: tables.Table | None
    outputs: tables.Table | None
    command: str
    vector: str


def write_report(folder: Path, manifest: Mapping[str, object] | None = None) -> Path:
    """Write `report.html` into a run folder and return its path.

    `manifest` may be given where the page is written before the manifest, which comes last.

    Raises:
        DataError: the folder holds no run, or a file of it cannot be read.
        OutputError: the page cannot be written.
    """
    run = read_run(folder, manifest)
    section = _section(run, words.title_of(run), "merge")
    losses = (
        _losses(run.metrics, verdicts.merges_of(run.metrics, run.inputs)) if run.metrics else {}
    )
    html = _render(
        title=section.title, kicker=_kicker(run), sections=[section], demo=False, **losses
    )
    return _write(folder, html)


def write_demo_page(folder: Path, sections: Mapping[str, str | Path] | None = None) -> Path:
    """Write `report.html` for several merges: the comparison on top, then a section for each.

    `sections` maps each title to a folder (relative ones lie in `folder`), in the order of the
    page; by default every sub-folder that holds a manifest, by name.
    """
    if sections is None:
        sections = {path.name.replace("_", " "): path.resolve() for path in runs_below(folder)}
    if not sections:
        raise DataError(
            f"{folder}: no folder in it holds a manifest.json. Run `lamina demo` again."
        )
    made = [
        _section(read_run(folder / path), formats.plain(title), f"merge-{place}", part=True)
        for place, (title, path) in enumerate(sections.items(), start=1)
    ]
    metrics = read_metrics(folder)
    inputs = {name for section in made for name in section.run.inputs}
    merges = verdicts.merges_of(metrics, inputs) if metrics else []
    losses = _losses(metrics, merges) if metrics else {}
    first = words.overview([(section.title, section.run) for section in made])
    losses["parts"] = [first, *(verdicts.measured_reading(metrics, merges) if metrics else [])]
    title = "One family, merged and measured"
    html = _render(title=title, kicker="lamina demo", sections=made, demo=True, **losses)
    return _write(folder, html)


def _render(
    *, title: str, kicker: str, sections: list[Section], demo: bool, **losses: object
) -> str:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    runs = [(section.title, section.run) for section in sections]
    values: dict[str, object] = {
        "warnings": words.warnings_of(runs),
        "f": formats,
        "title": title,
        "kicker": kicker,
        "sections": sections,
        "demo": demo,
        "style": Markup((HERE / "style.css").read_text("utf-8")),
        "metrics": None,
        "parts": [],
        "losses": None,
        "perplexities": None,
        "forget": None,
        "controls": None,
    }
    return environment.get_template("template.html.j2").render(values | losses)


def _losses(metrics: Metrics, merges: Sequence[str]) -> dict[str, object]:
    forget = metrics.forget
    return {
        "metrics": metrics,
        "losses": tables.losses(metrics, merges),
        "perplexities": tables.perplexities(metrics),
        "forget": forget
        and (forget, tables.losses(forget.metrics, []) if forget.metrics else None),
        "controls": metrics.controls
        and (
            metrics.controls,
            pictures.controls(metrics.controls.rows),
            tables.controls(metrics.controls),
        ),
    }


def _kicker(run: Run) -> str:
    kind = {"merge": "merge", "forget": "forgetting"}.get(run.kind, run.kind)
    return f"lamina · {kind} · {run.name}"


def _section(run: Run, title: str, anchor: str, *, part: bool = False) -> Section:
    threshold = words.threshold_of(run)
    drawn = [expert for expert in run.experts if expert.values]
    roles = {role for expert in run.experts for role, share in expert.where.items() if share > 0}
    return Section(
        run=run,
        anchor=anchor,
        title=title,
        reading=words.reading(run, losses_elsewhere=part),
        figures=tuple(_figures(expert, run.experts, threshold) for expert in drawn),
        where=tuple((one.name, pictures.where(one)) for one in run.experts if one.where),
        roles=tuple(role for role in pictures.ROLES if role in roles),
        facts=facts.facts(run, cost=part),
        inputs=facts.inputs(run),
        outputs=facts.outputs(run),
        command=facts.AGAIN,
        vector="update" if words.adds_updates(run) else "model",
    )


def _figures(expert: Expert, experts: Sequence[Expert], threshold: float | None) -> Figures:
    shown = pictures.panels(expert, experts, threshold)
    notes = [f"weight {formats.short(expert.weight)}"] if expert.weight is not None else []
    if expert.coefficients and grid.one_for_all(expert):
        (same,) = set(expert.coefficients.values())
        notes.append(f"the same coefficient, {formats.short(same)}, for every layer")
    return Figures(
        name=expert.name,
        note="; ".join(notes),
        panels=tuple((panel, pictures.draw(panel, expert)) for panel in shown),
        table=tables.layers(expert),
    )


def _write(folder: Path, html: str) -> Path:
    path = folder / "report.html"
    write_atomic(path, html.encode())
    return path
