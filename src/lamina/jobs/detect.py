"""`lamina detect`: what a model knows of each domain, as a folder.

    OUT/  recipe.yaml journal.jsonl (while it runs)
          texts.jsonl.gz shares.json report.html manifest.json (last)

The same command again goes on with an unfinished folder. The domains file is a map of names and
their rows, or has them under `domains:` beside `detect:`; a recipe of `lamina tune` will do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lamina.core.errors import DataError, OutputError, RecipeError, did_you_mean
from lamina.core.manifest import NAME as MANIFEST
from lamina.core.manifest import Manifest, read_json, write_atomic
from lamina.core.recipe import Recipe, apply_overrides, load_mapping, validate
from lamina.core.yaml import dump_yaml
from lamina.data.recipe import DomainSpec, domains_from_dict
from lamina.jobs.watch import Watcher
from lamina.versatune.detect_recipe import DetectSection

if TYPE_CHECKING:
    from lamina.engine.load import Source
    from lamina.jobs.tune_run import Run

DTYPES = ("float32", "bfloat16", "float16", "auto")
_OWN = ("domains", "detect")
_TUNE = ("data", "train", "mixture", "self_distillation", "max_forgetting", "general",
         "model")  # fmt: skip
RECIPE = "recipe.yaml"
_BEGUN = ("journal.jsonl", "texts.jsonl.gz", "shares.json")
_FILES = (RECIPE, *_BEGUN, "report.html", MANIFEST)


class _Sections(Recipe):
    detect: DetectSection = DetectSection()


@dataclass(frozen=True, slots=True)
class Asked:
    """The domains and how they are detected, checked as far as a file can be."""

    domains: dict[str, DomainSpec]
    section: DetectSection
    home: Path
    """Relative paths of the domains begin here."""


def read_asked(
    domains_file: Path,
    overrides: Sequence[str] = (),
    *,
    flags: Mapping[str, Any] | None = None,
) -> Asked:
    """A domains file with `-s detect.key=value` overrides; `flags` are keys of `detect`, too.

    Raises:
        RecipeError: every problem of the file in one message.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    values = load_mapping(domains_file)
    plain = not isinstance(values.get("domains"), Mapping)
    values = {"domains": values} if plain else values
    values = apply_overrides(values, overrides)
    unknown = [key for key in values if key not in (*_OWN, *_TUNE)]
    if unknown:
        told = "; ".join(f"`{key}`: {did_you_mean(key, (*_OWN, *_TUNE))}" for key in unknown)
        raise RecipeError(
            f"{domains_file}: keys that are unknown beside `domains`: {told}. Write -s "
            "detect.texts=500 for a setting, and domains under `domains:`."
        )
    section = values.get("detect") or {}
    if not isinstance(section, Mapping):
        raise RecipeError(f"{domains_file}: `detect` is a map of settings, such as `texts: 500`.")
    sections = validate(_Sections, {"detect": {**section, **given}}, str(domains_file))
    domains = domains_from_dict(values["domains"], str(domains_file))
    return Asked(domains, sections.detect, domains_file.absolute().parent)


