"""Do VersaTune's claims hold on the demo's models? Ten mixes, five seeds, the same tokens.

    python studies/versatune.py --out DIR [--seeds N] [--tables]

First question, on the instruct model (five of the six domains have something left to learn): which
mix has the lowest held-out loss in the mean? Second, on the base model (it reads five of the
domains as well as it can, so there is something to forget): grow science; what do the others lose?

A seed is one order of the rows. All runs of a seed share it, all runs share the held-out rows, so
mixes are compared seed by seed (paired). Detection and reference losses are made once per model,
with seed 0, and given to all its runs. Finished runs are skipped: stop it and start it again.
Writes `studies/results/versatune.json`; `--tables` prints its tables. A minute of one core a run.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.core.manifest import read_json
from lamina.core.yaml import dump_yaml
from lamina.jobs.demo import demo_folder

RESULTS = Path(__file__).parent / "results" / "versatune.json"
NAMES = ("law", "medicine", "finance", "science", "code", "general")
TARGET = "science"
REST = tuple(name for name in NAMES if name != TARGET)
MODELS = {
    "instruct": (
        "uniform", "inverse", "constant", "foster", "foster, growth 64",
        "uniform, then foster, growth 64",
    ),
    "base": ("only target", "uniform rest", "expand", "fixed at expand's share"),
}  # fmt: skip
"""The mixes of each model, and so of each question."""
ORDER = (("foster", "constant"), ("constant", "uniform"), ("uniform", "inverse"))
"""The paper's order: the first of a pair is at least as good as the second."""
MORE_PAIRS = (
    ("foster", "uniform"),
    ("foster, growth 64", "constant"),
    ("uniform, then foster, growth 64", "uniform"),
)
EXPANSION_PAIRS = (
    ("uniform rest", "only target"),
    ("expand", "uniform rest"),
    ("expand", "fixed at expand's share"),
)
# Share of asked rows: about nine tokens in ten are trained on in every domain then, so equal
# numbers of packed rows are nearly equal numbers of trained tokens.
ASKED = {
    "law": 0.1, "medicine": 0.5, "finance": 0.1, "science": 0.1, "code": 0.35, "general": 0.25,
}  # fmt: skip
TRAIN = {
    "method": "full",
    "learning_rate": 5e-4,
    "batch_size": 4,
    "windows": 6,
    "window_steps": 6,
    "betas": [0.9, 0.95],
    "dtype": "bfloat16",
    "save_every": 1_000_000,
    "keep_checkpoints": 1,
    "report_to": [],
}
DATA = {"max_length": 512, "heldout_rows": 24, "seed": 0}
DETECT = {"texts": 200, "repeats": 5, "max_new_tokens": 128, "tolerance": 0.0, "seed": 0}
REFERENCE = {"way": "tuned", "windows": 6, "window_steps": 6, "patience": 2}
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t, two-sided 95 %, by degrees of freedom."""


def mixture(mix: str, *, detected: str, reference: Mapping[str, float]) -> dict[str, Any]:
    """The `mixture:` section of a mix."""
    given = {"way": "given", "losses": dict(reference)}
    known = {"start": "detected", "detected": detected}
    only = {name: float(name == TARGET) for name in NAMES}
    half = {TARGET: 0.5} | {name: 0.5 / len(REST) for name in REST}
    # Five raises of .05 from here make .5 on average, which `uniform rest` has throughout.
    below = {TARGET: 0.375} | {name: 0.625 / len(REST) for name in REST}
    # What `expand` came to on average in these runs: is it the moving, or only the smaller share?
    same = {TARGET: 0.458} | {name: 0.542 / len(REST) for name in REST}
    return {
        "uniform": {"policy": "uniform"},
        "inverse": {"policy": "inverse", **known},
        "constant": {"policy": "constant", **known},
        "foster": {"policy": "foster", **known, "reference": given},
        "foster, growth 64": {"policy": "foster", "growth": 64, **known, "reference": given},
        "uniform, then foster, growth 64": {"policy": "foster", "growth": 64, "reference": given},
        "only target": {"policy": "constant", "start": only, "smoothing": 0.0},
        "uniform rest": {"policy": "constant", "start": half},
        "fixed at expand's share": {"policy": "constant", "start": same},
        "expand": {"policy": "expand", "target": TARGET, "start": below, "reference": given},
    }[mix]


def recipe(model: str, mixed: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """A whole recipe of `lamina tune`."""
    folder = demo_folder()
    return {
        "model": str(folder / "models" / model),
        "domains": {
            name: [
                {"path": str(folder / f"domains/{name}.jsonl.gz"), "share": share},
                {"path": str(folder / f"domains/{name}_text.jsonl.gz"), "share": 1 - share},
            ]
            for name, share in ASKED.items()
        },
        "data": DATA,
        "train": {**TRAIN, "seed": seed},
        "mixture": dict(mixed),
        "detect": DETECT,
        "general": None,
    }


# ---- Running ------------------------------------------------------------------------------------


def written(values: Mapping[str, Any], path: Path) -> Path:
    """The recipe as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(dict(values)))
    return path


