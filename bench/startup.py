"""How long `lamina --help` and `lamina check` take: wall and CPU seconds, medians of ten runs.

    python bench/startup.py [RECIPE]

Without a recipe a tiny family of models is written first. Targets: 0.3 s wall, 0.5 s CPU.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS, WALL, CPU = 10, 0.3, 0.5


def tiny_recipe(home: Path) -> Path:
    """Three models of 300 tensors (two values each) and a recipe of them."""
    names = [f"model.layers.{i}.mlp.part{j}.weight" for i in range(30) for j in range(10)]
    header = {
        name: {"dtype": "BF16", "shape": [2], "data_offsets": [4 * i, 4 * i + 4]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    for model in ("base", "instruct", "expert"):
        (home / model).mkdir()
        (home / model / "config.json").write_text('{"model_type": "llama"}')
        data = len(text).to_bytes(8, "little") + text + bytes(4 * len(names))
        (home / model / "model.safetensors").write_bytes(data)
    recipe = {
        "merge_method": "lata",
        "base_model": "./base",
        "instruct_model": "./instruct",
        "models": [{"model": "./expert", "parameters": {"weight": 1}}],
        "parameters": {"rule": "linear_drop"},
    }
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    return home / "recipe.yaml"


def once(arguments: list[str]) -> tuple[float, float]:
    """(wall, CPU) seconds of one run in a process of its own."""
    began, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, "-m", "lamina", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    after = os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return time.perf_counter() - began, cpu


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_recipe(Path(folder))
        print("| command | wall (s) | CPU (s) | targets |")
        print("|---|---:|---:|---|")
        for label, arguments in (("--help", ["--help"]), ("check", ["check", str(recipe)])):
            once(arguments)
            runs = [once(arguments) for _ in range(RUNS)]
            wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            met = "met" if wall <= WALL and cpu <= CPU else "MISSED"
            print(f"| lamina {label} | {wall:.3f} | {cpu:.3f} | {WALL} and {CPU}: {met} |")


if __name__ == "__main__":
    main()