def run_detect(
    model: str,
    domains_file: Path,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    base: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Detects a model's domains into the folder `out`; returns the manifest.

    Args:
        model: a folder, an adapter's folder, or a hub name.
        flags: keys of `detect` that were given as flags (`judge`, `texts`, ...); None: not given.
        base: the model that an adapter belongs to.
        overwrite: delete a detection that stands in `out` first.

    Raises:
        RecipeError, CheckpointError, DataError, OutputError: each with all it found, before the
            model is loaded where that is possible.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    watch = watch or Watcher()
    if dtype not in DTYPES:
        raise RecipeError(f"--dtype {dtype} is unknown; {did_you_mean(dtype, DTYPES)}")
    asked = read_asked(domains_file, overrides, flags=flags)
    from lamina.engine.load import find_model
    from lamina.versatune.detect import check_section

    check_section(tuple(asked.domains), asked.section, home=asked.home)
    source = find_model(model, base=base)
    values = _recipe(model, asked, out)
    recipe = dump_yaml(values).encode()
    inputs = [source.folder, *([source.adapter] if source.adapter else [])]
    claim(out, inputs, recipe, overwrite=overwrite)
    texts = read_texts(asked.domains, asked.home, seed=asked.section.seed)
    _take(out, recipe, overwrite=overwrite)
    try:
        told = _detect(source, texts, asked.section, out, asked.home, dtype, watch)
    except BaseException:
        if [path.name for path in out.iterdir()] == [RECIPE]:  # refused before anything was done
            shutil.rmtree(out)
        raise
    manifest = Manifest(
        kind="detect",
        status="done",
        versions={
            name: version(name)
            for name in ("lamina", "torch", "transformers", "tokenizers", "numpy", "scikit-learn")
        },
        recipe=values,
        inputs={
            "model": {"path": model, "fingerprint": identity_of(source)},
            **{f"rows of {name}": {"texts": len(rows)} for name, rows in texts.items()},
        },
        outputs=_account(out),
        results={key: told[key] for key in ("shares", "se", "texts", "tokens", "invalid")}
        | {"corrected": told["corrected"], "stopped": told["stopped"]}
        | {"accuracy": told["judge"].get("accuracy")},
        warnings=told["warnings"],
    )
    from lamina.report.page import write_report

    write_report(out, manifest.model_dump())
    manifest.write(out)
    return manifest.model_dump()


def detect_for_tuning(run: Run, folder: Path) -> dict[str, Any]:
    """The detection inside a tune run: the model as it starts, its domains, into `folder`.

    A resumed run keeps what it detected; whether it is still the same run is not asked here.
    """
    if run.place.resume and (folder / "shares.json").is_file():
        return read_json(folder / "shares.json")
    recipe = run.recipe
    texts = read_texts(recipe.domains, run.place.home, seed=recipe.detect.seed)
    from lamina.versatune.detect import check_section

    check_section(tuple(recipe.domains), recipe.detect, home=run.place.home)
    dtype = recipe.train.dtype
    return _detect(run.source, texts, recipe.detect, folder, run.place.home, dtype, run.watch)


def read_texts(domains: Mapping[str, DomainSpec], home: Path, *, seed: int) -> dict[str, list[str]]:
    """All that stands in each row of each domain, for a judge to learn the domains from."""
    from lamina.data.domains import read_records

    return {
        name: [record.whole for record in read_records(spec, home=home, seed=seed)]
        for name, spec in domains.items()
    }


def identity_of(source: Source) -> str:
    """The fingerprint of a model's weights, with its adapter's."""
    from lamina.engine.load import fingerprint

    return fingerprint(source)


def claim(out: Path, inputs: Sequence[Path], recipe: bytes, *, overwrite: bool) -> None:
    """Whether a detection may be written to a folder; nothing is written or deleted yet.

    Args:
        recipe: what would stand in `recipe.yaml`.

    Raises:
        OutputError: it lies in an input, is a file, or holds something else or a finished one.
    """
    from lamina.weights.place import check_output

    standing = out.is_dir() and not out.is_symlink() and any(out.iterdir())
    foreign = _foreign(out, recipe) if standing else ""
    if foreign:
        raise OutputError(
            f"{out} is not empty and holds no detection ({foreign}). Give another folder for --out."
        )
    finished = (out / MANIFEST).is_file()
    if not standing or finished:
        check_output(out, list(inputs), overwrite=finished)
    if finished and not overwrite:
        raise OutputError(
            f"{out} holds a finished detection. Give another --out, or --overwrite to delete it."
        )


def _foreign(out: Path, recipe: bytes) -> str:
    """What tells that a folder is no detection, in a few words; empty where it is one.

    A recipe.yaml alone may be the user's own: it is only ours where we would write the same.
    """
    names = {p.name for p in out.iterdir() if not (p.name[0] == "." and p.name.endswith(".part"))}
    others = sorted(names.difference(_FILES))
    if others:
        return ", ".join(others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
    if MANIFEST in names:
        try:
            manifest = read_json(out / MANIFEST)
        except DataError as error:
            return str(error)
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        return "" if kind == "detect" else f"its manifest is of another kind: {kind}"
    begun = RECIPE in names and not names.isdisjoint(_BEGUN)
    if not names or begun or (names == {RECIPE} and (out / RECIPE).read_bytes() == recipe):
        return ""
    return f"{', '.join(sorted(names))} and nothing else"


def _take(out: Path, recipe: bytes, *, overwrite: bool) -> None:
    """Makes the folder, empty or as an unfinished run left it, with its recipe.

    Raises:
        OutputError: it cannot be made or written.
    """
    try:
        if overwrite and out.is_dir():
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made: {error.strerror}.") from None
    write_atomic(out / RECIPE, recipe)


def _detect(
    source: Source,
    texts: Mapping[str, Sequence[str]],
    section: DetectSection,
    folder: Path,
    home: Path,
    dtype: str,
    watch: Watcher,
) -> dict[str, Any]:
    import torch

    from lamina.engine.load import load_network, load_tokenizer, quiet
    from lamina.versatune.detect import detect
    from lamina.versatune.subject import start_token

    with quiet():
        tokenizer = load_tokenizer(source)
        start_token(tokenizer)
        watch.stage("loading the model", 0)
        network = load_network(source, "auto" if dtype == "auto" else getattr(torch, dtype))
    to_device: Any = network.to
    to_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return detect(
        network,
        tokenizer,
        texts,
        section,
        folder,
        identity=f"{identity_of(source)} in {dtype}",
        home=home,
        tell=watch.tell,
        progress=_Stages(watch),
    )


class _Stages:
    """Progress as (what, done, total) for a watcher of stages."""

    def __init__(self, watch: Watcher) -> None:
        self._watch, self._what, self._done = watch, "", 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self._watch.stage(what, total)
            self._what, self._done = what, 0
        self._watch.advance(done - self._done)
        self._done = done


def _recipe(model: str, asked: Asked, out: Path) -> dict[str, Any]:
    """The recipe as it ran, its paths seen from `out`; it is a domains file again."""

    def moved(text: str, home: Path) -> str:
        for found in (home / text, Path(text)):
            if not Path(text).is_absolute() and found.exists():
                return Path(os.path.relpath(found.resolve(), out.resolve())).as_posix()
        return text

    domains = {
        name: spec.model_dump(mode="json", exclude_none=True)
        for name, spec in asked.domains.items()
    }
    for domain in domains.values():
        for key in ("sources", "heldout"):
            for source in domain.get(key) or ():
                source["path"] = moved(source["path"], asked.home)
    section = asked.section.model_dump(mode="json", exclude_none=True)
    if "model" in section:
        section["model"]["path"] = moved(section["model"]["path"], asked.home)
    return {"model": moved(model, Path()), "domains": domains, "detect": section}


def _account(out: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for name in ("recipe.yaml", "shares.json", "texts.jsonl.gz"):
        if (out / name).is_file():
            data = (out / name).read_bytes()
            found[name] = {
                "bytes": len(data),
                "checksum": f"sha256:{hashlib.sha256(data).hexdigest()}",
            }
    return found
