"""Reads `models:` and `sweep:` of a merge file: which models are merged, by what names and weights.

mergekit lets the base stand among the models or not; here it is an expert only for `linear`, where
it is an input as any other. An expert's own settings come before those at the top level of the
file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lamina.core.errors import nearest
from lamina.merge.keys import PARAMETERS, PER_MODEL, PER_MODEL_TEXTS, RULES, check_parameters
from lamina.merge.nouns import Method, ModelEntry, SweepSetting
from lamina.merge.section import Section
from lamina.merge.values import Problems, Value, is_constant, numbers_in

# What other models of a merge are called; for linear the base is an input as any other. LATA's
# reference is told as `instruct`, and its controls call the merge `LATA`.
ROLES = ("target", "reference", "base")
LATA_ROLES = (*ROLES, "instruct", "LATA")


SWEEP_FILES = ("journal.jsonl", "log.jsonl", "manifest.json", "recipe.yaml", "run")
"""Files beside the folders of a sweep's settings, while it is written or afterwards."""


@dataclass(frozen=True, slots=True)
class MergeFile:
    """A file while it is read."""

    top: Section
    parameters: Section
    method: Method | None
    required: frozenset[str]
    defaults: Mapping[str, Value | None]
    """`weight` and `density` of the top level, read once."""
    texts: Mapping[str, str | None]
    """`scores` and `expert` of the top level."""

    @property
    def by_scores(self) -> bool:
        """Whether a file ranks the layers, so that no base is needed to measure them."""
        return self.method == "lata" and self.parameters.given.get("rule") == "scores"

    @property
    def other_rule(self) -> bool:
        """Whether the layers are ranked by a known rule that takes no file, or by none."""
        return self.parameters.given.get("rule", RULES[0]) in RULES and not self.by_scores


def read_models(file: MergeFile) -> tuple[ModelEntry, ...]:
    """The experts (for linear: all inputs) with unique names, without the base where it is no
    expert.
    """
    raw = file.top.given.get("models")
    if not isinstance(raw, list) or not raw:
        if "slices" not in file.top and "modules" not in file.top:
            file.top.wrong(
                "models", "is missing or empty; list what is merged, as `- model: ./folder`"
            )
        return ()
    entries: list[ModelEntry] = []
    for place, item in enumerate(raw):
        section = Section.of(item, f"models[{place}].", file.top.problems)
        entry = _read_entry(file, section) if isinstance(item, Mapping) else None
        if entry is None:
            continue
        if any(_same(entry.model, other.model) for other in entries):
            section.wrong(
                "model", f"`{entry.model}` is listed twice; list it once, with the whole weight"
            )
        entries.append(entry)
    return _named(file.method, _without_base(file, entries), file.top.problems)


def _read_entry(file: MergeFile, section: Section) -> ModelEntry | None:
    """One entry; its weight and density fall back on the `parameters:` at the top level."""
    for key in section.given:
        if key in PER_MODEL:
            section.wrong(key, "belongs under this model's `parameters:`")
    keys = ("model", "name", "parameters", *PER_MODEL)
    section.check_known(keys)
    path = section.text("model", "a model folder")
    name = section.name("name")
    own = section.below("parameters")
    base = file.top.given.get("base_model")
    if file.method != "linear" and path is not None and isinstance(base, str) and _same(path, base):
        if own.given:
            section.problems.warn(
                f"{section.at}parameters", "has no effect: this is the base model"
            )
        return ModelEntry(model=path, name=name or "")
    check_parameters(file.method, own, of_a_model=True)
    takes = [key for key in PER_MODEL if file.method is None or key in PARAMETERS[file.method]]
    values = {key: _with_default(own.value(key), file.defaults[key]) for key in takes}
    outside = [n for n in numbers_in(values.get("density") or ()) if not 0 < n <= 1]
    if outside:
        own.wrong("density", f"is {outside[0]:g}; it is the share kept, above 0 and at most 1")
    swept = "sweep" in file.top
    given = "weight" in file.parameters or "weight" in section
    given = given or any(nearest(key, PER_MODEL) == "weight" for key in own.given)
    if "weight" in takes and "weight" in file.required and not given and not swept:
        own.wrong("weight", f"`{path}` has no weight; add one, for instance `weight: 0.5`")
    texts = {key: own.text(key, "a text") or file.texts[key] for key in PER_MODEL_TEXTS}
    _check_texts(file, own, path)
    if path is None:
        return None
    scores, expert = (texts[key] for key in PER_MODEL_TEXTS)
    return ModelEntry(model=path, name=name or "", **values, scores=scores, expert=expert)


def _check_texts(file: MergeFile, own: Section, path: str | None) -> None:
    """Under the rule `scores` every model has a file of scores; under another rule none has."""
    if file.method != "lata":
        return
    for key in PER_MODEL_TEXTS if file.other_rule else ():
        if key in own:
            own.wrong(key, "has no effect without `rule: scores`; add that or remove this")
    if file.by_scores and "scores" not in {*own.given, *file.parameters.given}:
        own.wrong(
            "scores",
            f"is missing: the scores.json that ranks the layers of `{path}` (from `lamina rank`)",
        )


def _with_default(own: Value | None, default: Value | None) -> Value | None:
    """A model's own settings, then the file's where no setting of its own fits every tensor."""
    if own and own[-1].filter is None:
        return own
    return (own or ()) + (default or ()) or None


