"""Is an output still what was written? Its files against the checksums of its manifest."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError
from lamina.core.manifest import read_json
from lamina.weights.headers import read_header
from lamina.weights.sources import MappedFile, checksum_range, combined_digest


def verify_folder(folder: Path) -> list[str]:
    """What differs from the manifest, in words; empty if all is as it was written.

    Raises:
        DataError: there is no manifest of lamina.
        CheckpointError: a file's header is damaged.
    """
    if not (folder / "manifest.json").is_file():
        raise DataError(f"{folder} has no manifest.json: it is not a finished output of lamina.")
    problems = []
    for name, entry in sorted(_outputs(folder / "manifest.json").items()):
        file = folder / name
        if not file.is_file():
            problems.append(f"{name}: missing")
            continue
        if str(entry["checksum"]).startswith("sha256:"):
            problems += _whole_file(name, file, entry)
            continue
        header = read_header(file)
        if header.size != entry["bytes"]:
            problems.append(f"{name}: {header.size:,} bytes, written were {entry['bytes']:,}")
            continue
        mapped = MappedFile(header)
        sums = [(t.name, checksum_range(mapped, t.begin, t.end)) for t in header.tensors]
        if combined_digest(sums) != entry["checksum"]:
            problems.append(f"{name}: other contents than were written")
    return problems


def _whole_file(name: str, file: Path, entry: Mapping[str, Any]) -> list[str]:
    """What differs in a file of a run, which is compared as a whole."""
    size = file.stat().st_size
    if size != entry["bytes"]:
        return [f"{name}: {size:,} bytes, written were {entry['bytes']:,}"]
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    return (
        [] if f"sha256:{found}" == entry["checksum"] else [f"{name}: other contents than written"]
    )


def _outputs(file: Path) -> dict[str, dict[str, Any]]:
    """File -> what the manifest says of it."""
    manifest = read_json(file)
    outputs = manifest.get("outputs") if isinstance(manifest, dict) else None
    good = isinstance(outputs, dict) and all(
        isinstance(entry, dict) and {"bytes", "checksum"} <= entry.keys()
        for entry in outputs.values()
    )
    if not good or not outputs:
        raise DataError(
            f"{file} does not say what was written (`outputs`): it is not a manifest of lamina's."
        )
    return outputs
