"""Do ILA's claims hold on small models? Ways to rank modules, and what tuning some of them keeps.

    python studies/ila.py ranking --out DIR [--model FOLDER] [--data NAME_OR_FILE ...] [sizes]
    python studies/ila.py tuning --out DIR [--seeds N] [--part 0/2]
    python studies/ila.py tables

`ranking` runs `lamina rank` with every way on one adapter per data set, on the rows of three seeds,
and, for the default way, on the adapters of two more stages 1. What is asked: which way agrees with
exact leave-one-out, with itself on other rows, and at what cost? And how far do the most important
modules of two data sets overlap, beside what chance gives?

`tuning` takes those rankings and tunes the model anew, from the start, on some of its modules: the
top 10, 20, 30 %, all but the lowest 25 %, and the baselines of as many modules, or parameters. A
seed is one initialisation, one order of the rows and, for the random choices, one draw; all
conditions of a seed share the first two, so they are compared seed by seed. What counts is the loss
of held-out rows at the end, which neither ranking nor tuning has seen.

Each finished run is a line of `studies/results/ila_ranking.jsonl` or `ila_tuning.jsonl`; what has
its line is not run again, so stop it and start it again. Two processes may share the work with
`--part 0/2` and `--part 1/2`. `tables` prints what docs/studies.md shows.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from lamina.core.agreement import overlap, spearman
from lamina.core.manifest import read_json
from lamina.core.scores import LayerScores
from lamina.core.yaml import dump_yaml
from lamina.ila.recipe import WAYS as ALL_WAYS
from lamina.jobs.demo import demo_folder

RESULTS = Path(__file__).parent / "results"
RANKING, TUNING = RESULTS / "ila_ranking.jsonl", RESULTS / "ila_tuning.jsonl"
MODEL = "base"
"""The demo's raw language model: tuned on requests and answers, it has most to learn."""
SETS = ("general", "medicine")
"""Two of the demo's domains: everyday requests, and questions to doctors."""
WAYS = ("taylor", "integrate", "leave_one_out", "delta_norm", "lora_drop", "snr")
"""The first is the default of `lamina rank`; the conditions below choose by it. `learn`, `sparse`,
`shapley` and `block_influence` cost more: name them with --ways."""
SHARE = 0.3
ADAPTERS = 3
"""Stages 1 with other seeds; the first is measured in all ways, the others in the default one."""
DATA = {"max_length": 512, "heldout_rows": 48, "seed": 0}
"""The same in rankings and tunings, so the same rows are held out of both."""
TRAIN = {
    "method": "lora",
    "learning_rate": 2e-3,
    "batch_size": 2,
    "rank": 8,
    "alpha": 16,
    "report_to": [],
    "keep_checkpoints": 1,
}
STAGE = {
    **TRAIN, "learning_rate": 3e-3, "batch_size": 4, "windows": 10, "window_steps": 20
}  # fmt: skip
"""To the last of 200 steps, cosine: a test of stability at .5 % would end it in mid-course."""
STABLE = {"change": 1e-9}
TUNE = {**TRAIN, "windows": 1, "window_steps": 60, "save_every": 1_000_000}
CONDITIONS: Mapping[str, Mapping[str, Any] | None] = {
    "all modules": None,
    "lowest 25 % frozen": {"rule": "top", "share": 0.75, "way": "taylor"},
    "random 25 % frozen": {"rule": "random", "share": 0.75},
    "top 30 %": {"rule": "top", "share": 0.3, "way": "taylor"},
    "top 20 %": {"rule": "top", "share": 0.2, "way": "taylor"},
    "top 10 %": {"rule": "top", "share": 0.1, "way": "taylor"},
    "integrate, top 30 %": {"rule": "top", "share": 0.3, "way": "integrate"},
    "leave-one-out, top 30 %": {"rule": "top", "share": 0.3, "way": "leave_one_out"},
    "delta norm, top 30 %": {"rule": "top", "share": 0.3, "way": "delta_norm"},
    "snr, top 30 %": {"rule": "top", "share": 0.3, "way": "snr"},
    "random 30 %": {"rule": "random", "share": 0.3},
    "random, parameters of top 30 %": {"rule": "matched_random", "share": 0.3, "way": "taylor"},
    "first 30 %": {"rule": "first", "share": 0.3},
    "last 30 %": {"rule": "last", "share": 0.3},
    "lowest 30 %": {"rule": "bottom", "share": 0.3, "way": "taylor"},
}
"""A rule of plans and whose scores it reads."""
DRAWN = ("random", "matched_random")
PAIRS = (
    ("lowest 25 % frozen", "all modules"),
    ("lowest 25 % frozen", "random 25 % frozen"),
    ("top 30 %", "all modules"),
    ("top 30 %", "random 30 %"),
    ("top 30 %", "random, parameters of top 30 %"),
    ("top 30 %", "first 30 %"),
    ("top 30 %", "last 30 %"),
    ("top 30 %", "integrate, top 30 %"),
    ("top 30 %", "leave-one-out, top 30 %"),
    ("top 30 %", "delta norm, top 30 %"),
    ("top 30 %", "snr, top 30 %"),
    ("top 30 %", "lowest 30 %"),
)
"""The first of a pair should have the lower loss, or (against all modules) one no higher."""
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t, two-sided 95 %, by degrees of freedom."""


# ---- Rankings -----------------------------------------------------------------------------------


def rank_recipe(
    model: str, rows: str, *, seed: int, ways: Sequence[str], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """A recipe of `lamina rank`: one adapter, measured by the first of the ways and the others."""
    train = {**STAGE, **sizes["train"], "seed": seed}
    return {
        "model": model,
        "domains": {"rows": rows},
        "way": ways[0],
        "beside": list(ways[1:]),
        "seeds": sizes["seeds"],
        "share": SHARE,
        "data": {**DATA, **sizes["data"]},
        "train": train,
        "stable": STABLE,
        "gates": sizes["gates"],
    }


def run_rankings(given: argparse.Namespace) -> None:
    """Every data set with every adapter; a line each."""
    from lamina.jobs.rank import run_rank

    model, name = model_of(given.model)
    done = {(one["model"], one["data"], one["adapter"]) for one in lines(RANKING)}
    for data in given.data:
        rows, label = rows_of(data)
        for adapter in range(given.adapters):
            if (name, label, adapter) in done:
                continue
            ways = given.ways if adapter == 0 else given.ways[:1]
            values = rank_recipe(model, rows, seed=adapter, ways=ways, sizes=sizes_of(given))
            out = given.out / f"rank-{name}-{label}-{adapter}"
            began, cpu = time.monotonic(), time.process_time()
            run_rank(str(written(values, out.with_suffix(".yaml"))), out, resume=True)
            took = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
            add(RANKING, {
                "model": name, "data": label, "adapter": adapter, "commit": commit(),
                "sizes": sizes_of(given), **took, **collected(out, ways),
            })  # fmt: skip
            print(f"{out.name}: {took['cpu_seconds']:.0f} CPU seconds", flush=True)


def collected(out: Path, ways: Sequence[str]) -> dict[str, Any]:
    """What the tables need of one finished ranking."""
    agreement = read_json(out / "agreement.json")
    results = read_json(out / "manifest.json")["results"]
    found: dict[str, Any] = {}
    for way in ways:
        file = out / "scores.json" if way == ways[0] else out / "scores" / f"{way}.json"
        scores = LayerScores.from_json(file.read_text())
        seeds = [key for key in scores.columns if key.startswith("seed_")]
        found[way] = {
            "granularity": scores.granularity,
            "values": shortened(scores.values),
            "seeds": [shortened(scores.columns[key]) for key in sorted(seeds)],
            "notes": agreement["notes"][way],
            "passes": agreement["cost"]["passes"].get(way, 0),
        }
    keys = ("stage_one_steps", "stage_one_stopped", "loss_without", "loss_with", "blocks")
    told = {key: results[key] for key in keys}
    return {**told, "completeness": agreement["completeness"], "ways": found}


def shortened(values: Mapping[str, float]) -> dict[str, float]:
    """Six digits are more than a ranking needs."""
    return {unit: float(f"{value:.6g}") for unit, value in values.items()}


def sizes_of(given: argparse.Namespace) -> dict[str, Any]:
    """What the options of the command line say of sizes."""
    train = {
        "windows": given.looks,
        "window_steps": given.look_steps,
        "batch_size": given.batch_size,
        "learning_rate": given.rate,
        "rank": given.rank,
        "alpha": 2 * given.rank,
        "dtype": given.dtype,
    }
    return {
        "seeds": given.seeds,
        "data": {"max_length": given.length, "heldout_rows": given.heldout},
        "train": train,
        "gates": {"batches": given.batches, "rows": given.rows, "samples": given.samples},
    }


def model_of(given: str) -> tuple[str, str]:
    """A folder, and what its results are called: one of the demo's models, or any."""
    folder = demo_folder() / "models" / given
    ours = folder.is_dir() and "/" not in given
    return (str(folder), given) if ours else (given, Path(given).name)