def tune(values: Mapping[str, Any], out: Path) -> None:
    """One run, unless it is there already; an unfinished one is begun anew."""
    from lamina.jobs.tune import run_tune

    if (out / "manifest.json").is_file():
        return
    start = time.process_time()
    told = run_tune(written(values, out.with_suffix(".yaml")), out, overwrite=True)
    if told["results"]["status"] != "done":
        raise SystemExit(f"{out.name} was stopped; the same command goes on with the others")
    took = round(time.process_time() - start, 1)
    out.with_suffix(".seconds").write_text(f"{took}\n")
    print(f"{out.name}: {took} CPU seconds", flush=True)


def known(model: str, out: Path) -> tuple[Path, dict[str, float]]:
    """What a model knows (a folder of `lamina detect`) and the reference losses, once a model."""
    from lamina.jobs.detect import run_detect

    folder = out / f"{model}-detected"
    domains = recipe(model, {"policy": "uniform"}, seed=0)
    if not (folder / "manifest.json").is_file():
        asked = {"domains": domains["domains"], "detect": DETECT}
        run_detect(domains["model"], written(asked, out / f"{model}-detect.yaml"), folder)
    values = recipe(model, {"policy": "foster", "reference": REFERENCE}, seed=0)
    values["train"] |= {"windows": 1, "window_steps": 1}
    tune(values, out / f"{model}-reference")
    return folder, read_json(out / f"{model}-reference" / "reference.json")["losses"]


def collect(model: str, mix: str, seed: int, folder: Path) -> dict[str, Any]:
    """What the tables need of one finished run."""
    lines = [json.loads(line) for line in (folder / "domains.jsonl").read_text().splitlines()]
    results = read_json(folder / "manifest.json")["results"]
    return {
        "model": model,
        "mix": mix,
        "seed": seed,
        "start": results["start"],
        "end": results["end"],
        "weights": [line["weights"] for line in lines],
        "trained_tokens": results["trained_tokens"],
        "cpu_seconds": float(folder.with_suffix(".seconds").read_text()),
    }


def run(out: Path, *, seeds: int) -> None:
    """All runs, seed by seed; the results file is written after each seed."""
    found = []
    kept: dict[str, Any] = {}
    for model in MODELS:
        folder, reference = known(model, out)
        shares = read_json(folder / "shares.json")
        kept[model] = {
            "detected": {key: shares[key] for key in ("shares", "se", "texts", "tokens")}
        }
        kept[model] |= {"folder": folder, "reference": reference}
        print(model, kept[model], flush=True)
    for seed in range(seeds):
        for model, mixes in MODELS.items():
            of = kept[model]
            for mix in mixes:
                place = out / f"{model}-{mix.replace(', ', '-').replace(' ', '-')}-{seed}"
                mixed = mixture(mix, detected=str(of["folder"]), reference=of["reference"])
                tune(recipe(model, mixed, seed=seed), place)
                found.append(collect(model, mix, seed, place))
        models = {
            name: {key: value for key, value in of.items() if key != "folder"}
            for name, of in kept.items()
        }
        settings = {"train": TRAIN, "data": DATA, "detect": DETECT, "reference": REFERENCE}
        RESULTS.parent.mkdir(exist_ok=True)
        told = {"schema": 1, "commit": commit(), "settings": settings, "models": models}
        RESULTS.write_text(json.dumps(told | {"runs": found}, indent=1) + "\n")


def commit() -> str:
    """The commit that the code comes from: of the repository, or as a file COMMIT beside src."""
    root = Path(__file__).parents[1]
    if (root / "COMMIT").is_file():
        return (root / "COMMIT").read_text().strip()
    asked = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


# ---- Numbers ------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean over seeds and half of its 95 % interval by Student's t."""
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


def by_seed(runs: Sequence[Mapping[str, Any]], mix: str) -> dict[int, Mapping[str, Any]]:
    """The runs of a mix."""
    return {run["seed"]: run for run in runs if run["mix"] == mix}


def mean_loss(run: Mapping[str, Any]) -> float:
    """Held-out nats a token at the end, the mean over the domains."""
    return statistics.fmean(run["end"][name] for name in NAMES)


def paired(
    runs: Sequence[Mapping[str, Any]],
    better: str,
    worse: str,
    *,
    weights: Mapping[str, float] | None = None,
) -> tuple[float, float]:
    """How much lower the loss of `better` is than that of `worse`, over seeds.

    The mean over domains by `weights` that sum to 1; None: all alike.
    """
    weights = weights or {name: 1 / len(NAMES) for name in NAMES}
    one, two = by_seed(runs, better), by_seed(runs, worse)
    return interval(
        [
            math.fsum(w * (two[seed]["end"][n] - one[seed]["end"][n]) for n, w in weights.items())
            for seed in sorted(one)
        ]
    )


def verdict(value: float, half: float) -> str:
    """Whether the direction holds."""
    if abs(value) <= half:
        return "not told apart"
    return "holds" if value > 0 else "the other way round"


