"""Run folders of rankings made by hand, with numbers of a likely size, and plans for tunings.

`python tests/report/make_rank.py FOLDER` writes one of each kind, to look at.
"""

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

TYPES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
WEIGHT = {"v_proj": 1.6, "o_proj": 1.5, "down_proj": 1.9, "up_proj": 1.0, "gate_proj": 0.8,
          "q_proj": 0.35, "k_proj": 0.15}  # fmt: skip
SUBLAYERS = ("attention", "mlp")


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def units_of(blocks: int, grain: str = "module", types: tuple[str, ...] = TYPES) -> list[str]:
    if grain == "block":
        return [str(block) for block in range(blocks)]
    kinds = SUBLAYERS if grain == "sublayer" else types
    return [f"{block}.{kind}" for block in range(blocks) for kind in kinds]


def truth(units: list[str], rng: random.Random, blocks: int) -> dict[str, float]:
    """Gains in nats a token: later blocks and some types bring more."""
    found = {}
    for unit in units:
        block, _, kind = unit.partition(".")
        rise = 0.3 + 1.4 * (int(block) + 0.5) / blocks
        found[unit] = 0.004 * rise * WEIGHT.get(kind.rsplit(".", 1)[-1], 1.0) * math.exp(
            0.45 * rng.gauss(0, 1)
        )  # fmt: skip
    return found


def make_scores(
    units: list[str], values: dict[str, float], *, seeds: int, noise: float, way: str,
    grain: str = "module", seed: int = 1,
) -> dict[str, Any]:  # fmt: skip
    rng = random.Random(seed)
    size = noise * sum(values.values()) / len(values)
    drawn = [{unit: values[unit] + size * rng.gauss(0, 1) for unit in units} for _ in range(seeds)]
    mean = {unit: sum(one[unit] for one in drawn) / seeds for unit in units}
    spread = {
        unit: math.sqrt(sum((one[unit] - mean[unit]) ** 2 for one in drawn) / max(1, seeds - 1))
        for unit in units
    }
    return {
        "schema": "lamina.scores/1",
        "method": way,
        "unit": "nats a token",
        "granularity": grain,
        "higher_means": "brings more of what the adapter gains",
        "values": mean,
        "columns": {
            **{f"seed_{place}": one for place, one in enumerate(drawn)},
            "parameters": dict.fromkeys(units, 16.0 * 384),
            "weights": dict.fromkeys(units, 192.0 * 192),
        },
        "spread": spread if seeds > 1 else None,
        "model": "models/demo-base",
        "inputs": {"model": "sha256:abc", "data": "sha256:def", "adapter": "sha256:012"},
        "prefix": "model.layers",
    }


def places(values: dict[str, float]) -> dict[str, int]:
    ordered = sorted(values, key=lambda unit: -values[unit])
    return {unit: place for place, unit in enumerate(ordered)}


def spearman(a: dict[str, float], b: dict[str, float]) -> float:
    """Of values without ties."""
    one, other, many = places(a), places(b), len(a)
    gaps = sum((one[unit] - other[unit]) ** 2 for unit in a)
    return 1.0 - 6.0 * gaps / (many * (many * many - 1)) if many > 1 else 0.0


def top_of(values: dict[str, float], share: float) -> list[str]:
    count = max(1, math.ceil(share * len(values) - 1e-9))
    return sorted(values, key=lambda unit: -values[unit])[:count]


