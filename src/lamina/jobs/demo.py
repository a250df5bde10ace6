"""`lamina demo`: the whole of lamina on its own small models, in a few minutes, from files.

Merges math and code into instruct by LATA (with controls) and by plain task arithmetic, forgets the
unwanted expert, measures every member and merge on every domain, and writes one page.
"""

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import write_atomic, write_json_atomic
from lamina.core.yaml import dump_yaml
from lamina.jobs.watch import Watcher

MEMBERS = ("base", "instruct", "math", "code", "unwanted")
FORGOTTEN, NEVER_SEEN = "unwanted", "unwanted_new"


def demo_folder() -> Path:
    """Where the demo's models and texts lie in the installed package."""
    return Path(str(files("lamina"))) / "demo"


def list_members() -> dict[str, str]:
    """Member -> folder.

    Raises:
        DataError: the installation lacks them.
    """
    found = {name: demo_folder() / "models" / name for name in MEMBERS}
    missing = [name for name, folder in found.items() if not folder.is_dir()]
    if missing:
        raise DataError(
            f"the demo's models are missing from {demo_folder()}: {', '.join(missing)}. Install "
            "lamina from its wheel or repository, or make them with `make models`."
        )
    return {name: str(folder) for name, folder in found.items()}


def recipes(members: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The three recipes of the demo, as they are written beside its results."""
    experts = [{"model": members[name], "parameters": {"weight": 0.5}} for name in ("math", "code")]
    return {
        "lata": {
            "merge_method": "lata",
            "base_model": members["base"],
            "instruct_model": members["instruct"],
            "models": experts,
            "parameters": {"rule": "linear_drop", "granularity": "block", "others": "keep"},
            "dtype": "bfloat16",
        },
        "task_arithmetic": {
            "merge_method": "task_arithmetic",
            "base_model": members["instruct"],
            "models": experts,
            "dtype": "bfloat16",
        },
        "forget": {
            "merge_method": "lata",
            "base_model": members["base"],
            "instruct_model": members["instruct"],
            "target_model": members["instruct"],
            "models": [{"model": members[FORGOTTEN]}],
            "dtype": "bfloat16",
        },
    }