def rises(run: Mapping[str, Any], names: Sequence[str] = REST) -> float:
    """Sum over domains of how much their held-out loss rose (+) or fell (-)."""
    return math.fsum(run["end"][name] - run["start"][name] for name in names)


def gain(run: Mapping[str, Any]) -> float:
    """How much the target's held-out loss fell."""
    return run["start"][TARGET] - run["end"][TARGET]


# ---- Tables -------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def signed(value: float, half: float) -> str:
    return f"{value:+.4f} ± {half:.4f}"


def tables(results: Mapping[str, Any]) -> str:
    """All tables as Markdown, from the results file."""
    runs = results["runs"]
    return "\n\n".join(
        [
            "Before tuning:",
            starts(results),
            "Held-out loss after tuning, mean over seeds (nats a token):",
            losses(runs),
            "Which is lower? The second's loss minus the first's, paired by seed, 95 % interval:",
            differences(results),
            f"Growing {TARGET}, mean over seeds, 95 % interval:",
            expansion(runs),
            "The first less the second, paired by seed, 95 % interval:",
            expansion_differences(runs),
        ]
    )


def starts(results: Mapping[str, Any]) -> str:
    rows = []
    for model, of in results["models"].items():
        first = next(run for run in results["runs"] if run["model"] == model)
        told = {
            "loss": [f"{first['start'][name]:.3f}" for name in NAMES],
            "reference loss": [f"{of['reference'][name]:.3f}" for name in NAMES],
            "detected share": [
                f"{of['detected']['shares'][name]:.3f} ± {of['detected']['se'][name]:.3f}"
                for name in NAMES
            ],
        }
        rows += [[f"{model}, {what}", *cells] for what, cells in told.items()]
    return table(["", *NAMES], rows)


def losses(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for mix in MODELS["instruct"]:
        of = list(by_seed(runs, mix).values())
        ends = [f"{statistics.fmean(run['end'][name] for run in of):.3f}" for name in NAMES]
        tokens = statistics.fmean(sum(run["trained_tokens"].values()) for run in of)
        value, half = interval([mean_loss(run) for run in of])
        rows.append([mix, *ends, f"**{value:.4f}** ± {half:.4f}", f"{tokens:,.0f}"])
    return table(["mix", *NAMES, "mean", "trained tokens"], rows)


def differences(results: Mapping[str, Any]) -> str:
    runs, shares = results["runs"], results["models"]["instruct"]["detected"]["shares"]
    rows = []
    for better, worse in (*ORDER, *MORE_PAIRS):
        value, half = paired(runs, better, worse)
        cells = [f"{paired(runs, better, worse, weights={n: 1.0})[0]:+.3f}" for n in NAMES]
        weighted = signed(*paired(runs, better, worse, weights=shares))
        told = [signed(value, half), verdict(value, half), weighted]
        rows.append([f"{better} / {worse}", *cells, *told])
    header = ["first / second", *NAMES, "mean", "first ≤ second", "mean by detected shares"]
    return table(header, rows)


def expansion(runs: Sequence[Mapping[str, Any]]) -> str:
    whole = by_seed(runs, "only target")
    rows = []
    for mix in MODELS["base"]:
        of = by_seed(runs, mix)
        share = statistics.fmean(
            run["trained_tokens"][TARGET] / sum(run["trained_tokens"].values())
            for run in of.values()
        )
        kept = interval([gain(run) / gain(whole[seed]) for seed, run in of.items()])
        tokens = statistics.fmean(sum(run["trained_tokens"].values()) for run in of.values())
        rows.append(
            [
                mix,
                f"{share:.3f}",
                signed(*interval([gain(run) for run in of.values()])),
                f"{100 * kept[0]:.1f} ± {100 * kept[1]:.1f} %",
                signed(*interval([rises(run) for run in of.values()])),
                *(
                    f"{statistics.fmean(rises(run, [name]) for run in of.values()):+.3f}"
                    for name in REST
                ),
                f"{tokens:,.0f}",
            ]
        )
    header = [
        "mix",
        f"{TARGET}'s share of tokens",
        "its loss fell by",
        "of the gain",
        "others rose by, sum",
    ]
    return table([*header, *REST, "trained tokens"], rows)


def expansion_differences(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for first, second in EXPANSION_PAIRS:
        one, two = by_seed(runs, first), by_seed(runs, second)
        found = [
            interval([number(one[seed]) - number(two[seed]) for seed in sorted(one)])
            for number in (gain, rises)
        ]
        rows.append([f"{first} / {second}", *(signed(*value) for value in found)])
    return table(["first / second", f"fall of {TARGET}'s loss", "rise of the others', sum"], rows)


def main() -> int:
    """The command line."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", action="store_true", help="only print the tables")
    asked = parser.parse_args()
    if not asked.tables:
        if asked.out is None:
            parser.error("--out is needed to run")
        run(asked.out, seeds=asked.seeds)
    if len({found["seed"] for found in read_json(RESULTS)["runs"]}) > 1:
        print(tables(read_json(RESULTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
