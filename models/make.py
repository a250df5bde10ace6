"""Make the demo model family from the data folder: tokenizer, rows, five members, card.

    python models/make.py --data DIR [--out DIR] [--minutes N] [--threads N] [--only STAGE ...]

Stages run in the order of `STAGES`; a stage needs the results of the ones before it in `--out`.
Without `--out` the work is done in `build/demo`, and the last stage, `package`, copies the finished
family into `src/lamina/demo`.
Exit status 2 says that data is missing and names the files.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import card
import corpus
import domains
import score
import sources
import stages
import torch
import vocabulary

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("tokenizer", "base", "instruct", "math", "code", "unwanted", "domains", "card", "package")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the source files")
    parser.add_argument(
        "--out", type=Path, help="folder to work in; default: build/demo, and package the result"
    )
    parser.add_argument(
        "--minutes", type=float, help="end each asked stage by the clock, not after its steps"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads; 0: the second only while it is idle"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=STAGES,
        metavar="STAGE",
        help="of " + ", ".join(STAGES),
    )
    asked = parser.parse_args()
    asked.only = asked.only or (STAGES[:-1] if asked.out else STAGES)
    asked.out = asked.out or ROOT / "build/demo"
    return asked


def package(out: Path, demo: Path) -> None:
    """Copy the finished family into the package, replacing what is there."""
    for name in (*(f"models/{member}" for member in score.MEMBERS), "heldout", "domains"):
        shutil.rmtree(demo / name, ignore_errors=True)
        shutil.copytree(out / name, demo / name)
    for path in demo.rglob("*.*"):
        path.chmod(0o644)
    for name in ("losses.json", "MODEL_CARD.md"):
        shutil.copyfile(out / name, demo / name)


def main() -> int:
    """Run the asked stages; each one adds what it did to OUT/runs.json."""
    asked = arguments()
    absent = sources.missing(asked.data)
    if "domains" in asked.only:
        absent += domains.absent(asked.data)
    if absent:
        print(f"{len(absent)} files are missing in {asked.data}:")
        print("\n".join(f"  {path}" for path in absent))
        print("models/sources.py and models/domains.py say where each comes from.")
        return 2
    torch.set_num_threads(asked.threads or 1)
    models = asked.out / "models"
    held_out = asked.out / "heldout"
    runs_path = asked.out / "runs.json"
    texts = corpus.build(asked.data)
    for stage in asked.only:
        print(f"== {stage}", flush=True)
        if stage == "tokenizer":
            words = (row.plain() for row in texts.base + texts.math + texts.code)
            tokenizer = vocabulary.train(words, models / "tokenizer")
            corpus.write_held_out(texts, tokenizer, held_out)
        elif stage == "domains":
            domains.build(asked.data, texts, held_out=held_out, out=asked.out / "domains")
        elif stage == "card":
            card.write(asked.out, asked.data, texts)
        elif stage == "package":
            package(asked.out, ROOT / "src/lamina/demo")
        else:
            settings = stages.SETTINGS[stage]
            if asked.minutes:
                settings = replace(settings, minutes=asked.minutes)
            report = stages.train(
                stage, texts, models, settings=settings, share_cores=asked.threads == 0
            )
            runs = json.loads(runs_path.read_text()) if runs_path.exists() else {}
            runs[stage] = asdict(report) | {"settings": asdict(settings)}
            runs_path.write_text(json.dumps(runs, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
