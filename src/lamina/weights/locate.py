"""From what a user types (a folder, a hub name, `model+adapter`) to a folder on this disk."""

import re
from pathlib import Path

from lamina.core.errors import CheckpointError, nearest
from lamina.weights.adapter import (
    AdaptedCheckpoint,
    adapt,
    is_adapter,
    open_adapter,
)
from lamina.weights.checkpoint import Checkpoint, exists, open_checkpoint

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*"]


def locate(text: str, home: Path | None = None) -> Path:
    """The folder that a user means.

    Beside the recipe (`home`), from the working folder, or a hub name `org/model[@revision]`, which
    is fetched into the hub's own cache. `models/math` could be both; where a folder `models` is, a
    path is meant, and the hub, which takes a minute to fail without a network, is not asked.

    Raises:
        CheckpointError: there is no such folder and no such model.
    """
    path = expanded(text)
    tried = [path] if path.is_absolute() or home is None else [home / path, path]
    for candidate in dict.fromkeys(tried):
        if exists(candidate):
            return candidate
    beside = [c.parent for c in tried if c.parent != Path() and c.parent.is_dir()]
    meant = path.is_absolute() or text.startswith((".", "~")) or not HUB_NAME.fullmatch(text)
    if meant or any(folder not in (home, Path()) for folder in beside):
        where = " or ".join(str(candidate) for candidate in dict.fromkeys(tried))
        raise CheckpointError(
            f"{text} does not exist (looked for {where}). {_near(path.name, beside)}"
        )
    return _from_hub(text)


def _near(name: str, folders: list[Path]) -> str:
    """What a mistyped folder may have been meant to be."""
    for folder in folders:
        known = [entry.name for entry in sorted(folder.iterdir()) if entry.is_dir()]
        match = nearest(name, known)
        if match is not None:
            return f"Did you mean {folder / match}?"
    return "Give a model's folder, or a hub name such as `org/model`."


def _from_hub(text: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = text.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = (str(error).strip() or "no answer").splitlines()[0].split(". ")[0].rstrip(
            "."
        ) + "."
        raise CheckpointError(
            f"{text} is no folder here, and the hub does not give it: {reason} Check the name and "
            "the network, or download it and give the folder."
        ) from None


def open_model(
    text: str, home: Path | None, base: Checkpoint | None = None
) -> Checkpoint | AdaptedCheckpoint:
    """A model, an adapter on `base`, or `model+adapter` (mergekit's way to name both).

    An adapter without a base here takes the one it names in its own config.

    Raises:
        CheckpointError: what is given cannot be opened, or adapter and base do not fit.
    """
    first, plus, second = text.partition("+")
    if plus and not _exists(text, home):
        return adapt(open_checkpoint(locate(first, home)), open_adapter(locate(second, home)))
    path = locate(text, home)
    if not is_adapter(path):
        return open_checkpoint(path)
    adapter = open_adapter(path)
    if base is None:
        if adapter.base_name is None:
            raise CheckpointError(
                f"{path} is an adapter that names no base; write `base+{text}` instead."
            )
        base = open_checkpoint(locate(adapter.base_name, path))
    return adapt(base, adapter)


def _exists(text: str, home: Path | None) -> bool:
    path = expanded(text)
    return exists(path) or (home is not None and exists(home / path))


def expanded(text: str) -> Path:
    """A path with `~` filled in, where there is such a user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # the home of nobody we know
        return Path(text)
