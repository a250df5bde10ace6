"""All programs that measure, one after the other.

    python bench/run.py [WORK] [--mergekit VENV/bin/mergekit-yaml] [--twice] [--trl VENV/bin/python]

WORK gets the weights (8.8 GB, kept; 26 GB with `--twice`) and the outputs (removed). Without it all
of that goes to a temporary folder. Ends with 1 when any of them misses a target.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--mergekit", help="the mergekit-yaml of its own environment")
    parser.add_argument("--twice", action="store_true", help="measure memory on twice the blocks")
    parser.add_argument("--trl", help="the python of an environment with TRL")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (given.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        merge = [str(HERE / "merge.py"), str(work / "weights"), "--work", str(work)]
        merge += ["--json", str(work / "merge.json")] if given.work else []
        merge += ["--mergekit", given.mergekit] if given.mergekit else []
        merge += ["--twice", str(work / "weights-twice")] if given.twice else []
        programs = [merge, [str(HERE / "faults.py"), str(work)]]
        programs += [[str(HERE / "faults.py"), str(work), "--method", "lata"]]
        programs += [
            [str(HERE / "tune.py"), "--detect", *(["--trl", given.trl] if given.trl else [])]
        ]
        programs += [[str(HERE / "prefix.py")], [str(HERE / "rank.py")]]
        codes = [subprocess.run([sys.executable, *p], check=False).returncode for p in programs]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