def make_agreement(
    scores: dict[str, dict[str, Any]], *, share: float, examples: int | None, error: float | None
) -> dict[str, Any]:
    names = list(scores)
    values = {name: scores[name]["values"] for name in names}
    tops = {name: set(top_of(values[name], share)) for name in names}
    count, total = len(tops[names[0]]), len(values[names[0]])
    chance = count / total
    shared = [[len(tops[a] & tops[b]) / count for b in names] for a in names]
    main = scores[names[0]]
    seeds = [one for key, one in main["columns"].items() if key.startswith("seed_")]
    between = [[spearman(a, b) for b in seeds] for a in seeds]
    removed = scores.get("leave_one_out")
    gain = sum(values[names[0]].values())
    return {
        "schema": "lamina.agreement/1",
        "way": names[0],
        "share": share,
        "seeds": list(range(len(seeds))),
        "between_seeds": {
            "spearman": between,
            "lowest": min((one for row in between for one in row), default=None)
            if len(seeds) > 1
            else None,
        },
        "rankings": names,
        "spearman": [[spearman(values[a], values[b]) for b in names] for a in names],
        "shared": shared,
        "corrected": [[(one - chance) / (1 - chance) if chance < 1 else 0.0 for one in row]
                      for row in shared],
        "jaccard": [[one / (2 - one) for one in row] for row in shared],
        "chance": chance,
        "jaccard_chance": chance / (2 - chance),
        "leave_one_out": {
            "spearman": spearman(values[names[0]], removed["values"]),
            "examples": examples,
            "values": removed["values"],
        }
        if removed
        else None,
        "completeness": None
        if error is None
        else {"sum": gain, "difference": gain / (1 + error), "relative_error": error},
        "cost": {"batches": 48, "tokens": 181_204, "stage_one_steps": 160, "stable_at": 112,
                 "passes": dict.fromkeys(names, 48)},
    }  # fmt: skip


def make_rank(
    folder: Path,
    *,
    blocks: int = 8,
    grain: str = "module",
    types: tuple[str, ...] = TYPES,
    seeds: int = 2,
    noise: float = 0.06,
    beside: tuple[str, ...] = ("leave_one_out", "delta_norm"),
    share: float = 0.3,
    error: float | None = 0.004,
    agreement: bool = True,
    plan: bool = False,
    data: dict[str, Any] | None = None,
) -> Path:
    """A ranking; `noise` is the spread over seeds in mean values."""
    rng = random.Random(7)
    units = units_of(blocks, grain, types)
    known = truth(units, rng, blocks)
    scores = {"integrate": make_scores(units, known, seeds=seeds, noise=noise, way="integrate",
                                       grain=grain)}  # fmt: skip
    for place, way in enumerate(beside):
        blur = 0.1 if way == "leave_one_out" else 0.9
        scores[way] = make_scores(units, known, seeds=1, noise=blur, way=way, grain=grain,
                                  seed=11 + place)  # fmt: skip
        write(folder / "scores" / f"{way}.json", scores[way])
    main = scores["integrate"]
    write(folder / "scores.json", main)
    found = make_agreement(scores, share=share, examples=64, error=error)
    if agreement:
        write(folder / "agreement.json", found)
    if data is not None:
        write(folder / "data.json", data)
    top = top_of(main["values"], share)
    if plan:
        write(folder / "plan.json", make_plan(units, top, blocks=blocks))
    removed = found["leave_one_out"]
    recipe = {"model": "models/demo-base", "way": "integrate", "beside": list(beside),
              "seeds": seeds, "share": share, "train": {"method": "lora", "rank": 8}}  # fmt: skip
    (folder / "recipe.yaml").write_text(
        f"model: models/demo-base\nway: integrate\nseeds: {seeds}\nshare: {share}\n"
    )
    gain = sum(main["values"].values())
    results = {
        "status": "done",
        "way": "integrate",
        "modules": len(units),
        "blocks": blocks,
        "top": top,
        "spearman_between_seeds": found["between_seeds"]["lowest"],
        "spearman_leave_one_out": removed["spearman"] if removed else None,
        "batches": 48,
        "stage_one_steps": 160,
        "stage_one_stopped": "stable at step 112: three looks within .005",
        "stage_one_losses": [2.94 - 0.25 * (1 - math.exp(-look / 2)) for look in range(9)],
        "loss_without": 2.941,
        "loss_with": 2.941 - gain,
    }
    write(folder / "manifest.json", manifest(recipe, results))
    return folder


