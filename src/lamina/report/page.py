"""The page: one HTML file with everything in it, no script, no link, no font from elsewhere.

The same files give the same bytes: nothing here asks for the time, the machine or a random number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lamina.core.errors import DataError
from lamina.core.manifest import write_atomic
from lamina.report import demo_layers, facts, formats, grid, pictures, tables, verdicts, words
from lamina.report.eval import section as eval_section
from lamina.report.eval.read import read_evaluation
from lamina.report.nouns import Expert, Metrics, Run
from lamina.report.rank import section as rank_section
from lamina.report.rank import words as rank_words
from lamina.report.rank.read import is_rank, read_ranked
from lamina.report.read import NO_PAGE, read_metrics, read_run, runs_below
from lamina.report.tune import paint
from lamina.report.tune import section as tune_section
from lamina.report.tune import words as tune_words
from lamina.report.tune.read import kind_of, read_tuned, said_kind

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


AnySection = Section | tune_section.Section | rank_section.Section


def write_report(folder: Path, manifest: Mapping[str, object] | None = None) -> Path:
    """Write `report.html` into a run folder and return its path.

    `manifest` may be given where the page is written before the manifest, which comes last.

    Raises:
        DataError: the folder holds no run, or a file of it cannot be read.
        OutputError: the page cannot be written.
    """
    if is_rank(folder, manifest):
        return _write_ranked(folder, manifest)
    if kind_of(folder, manifest) is not None:
        return _write_tuned(folder, manifest)
    run = read_run(folder, manifest)
    section = _section(run, words.title_of(run), "merge")
    losses = (
        _losses(run.metrics, verdicts.merges_of(run.metrics, run.inputs)) if run.metrics else {}
    )
    html = _render(
        title=section.title,
        kicker=_kicker(run),
        sections=[section],
        demo=False,
        warnings=words.warnings_of([(section.title, run)]),
        evaluated=eval_section.of_run(folder),
        **losses,
    )
    return _write(folder, html)


def write_eval_page(result: Path) -> Path:
    """Write NAME.html beside a result NAME.json of `lamina eval`, and return its path.

    What is odd in the file is told on the page.

    Raises:
        OutputError: the page cannot be written.
    """
    made = eval_section.make(read_evaluation(result))
    html = _render(
        title=made.title,
        kicker=f"lamina · evaluation · {made.read.name}",
        sections=[],
        demo=False,
        warnings=made.warnings,
        evaluated=made,
    )
    path = result.with_suffix(".html")
    write_atomic(path, html.encode())
    return path


def _write_tuned(folder: Path, manifest: Mapping[str, object] | None) -> Path:
    """The page of a tuning or a detection."""
    read = read_tuned(folder, manifest)
    title = tune_words.title_of(read)
    made = tune_section.make(read, title=title, anchor="run")
    warnings = tune_words.warnings_of(read)
    html = _render(
        title=title,
        kicker=_kicker(read.run),
        sections=[made],
        demo=False,
        warnings=warnings,
        fills=paint.defs(len(read.domains)),
        evaluated=eval_section.of_run(folder),
    )
    return _write(folder, html)


def _write_ranked(folder: Path, manifest: Mapping[str, object] | None) -> Path:
    """The page of a ranking."""
    read = read_ranked(folder, manifest)
    title = rank_words.title_of(read)
    made = rank_section.make(read, title=title, anchor="run")
    html = _render(
        title=title,
        kicker=_kicker(read.run),
        sections=[made],
        demo=False,
        warnings=rank_words.warnings_of(read),
        fills=paint.defs(len(made.tuned.domains)),
        evaluated=eval_section.of_run(folder),
    )
    return _write(folder, html)


def write_demo_page(folder: Path, sections: Mapping[str, str | Path] | None = None) -> Path:
    """Write `report.html` for several runs: the comparison on top, then a section for each.

    `sections` maps each title to a folder (relative ones lie in `folder`), in the order of the
    page; by default every sub-folder that holds a manifest, by name. A merge is shown whole; a
    tuning or a detection in short, with a link to its own page where that is there.
    """
    if sections is None:
        sections = {
            path.name.replace("_", " "): path.resolve()
            for path in runs_below(folder)
            if said_kind(path) not in NO_PAGE
        }
    if not sections:
        raise DataError(
            f"{folder}: no folder in it holds a manifest.json. Run `lamina demo` again."
        )
    merged: list[Section] = []
    tuned: list[tune_section.Section] = []
    ranked: list[rank_section.Section] = []
    made: list[AnySection] = []
    warnings: list[str] = []
    for place, (title, path) in enumerate(sections.items(), start=1):
        title, anchor = formats.plain(title), f"run-{place}"
        if is_rank(folder / path):
            ranking = read_ranked(folder / path)
            link = _link(folder, folder / path)
            ranked.append(
                rank_section.make(ranking, title=title, anchor=anchor, link=link, cost=True)
            )
            made.append(ranked[-1])
            warnings += [f"{title}: {one}" for one in rank_words.warnings_of(ranking)]
            continue
        if kind_of(folder / path) is None:
            merged.append(_section(read_run(folder / path), title, anchor, part=True))
            made.append(merged[-1])
            continue
        read = read_tuned(folder / path)
        link = _link(folder, folder / path)
        tuned.append(tune_section.make(read, title=title, anchor=anchor, link=link, cost=True))
        made.append(tuned[-1])
        warnings += [f"{title}: {one}" for one in tune_words.warnings_of(read)]
    metrics = read_metrics(folder)
    inputs = {name for section in merged for name in section.run.inputs}
    merges = verdicts.merges_of(metrics, inputs) if metrics else []
    losses = _losses(metrics, merges) if metrics else {}
    runs = [(section.title, section.run) for section in merged]
    told = [words.overview(runs)] if runs else []
    told += [part for one in made for part in _in_short(one)]
    layers = demo_layers.read_demo_layers(folder)
    losses["layers"] = layers and (layers, demo_layers.table(layers), demo_layers.parts(layers))
    losses["parts"] = [*told, *(verdicts.measured_reading(metrics, merges) if metrics else [])]
    losses["warnings"] = [*(words.warnings_of(runs) if runs else []), *warnings]
    html = _render(
        title=_demo_title(merged, tuned, ranked),
        kicker="lamina demo",
        sections=made,
        demo=True,
        fills=paint.defs(max((len(one.tuned.domains) for one in [*tuned, *ranked]), default=0)),
        **losses,
    )
    return _write(folder, html)


def _in_short(section: AnySection) -> list[verdicts.Part]:
    """What the top of a page of many says of a tuning or a ranking; merges are told together."""
    if isinstance(section, rank_section.Section):
        return [verdicts.Part(section.title, rank_words.in_short(section.ranked))]
    if isinstance(section, tune_section.Section):
        return tune_words.in_short([(section.title, section.tuned)])
    return []


def _demo_title(
    merged: Sequence[Section],
    tuned: Sequence[tune_section.Section],
    ranked: Sequence[rank_section.Section],
) -> str:
    kinds = {one.run.kind for one in tuned}
    said = [
        *(["merged"] if merged else []),
        *(["detected"] if "detect" in kinds else []),
        *(["ranked"] if ranked else []),
        *(["tuned"] if "tune" in kinds else []),
        "measured",
    ]
    return f"One family, {formats.listing(said)}"


def _link(folder: Path, run: Path) -> str:
    """The way from one page to another, where that page is there and below."""
    page, home = (run / "report.html").resolve(), folder.resolve()
    if not page.is_file() or not page.is_relative_to(home):
        return ""
    return quote(page.relative_to(home).as_posix())


def _render(
    *,
    title: str,
    kicker: str,
    sections: Sequence[AnySection],
    demo: bool,
    **given: object,
) -> str:
    styles = ["style.css", *(["tuned.css", "ranked.css"] if given.get("fills") else [])]
    if given.get("evaluated"):
        styles = [*dict.fromkeys([*styles, "tuned.css"]), "evaluated.css"]
    values: dict[str, object] = {
        "warnings": [],
        "fills": "",
        "swatch": paint.swatch,
        "f": formats,
        "title": title,
        "kicker": kicker,
        "sections": sections,
        "demo": demo,
        "style": Markup("".join((HERE / name).read_text("utf-8") for name in styles)),
        "metrics": None,
        "parts": [],
        "losses": None,
        "perplexities": None,
        "forget": None,
        "controls": None,
        "layers": None,
        "evaluated": None,
    }
    return _environment().get_template("template.html.j2").render(values | given)


@cache
def _environment() -> Environment:
    """The templates, compiled once."""
    return Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


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
    kinds = {"forget": "forgetting", "tune": "tuning", "detect": "detection", "rank": "ranking"}
    kind = kinds.get(run.kind, run.kind)
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