def rows_of(given: str) -> tuple[str, str]:
    """A file of rows, and what its results are called: one of the demo's domains, or any."""
    file = demo_folder() / "domains" / f"{given}.jsonl.gz"
    path, name = (file, given) if file.is_file() else (Path(given), Path(given).name.split(".")[0])
    return str(path.absolute()), name


# ---- Tunings ------------------------------------------------------------------------------------


def tune_recipe(condition: str, data: str, *, seed: int, ranked: Path) -> dict[str, Any]:
    """A recipe of `lamina tune`; `ranked` is the folder of the data set's ranking."""
    model, _ = model_of(MODEL)
    values: dict[str, Any] = {
        "model": model,
        "domains": {data: rows_of(data)[0]},
        "data": DATA,
        "train": {**TUNE, "seed": seed},
        "mixture": {"policy": "uniform"},
        "general": None,
    }
    chosen = CONDITIONS[condition]
    if chosen is None:
        return values
    plan = {key: value for key, value in chosen.items() if key != "way"}
    if chosen["rule"] in DRAWN:
        plan["seed"] = seed
    way = chosen.get("way")
    if way is not None:
        file = "scores.json" if way == WAYS[0] else f"scores/{way}.json"
        plan["scores"] = str((ranked / file).absolute())
    return values | {"plan": plan}