def manifest(recipe: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "lamina.manifest/1",
        "kind": "rank",
        "status": "complete",
        "versions": {"lamina": "0.3.0", "python": "3.11.7", "torch": "2.13.0"},
        "recipe": recipe,
        "inputs": {"model": {"path": "models/demo-base", "license": "apache-2.0"}},
        "outputs": {"scores.json": {"bytes": 9_120, "checksum": "c0de" * 8}},
        "results": results,
        "warnings": [],
    }


def make_plan(
    units: list[str], chosen: list[str], *, blocks: int, ranks: dict[str, int] | None = None,
    full: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """A tuning plan."""
    lowest = min((int(unit.split(".")[0]) for unit in chosen), default=0)
    part = len(chosen) / len(units)
    made: dict[str, Any] = {
        "schema": "lamina.layer_plan/1",
        "granularity": "module",
        "coefficients": {unit: float(unit in chosen) for unit in units},
        "others": 0.0,
        "rule": "top",
        "from_scores": "scores.json",
        "parameters": {"share": round(part, 3)},
        "prefix": "model.layers",
        "model": "models/demo-base",
        "inputs": {"model": "sha256:abc"},
        "price": {
            "lowest_block": lowest,
            "num_blocks": blocks,
            "modules": len(chosen),
            "of_modules": len(units),
            "parameters": 6144 * len(chosen),
            "of_parameters": 6144 * len(units),
            "step": 1.06 + (1 - lowest / blocks),
            "step_all": 2.12,
            "step_checkpointed": 1.06 + 2 * (1 - lowest / blocks),
            "step_cached": 2 * (1 - lowest / blocks),
        },
    }
    if ranks:
        made |= {"ranks": ranks}
    return made | ({"full": list(full)} if full else {})


def add_plan(folder: Path, *, layerwise: str | None = None, method: str = "lora") -> Path:
    """A plan for a tuning that is there, and what its recipe says of it."""
    units = units_of(8)
    chosen = [unit for unit in units if int(unit.split(".")[0]) >= 5 and "k_proj" not in unit]
    ranks = {unit: 4 + int(unit.split(".")[0]) for unit in chosen} if layerwise else None
    full = ("7.input_layernorm", "norm")
    write(folder / "plan.json", make_plan(units, chosen, blocks=8, ranks=ranks, full=full))
    facts = json.loads((folder / "manifest.json").read_text())
    facts["recipe"]["plan"] = {"file": "plan.json"}
    facts["recipe"]["train"]["method"] = method
    if layerwise:
        facts["recipe"]["layerwise"] = {"way": layerwise}
    write(folder / "manifest.json", facts)
    return folder


def make_all_ranked(folder: Path, data: dict[str, Any] | None = None) -> list[Path]:
    """A folder of each kind of ranking."""
    few = ("leave_one_out", "delta_norm", "snr", "lora_drop", "sparse")
    made = [
        make_rank(folder / "whole", beside=few, plan=True, data=data),
        make_rank(folder / "noisy", noise=1.6, beside=("leave_one_out",), error=0.21),
        make_rank(folder / "one-seed", seeds=1, beside=(), agreement=False),
        make_rank(folder / "blocks", grain="block", beside=("block_influence",)),
        make_rank(folder / "sublayers", grain="sublayer", beside=("shapley",), seeds=3),
        make_rank(folder / "large", blocks=42, seeds=3, data=data),
        make_rank(
            folder / "experts", blocks=4, beside=(),
            types=(*TYPES[:4], *(f"mlp.experts.{n}.down_proj" for n in range(48))),
        ),
        make_rank(folder / "all", share=1.0, blocks=2, beside=()),
        make_rank(folder / "single", blocks=1, grain="block", beside=(), agreement=False),
    ]  # fmt: skip
    facts = json.loads((folder / "one-seed" / "manifest.json").read_text())
    facts["results"] |= {"stage_one_steps": 0, "stage_one_stopped": None, "loss_with": 3.2}
    write(folder / "one-seed" / "manifest.json", facts)
    return made


if __name__ == "__main__":
    from lamina.report.page import write_report

    for made in make_all_ranked(Path(sys.argv[1])):
        print(write_report(made))
