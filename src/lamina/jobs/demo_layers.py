"""The demo's last part: which modules of the raw model matter for requests and answers.

Ranks the modules of `base` on such rows, then tunes it four times from the start on the same rows
with the same steps: all modules, the lowest quarter frozen, the top 30 %, and random ones of as
many parameters. Each is measured on held-out requests that neither ranking nor tuning has read.
One seed and one draw: a picture of how it is done. docs/studies.md has several seeds.

    OUT/  rank.yaml rank/ layers/NAME.yaml layers/NAME/ layers.json
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.core.manifest import read_json, write_atomic, write_json_atomic
from lamina.core.yaml import dump_yaml
from lamina.jobs.watch import Watcher

Recipe, Recipes = dict[str, Any], dict[str, dict[str, Any]]
RANKED, LAYERS = "rank", "layers"
NUMBERS = "layers.json"
SCHEMA = "lamina.demo_layers/1"
DOMAIN = "instruct"
"""Of the rows here, and of the held-out text that all are measured on."""
ALL, FROZEN, TOP, RANDOM = "all", "lowest_quarter_frozen", "top_30", "random_30"
PLANS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    ALL: ("all modules", {"rule": "all"}),
    FROZEN: ("lowest quarter frozen", {"rule": "top", "share": 0.75}),
    TOP: ("top 30 %", {"rule": "top", "share": 0.3}),
    RANDOM: ("random modules", {"rule": "matched_random", "share": 0.3, "seed": 1}),
}
"""Folder below `layers` -> its name in tables, and the rule that chooses modules."""
PAIRS = ((FROZEN, ALL), (TOP, ALL), (RANDOM, ALL), (TOP, RANDOM))
TRAIN = {
    "method": "lora",
    "learning_rate": 2e-3,
    "batch_size": 4,
    "rank": 8,
    "alpha": 16,
    "keep_checkpoints": 1,
    "report_to": [],
}
DATA = {"max_length": 512, "heldout_rows": 16}


def rank_recipe(model: str, rows: str) -> Recipe:
    """The recipe of the ranking: stage 1, the default way, exact leave-one-out beside."""
    stage = {"windows": 12, "window_steps": 4, "schedule": "constant_with_warmup"}
    return {
        "model": model,
        "domains": {DOMAIN: rows},
        "beside": ["leave_one_out", "delta_norm"],
        "seeds": 2,
        "data": DATA,
        "train": {**TRAIN, **stage},
        "gates": {"batches": 6, "rows": 2},
    }


def plan_recipes(model: str, rows: str) -> Recipes:
    """The recipes of the tunings by folder; they differ in `plan` alone."""
    scores = {"scores": f"../{RANKED}/scores.json"}
    return {
        name: {
            "model": model,
            "domains": {DOMAIN: rows},
            "plan": dict(rule) if rule["rule"] == "all" else {**scores, **rule},
            "data": DATA,
            "train": {**TRAIN, "batch_size": 2, "windows": 1, "window_steps": 40},
            "mixture": {"policy": "uniform"},
            "general": None,
        }
        for name, (_, rule) in PLANS.items()
    }


def run_layers(
    ranking: Mapping[str, Any], tunings: Mapping[str, Mapping[str, Any]], out: Path, watch: Watcher
) -> dict[str, Any]:
    """Ranks, tunes and measures; gives what `layers.json` holds."""
    from lamina.jobs.rank import run_rank
    from lamina.jobs.tune import run_tune

    path = _written(ranking, out / f"{RANKED}.yaml")
    watch.tell(f"lamina rank {path} --out {out / RANKED}")
    run_rank(str(path), out / RANKED, watch=watch)
    (out / LAYERS).mkdir()
    for name, recipe in tunings.items():
        path = _written(recipe, out / LAYERS / f"{name}.yaml")
        watch.tell(f"lamina tune {path} --out {out / LAYERS / name}")
        run_tune(path, out / LAYERS / name, watch=watch)
    numbers = _measured(ranking["model"], tuple(tunings), out, watch)
    write_json_atomic(out / NUMBERS, numbers, sort_keys=False)
    return numbers


def _written(recipe: Mapping[str, Any], path: Path) -> Path:
    write_atomic(path, dump_yaml(dict(recipe)).encode())
    return path


def _measured(model: str, names: Sequence[str], out: Path, watch: Watcher) -> dict[str, Any]:
    """Held-out losses of the raw model and of every tuning, paired by request, and what each
    plan trains and costs."""
    from lamina.evaluate.compare import paired_difference
    from lamina.evaluate.perplexity import TextLoss, measure
    from lamina.evaluate.text import read_documents
    from lamina.jobs.controls import bundled_texts

    texts = {DOMAIN: read_documents(bundled_texts()[DOMAIN])}
    watch.stage("measuring base", 0)
    losses: dict[str, TextLoss] = {"base": measure(model, texts)[DOMAIN]}
    for name in names:
        watch.stage(f"measuring {name.replace('_', ' ')}", 0)
        losses[name] = measure(out / LAYERS / name / "model", texts, base=model)[DOMAIN]
    gaps = {
        (first, second): paired_difference(losses[first], losses[second])
        for first, second in PAIRS
        if {first, second} <= losses.keys()
    }
    plans = {name: read_json(out / LAYERS / name / "plan.json") for name in names}
    return {
        "schema": SCHEMA,
        "text": {"name": DOMAIN, "rows": len(texts[DOMAIN]), "tokens": losses["base"].tokens},
        "base": {"loss": losses["base"].loss, "se": losses["base"].loss_se},
        "runs": {
            name: {
                "title": PLANS[name][0],
                "loss": losses[name].loss,
                "se": losses[name].loss_se,
                "price": plans[name]["price"],
            }
            for name in names
        },
        "pairs": [
            {"first": first, "second": second, **_interval(gap.value, gap.se)}
            for (first, second), gap in gaps.items()
        ],
    }


def _interval(value: float, se: float | None) -> dict[str, float | None]:
    """A difference with its normal 95 % interval."""
    from lamina.versatune.ledger import WIDTH

    if se is None:
        return {"value": value, "se": None, "low": None, "high": None}
    return {"value": value, "se": se, "low": value - WIDTH * se, "high": value + WIDTH * se}