def run_tunings(given: argparse.Namespace) -> None:
    """Seed by seed all conditions on all data sets; a line each."""
    from lamina.jobs.tune import run_tune

    asked = [
        (seed, data, condition)
        for seed in range(given.seeds)
        for data in given.data
        for condition in CONDITIONS
    ]
    part, parts = (int(number) for number in given.part.split("/"))
    for seed, data, condition in asked[part::parts]:
        done = {(one["seed"], one["data"], one["condition"]) for one in lines(TUNING)}
        if (seed, data, condition) in done:
            continue
        ranked = given.out / f"rank-{MODEL}-{data}-0"
        values = tune_recipe(condition, data, seed=seed, ranked=ranked)
        name = condition.replace(" %", "").replace(",", "").replace(" ", "-")
        out = given.out / f"tune-{data}-{name}-{seed}"
        cpu = time.process_time()
        told = run_tune(written(values, out.with_suffix(".yaml")), out, overwrite=True)
        results = told["results"]
        if results["status"] != "done":
            raise SystemExit(f"{out.name} was stopped; the same command goes on with the others")
        add(TUNING, {
            "model": MODEL, "data": data, "condition": condition, "seed": seed,
            "commit": commit(), "train": TUNE, "start": results["start"][data],
            "end": results["end"][data], "trained_tokens": results["trained_tokens"][data],
            "cpu_seconds": round(time.process_time() - cpu, 1), **planned(out),
        })  # fmt: skip
        print(f"{out.name}: {results['end'][data]:.4f}", flush=True)


def planned(out: Path) -> dict[str, Any]:
    """What was tuned: modules and values; None for all of them."""
    if not (out / "plan.json").is_file():
        return {"price": None, "chosen": None}
    plan = read_json(out / "plan.json")
    chosen = [unit for unit, value in plan["coefficients"].items() if value]
    return {"price": plan["price"], "chosen": chosen}


# ---- Files --------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    """The results so far."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def add(path: Path, result: Mapping[str, Any]) -> None:
    """One more result; a line is written at once, so two processes may write."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write((json.dumps(result) + "\n").encode())


def written(values: Mapping[str, Any], path: Path) -> Path:
    """A recipe as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(dict(values)))
    return path


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


def paired(runs: Sequence[Mapping[str, Any]], first: str, second: str) -> tuple[float, float]:
    """Loss of the first condition less that of the second, over seeds; below 0: first is better."""
    one, two = ends_of(runs, first), ends_of(runs, second)
    return interval([one[seed] - two[seed] for seed in sorted(one.keys() & two.keys())])


def ends_of(runs: Sequence[Mapping[str, Any]], condition: str) -> dict[int, float]:
    """The held-out loss at the end, by seed."""
    return {run["seed"]: run["end"] for run in runs if run["condition"] == condition}


def kept_of(runs: Sequence[Mapping[str, Any]], condition: str) -> tuple[float, float]:
    """How much of what tuning all modules gains is gained: a share, over seeds."""
    whole = {run["seed"]: run for run in runs if run["condition"] == "all modules"}
    shares = [
        (run["start"] - run["end"]) / (whole[run["seed"]]["start"] - whole[run["seed"]]["end"])
        for run in runs
        if run["condition"] == condition and run["seed"] in whole
    ]
    return interval(shares)


