"""Where rows come from: a file, a folder of files, or a data set of the Hub.

A path is looked for beside the recipe, then in the working folder; what is neither, and looks like
a name of the Hub, is asked of `datasets`. Nothing from there is run: data sets with a script of
their own are refused by `datasets` 4 and later.

A folder's files belong to a split by a word in their name or their folders' names: train, training;
validation, valid, val, dev; test, testing, eval, evaluation. Without any, all are `train`.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, did_you_mean
from lamina.data.files import SUFFIXES, Rows, read_file, suffix_of
from lamina.data.recipe import SourceSpec

SPLIT_WORDS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)


def read_source(spec: SourceSpec, *, home: Path) -> Rows:
    """The rows of a source, in order, as (place, row) pairs; `home` is the recipe's folder.

    Raises:
        DataError: nothing is there, it cannot be read, or it has several splits and none is named.
    """
    path = locate(spec.path, home=home)
    if path is None:
        _check_hub_name(spec.path, home)
        return _from_hub(spec.path, spec, home)
    if not path.is_dir():
        useless = [key for key, value in (("split", spec.split), ("subset", spec.subset)) if value]
        if useless:
            raise DataError(
                f"{spec.path} is a file; {' and '.join(f'`{key}`' for key in useless)} can only be"
                " said of a folder or of a data set of the Hub. Remove it."
            )
        return read_file(path, spec.path)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return _saved(path, spec)
    if spec.subset is not None:
        return _from_hub(str(path), spec, home)
    return _from_folder(path, spec)


def locate(path: str, *, home: Path) -> Path | None:
    """The file or folder that a source's path means, or None when there is none.

    A relative path is looked for in `home` first, then in the working folder.
    """
    try:
        written = Path(path).expanduser()
        return next((p for p in (home / written, written) if p.exists()), None)
    except (OSError, ValueError, RuntimeError):  # too long a name, a NUL, a `~` of nobody
        return None


def files_of(spec: SourceSpec, *, home: Path) -> list[Path]:
    """The local files that a source is read from, sorted; none for a data set of the Hub."""
    path = locate(spec.path, home=home)
    if path is None:
        return []
    return [path] if not path.is_dir() else _data_files(path)


# Folders


def _data_files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if suffix_of(path.name) and path.is_file())
    return sorted(
        path
        for path in found
        if not any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        and path.name not in ("dataset_infos.json", "dataset_info.json", "state.json")
    )


def _split_of(name: str) -> str | None:
    """The split that a file's path speaks of: the last of its words that names one."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS]
    return SPLIT_WORDS[words[-1]] if words else None


def _from_folder(folder: Path, spec: SourceSpec) -> Rows:
    files = _data_files(folder)
    if not files:
        raise DataError(
            f"{spec.path} is a folder without a file of rows. Known endings:"
            f" {', '.join(SUFFIXES)}; all but the last also with .gz."
        )
    names = {path: path.relative_to(folder).as_posix() for path in files}
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(_split_of(names[path]) or "train", []).append(path)
    chosen = _choose_split(spec, list(splits))
    rows: Rows = []
    problems: list[str] = []
    for path in splits[chosen]:
        try:
            rows += read_file(path, f"{spec.path.rstrip('/')}/{names[path]}")
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    return rows


def _choose_split(spec: SourceSpec, known: list[str]) -> str:
    if spec.split is None:
        if len(known) > 1:
            raise DataError(
                f"{spec.path} has the splits {', '.join(known)}. Say which, such as"
                f" `{{path: {spec.path}, split: {known[0]}}}`."
            )
        return known[0]
    split = spec.split if spec.split in known else SPLIT_WORDS.get(spec.split, spec.split)
    if split not in known:
        hint = did_you_mean(spec.split, known)
        raise DataError(f"{spec.path} has no split `{spec.split}`; {hint}.")
    return split


# Through the library


def _check_hub_name(path: str, home: Path) -> None:
    """Refuses what is no name of the Hub, so that a misspelt file is not looked for there."""
    if suffix_of(path) is None and _HUB_NAME.fullmatch(path):
        return
    here = Path.cwd()
    folders = [home.absolute()] + ([here] if here != home.absolute() else [])
    hint = _near(path, folders)
    raise DataError(
        f"No such file: {path!r}, looked for in {' and in '.join(map(str, folders))}{hint}."
        " Give the path of a file or folder of rows, or the name of a data set of the Hub."
    )


def _near(path: str, folders: list[Path]) -> str:
    """A file of nearly that name in the same folder, as the end of a sentence."""
    with contextlib.suppress(OSError, ValueError):
        for folder in folders:
            parent = (folder / path).parent
            if parent.is_dir():
                names = [file.name for file in sorted(parent.iterdir()) if suffix_of(file.name)]
                hint = did_you_mean(Path(path).name, names)
                if names and hint.startswith("did"):
                    return f"; {hint.rstrip('?')}"
    return ""


def _from_hub(path: str, spec: SourceSpec, home: Path) -> Rows:
    """A data set of the Hub, or a local folder with a subset, through `datasets.load_dataset`.

    What is local is not copied into the user's cache.
    """
    import datasets

    local = path != spec.path or locate(path, home=home) is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        cache = stack.enter_context(tempfile.TemporaryDirectory()) if local else None
        try:
            loaded = datasets.load_dataset(path, spec.subset, split=spec.split, cache_dir=cache)
            return _rows(loaded, spec)
        except DataError:
            raise
        except Exception as error:  # the library, and the network below it, raise all kinds
            where = "" if local else (
                f" It is no file or folder in {home.absolute()} or {Path.cwd()} either."
            )  # fmt: skip
            raise DataError(
                f"{spec.path}: `datasets` cannot load it: {type(error).__name__}:"
                f" {_brief(error)}{where}"
            ) from error


def _saved(path: Path, spec: SourceSpec) -> Rows:
    """A folder that `save_to_disk` wrote."""
    import datasets

    with _quiet():
        try:
            loaded = datasets.load_from_disk(str(path))
            if isinstance(loaded, datasets.DatasetDict) and loaded:
                loaded = loaded[_choose_split(spec, [str(name) for name in loaded])]
            return _rows(loaded, spec)
        except DataError:
            raise
        except Exception as error:  # as above
            raise DataError(
                f"{spec.path}: `datasets` cannot load it: {type(error).__name__}: {_brief(error)}"
            ) from error


def _rows(loaded: Any, spec: SourceSpec) -> Rows:
    if isinstance(loaded, dict):
        if not loaded:
            raise DataError(f"{spec.path} has no splits, so no rows.")
        loaded = loaded[_choose_split(spec, [str(name) for name in loaded])]
    name = f"{spec.path}/{spec.subset}" if spec.subset else spec.path
    rows = [(f"{name}:{number}", row) for number, row in enumerate(loaded.to_list(), start=1)]
    if not rows:
        raise DataError(f"{name} has no rows. It needs at least one.")
    return rows


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of the library: ours would be torn."""
    import datasets

    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            datasets.enable_progress_bars()


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else text[:297] + "...").rstrip(".") + "."