def _without_base(file: MergeFile, entries: list[ModelEntry]) -> list[ModelEntry]:
    """What is merged. mergekit lets the base stand among the models or not; only for linear is it
    an input.
    """
    base = file.top.given.get("base_model")
    if not isinstance(base, str):
        return entries
    listed = any(_same(entry.model, base) for entry in entries)
    if file.method != "linear":
        return [entry for entry in entries if not _same(entry.model, base)]
    if listed:
        return entries
    weight = file.defaults["weight"]
    if weight is None and "weight" not in file.parameters:
        file.top.wrong(
            "base_model", "is one more input of `linear` and has no weight; list it under `models:`"
        )
    file.top.problems.warn("base_model", f"`{base}` is one more input of `linear`, as in mergekit")
    return [*entries, ModelEntry(model=base, name="", weight=weight)]


def _named(
    method: Method | None, entries: list[ModelEntry], problems: Problems
) -> tuple[ModelEntry, ...]:
    """The entries with unique names: the given ones, else the folders', numbered where needed."""
    roles = {"linear": ROLES[:2], "lata": LATA_ROLES}.get(method or "", ROLES)
    taken = set(roles)
    for entry in entries:
        if entry.name in taken:
            used = "stands for another model" if entry.name in roles else "is given twice"
            problems.add("models", f"the name `{entry.name}` {used}; names must differ")
        taken |= {entry.name} - {""}
    named: list[ModelEntry] = []
    for entry in entries:
        last = entry.model if Path(entry.model).exists() else entry.model.rpartition("+")[2]
        folder = Path(os.path.normpath(Path.cwd() / last)).name or "model"
        name, number = entry.name or folder, 2
        while not entry.name and name in taken:
            name, number = f"{folder}-{number}", number + 1
        taken.add(name)
        named.append(entry.model_copy(update={"name": name}))
    return tuple(named)


def _same(first: str, second: str) -> bool:
    return os.path.normpath(first) == os.path.normpath(second)


def check_models(file: MergeFile, models: tuple[ModelEntry, ...]) -> None:
    """What a method needs of the models as a whole."""
    top, method = file.top, file.method
    base, instruct = top.given.get("base_model"), top.given.get("instruct_model")
    if method not in ("linear", None) and "base_model" not in top and not file.by_scores:
        top.wrong("base_model", f"is missing; `{method}` needs it")
    listed = top.given.get("models")
    if (
        isinstance(listed, list)
        and listed
        and not models
        and len(listed) == 1
        and isinstance(base, str)
    ):
        top.wrong("models", "holds only the base model; list what is merged into it")
    if method == "slerp" and len(models) > 1:
        top.wrong(
            "models", f"`slerp` goes from the base to one other model; {len(models)} are listed"
        )
    if method != "lata":
        return
    if "instruct_model" not in top:
        top.wrong("instruct_model", "is missing: the model that the experts were tuned from")
    if file.by_scores and "base_model" in top:
        top.problems.warn("base_model", "has no effect with `rule: scores`: nothing is measured")
    elif isinstance(base, str) and isinstance(instruct, str) and _same(base, instruct):
        top.wrong(
            "instruct_model",
            f"is the base too, `{base}`; LATA needs the base and what was tuned from it",
        )
    for entry in models:
        if isinstance(instruct, str) and _same(entry.model, instruct):
            top.problems.warn(
                "models", f"`{entry.model}` is the instruct model itself; it adds nothing"
            )


def read_sweep(file: MergeFile, models: tuple[ModelEntry, ...]) -> tuple[SweepSetting, ...]:
    """The settings of a sweep; an expert that is not named keeps its weight."""
    top = file.top
    if "sweep" not in top:
        return ()
    raw = top.given["sweep"]
    if file.method == "slerp" or not isinstance(raw, list) or not raw:
        top.wrong(
            "sweep",
            "needs a list of `- weight: 0.5` or `- weights: {math: 0.5}`; not with `slerp`",
        )
        return ()
    settings: list[SweepSetting] = []
    for place, item in enumerate(raw):
        section = Section.of(item, f"sweep[{place}].", top.problems)
        section.check_known(("name", "weight", "weights"))
        every, weights = section.value("weight"), section.below("weights")
        if ("weight" in section) == ("weights" in section):
            section.wrong("weights", "give either `weight:` for all experts or `weights:` by name")
        weights.check_known([entry.name for entry in models])
        known = {entry.name: weights.value(entry.name) or every or entry.weight for entry in models}
        missing = [name for name, value in known.items() if value is None and name not in weights]
        if missing and "weights" in section:
            section.wrong("weights", f"no weight for {', '.join(missing)}, here or under `models:`")
        held = {name: value for name, value in known.items() if value is not None}
        name = section.name("name") or _sweep_name(place, every, held)
        if name in SWEEP_FILES:
            section.wrong("name", f"`{name}` is a file of the output; give another name")
        if any(name == other.name for other in settings):
            section.wrong("name", f"two settings are named `{name}`; give them names of their own")
        settings.append(SweepSetting(name=name, weights=held))
    return tuple(settings)


def _sweep_name(place: int, every: Value | None, weights: Mapping[str, Value]) -> str:
    """A folder's name that says the weights, when they are plain numbers."""
    if every is not None and is_constant(every):
        return f"weight-{every[0].value:g}"
    if weights and all(is_constant(value) for value in weights.values()) and len(weights) <= 3:
        return "_".join(f"{name}-{value[0].value:g}" for name, value in sorted(weights.items()))
    return f"setting-{place + 1}"