def verdict(value: float, half: float) -> str:
    """Whether the first of a pair has the lower loss."""
    if abs(value) <= half:
        return "not told apart"
    return "lower" if value < 0 else "higher"


def mean_of(tables: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over seeds, unit by unit."""
    return {unit: statistics.fmean(table[unit] for table in tables) for unit in tables[0]}


def grouped(values: Mapping[str, float], granularity: str) -> dict[str, float]:
    """Scores of modules added up to those of sub-layers or blocks."""
    if granularity == "module":
        return dict(values)
    sums: dict[str, float] = {}
    for unit, value in values.items():
        block, _, module = unit.partition(".")
        part = "mlp" if module.startswith("mlp") else "attention"
        key = block if granularity == "block" else f"{block}.{part}"
        sums[key] = sums.get(key, 0.0) + value
    return sums


def against_exact(found: Mapping[str, Any], exact: Mapping[str, Any]) -> tuple[float, float]:
    """Spearman against leave-one-out: all rows of both, and rows that the other did not see.

    The second is the mean over seeds of one seed's numbers against leave-one-out of the others.
    """
    grain = found["granularity"]
    together = spearman(found["values"], grouped(exact["values"], grain))
    if len(exact["seeds"]) < 2:
        return together, math.nan
    apart = []
    for seed in range(len(exact["seeds"])):
        others = [table for place, table in enumerate(exact["seeds"]) if place != seed]
        own = found["seeds"][seed] if len(found["seeds"]) > seed else found["values"]
        apart.append(spearman(own, grouped(mean_of(others), grain)))
    return together, statistics.fmean(apart)


def between(tables: Sequence[Mapping[str, float]]) -> float:
    """The lowest Spearman of any two; nan where there is one table."""
    return min((spearman(a, b) for a, b in combinations(tables, 2)), default=math.nan)


def batches_of(way: str, found: Mapping[str, Any], gates: Mapping[str, Any]) -> tuple[float, str]:
    """Batches of one seed's measurement, and what is done with each."""
    seeds = max(1, len(found["seeds"]))
    if way == "leave_one_out":
        return found["notes"][0]["passes"] * gates["batches"], "forward"
    if way in ("lora_drop", "block_influence"):
        return gates["batches"], "forward"
    return found["passes"] / seeds, "forward" if way == "shapley" else "forward, backward"


# ---- Tables -------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    head = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in head)


def shown(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def tables() -> str:
    """All tables as Markdown, from the results files."""
    ranked, tuned = lines(RANKING), lines(TUNING)
    told = []
    for model in dict.fromkeys(one["model"] for one in ranked):
        of = [one for one in ranked if one["model"] == model]
        told += [f"Ways to rank, {model}:", ways_table(of)]
        told += [f"Overlap of the top {SHARE:.0%}, {model}:", overlap_table(of)]
    for data in dict.fromkeys(one["data"] for one in tuned):
        of = [one for one in tuned if one["data"] == data]
        told += [f"Tuning on {data}:", conditions_table(of)]
        told += [f"The first's loss less the second's, {data}:", pairs_table(of)]
    return "\n\n".join(told)


def ways_table(ranked: Sequence[Mapping[str, Any]]) -> str:
    """Every way beside leave-one-out and beside itself, one pair of columns for each data set."""
    whole = [one for one in ranked if one["adapter"] == 0]
    others = [one for one in ranked if one["adapter"] != 0]
    header = ["way"]
    for one in whole:
        header += [f"{one['data']}: leave-one-out", "on other rows", "between seeds"]
    rows = []
    for way in whole[0]["ways"]:
        cells = []
        for one in whole:
            found, exact = one["ways"].get(way), one["ways"].get("leave_one_out")
            if found is None:
                cells += ["–"] * 3
                continue
            told = (math.nan, math.nan) if exact is None else against_exact(found, exact)
            cells += ["–" if way == "leave_one_out" else shown(told[0]), shown(told[1])]
            cells += [shown(between(found["seeds"]))]
        number, kind = batches_of(way, whole[0]["ways"][way], whole[0]["sizes"]["gates"])
        rows.append([way.replace("_", " "), *cells, f"{number:,.0f}", kind if number else "–"])
    first = next(iter(whole[0]["ways"]))
    adapters = []
    for one in whole:
        more = [other for other in others if other["data"] == one["data"]]
        values = [other["ways"][first]["values"] for other in (one, *more)]
        adapters += ["–", "–", shown(between(values))]
    rows.append([f"{first}, adapters of other seeds", *adapters, "", ""])
    return table([*header, "batches", "each"], rows)


def overlap_table(ranked: Sequence[Mapping[str, Any]]) -> str:
    """How alike two data sets are to each way, beside chance."""
    whole = [one for one in ranked if one["adapter"] == 0]
    rows = []
    for a, b in combinations(whole, 2):
        for way in whole[0]["ways"]:
            if way == "snr" or way not in b["ways"]:
                continue  # looks at no data, or was not measured on both
            one, two = (as_scores(way, of["ways"][way]) for of in (a, b))
            found = overlap(one, two, SHARE)
            rows.append([
                f"{way.replace('_', ' ')}: {a['data']}, {b['data']}",
                shown(found.shared), shown(found.chance), f"**{found.corrected:.3f}**",
                shown(found.jaccard), shown(found.jaccard_chance),
                shown(spearman(one.values, two.values)),
            ])  # fmt: skip
    header = [
        "way and data",
        "shared",
        "by chance",
        "corrected",
        "Jaccard",
        "by chance",
        "Spearman",
    ]
    return table(header, rows)


def as_scores(way: str, found: Mapping[str, Any]) -> LayerScores:
    return LayerScores(
        method=way,
        unit="",
        granularity=found["granularity"],
        higher_means="",
        values=found["values"],
        model="",
        inputs={},
    )


def conditions_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """What each condition trains and what loss it comes to."""
    priced = [run["price"] for run in runs if run["price"]]
    every = {key: priced[0][f"of_{key}"] for key in ("modules", "parameters")} if priced else {}
    rows = []
    for condition in CONDITIONS:
        of = [run for run in runs if run["condition"] == condition]
        if len(of) < 2:
            continue
        prices = [run["price"] or every | {"lowest_block": 0} for run in of]
        parameters = statistics.fmean(price["parameters"] for price in prices)
        value, half = interval([run["end"] for run in of])
        kept, kept_half = kept_of(runs, condition)
        rows.append([
            condition,
            f"{statistics.fmean(price['modules'] for price in prices):.0f}",
            f"{parameters:,.0f} ({parameters / every['parameters']:.0%})",
            f"{statistics.fmean(price['lowest_block'] for price in prices):.1f}",
            f"**{value:.4f}** ± {half:.4f}",
            f"{100 * kept:.1f} ± {100 * kept_half:.1f} %",
        ])  # fmt: skip
    header = ["condition", "modules", "trained values", "lowest block", "loss", "of all's gain"]
    return table(header, rows)


def pairs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for first, second in PAIRS:
        if min(len(ends_of(runs, first)), len(ends_of(runs, second))) < 2:
            continue
        value, half = paired(runs, first, second)
        rows.append([f"{first} / {second}", f"{value:+.4f} ± {half:.4f}", verdict(value, half)])
    return table(["first / second", "difference", "the first is"], rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    ranking, tuning = verbs.add_parser("ranking"), verbs.add_parser("tuning")
    verbs.add_parser("tables")
    for verb in (ranking, tuning):
        verb.add_argument("--out", type=Path, required=True, help="folder for the runs")
        verb.add_argument("--data", nargs="+", default=list(SETS), help="domains, or files of rows")
    tuning.add_argument("--seeds", type=int, default=5)
    tuning.add_argument("--part", default="0/1", help="of the runs, for several processes")
    ranking.add_argument("--model", default=MODEL, help="one of the demo's, or a folder")
    ranking.add_argument("--seeds", type=int, default=3, help="measurements with other rows")
    ranking.add_argument("--adapters", type=int, default=ADAPTERS)
    ranking.add_argument("--ways", nargs="+", default=list(WAYS), choices=ALL_WAYS)
    ranking.add_argument("--batches", type=int, default=12, help="of one measurement")
    ranking.add_argument("--rows", type=int, default=4, help="packed rows in a batch")
    ranking.add_argument("--samples", type=int, default=8, help="of shapley")
    ranking.add_argument("--length", type=int, default=DATA["max_length"])
    ranking.add_argument("--heldout", type=int, default=DATA["heldout_rows"])
    ranking.add_argument("--looks", type=int, default=STAGE["windows"])
    ranking.add_argument("--look-steps", type=int, default=STAGE["window_steps"])
    ranking.add_argument("--batch-size", type=int, default=STAGE["batch_size"])
    ranking.add_argument("--rate", type=float, default=STAGE["learning_rate"])
    ranking.add_argument("--rank", type=int, default=STAGE["rank"])
    ranking.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    if given.verb == "tables":
        print(tables())
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    (run_rankings if given.verb == "ranking" else run_tunings)(given)


if __name__ == "__main__":
    main()
