"""Run folders made by hand: files as `lamina merge` writes them, with numbers of a likely size.

`python tests/report/make_fixture.py FOLDER` writes one of each kind, to look at.
"""

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

BLOCK_MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
DOMAINS = ("general", "law", "medicine", "math", "code", "facts")
START = {"general": 3.42, "law": 3.05, "medicine": 3.31, "math": 2.36, "code": 2.71, "facts": 3.18}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def expert_scores(seed: int, units: list[str], granularity: str) -> dict[str, Any]:
    """A, B, C and the cosine of eq. 6; later layers move away from the instruction vector."""
    noise = random.Random(seed)
    values: dict[str, float] = {}
    columns: dict[str, dict[str, float]] = {
        key: {} for key in ("A", "B", "C", "rho", "phi_degrees", "rank", "norm_share")
    }
    for place, unit in enumerate(units):
        depth = place / max(1, len(units) - 1)
        rho = 0.16 + 0.5 * depth**2 + 0.05 * noise.random() + (0.1 if "down_proj" in unit else 0)
        cos = -0.1 + 0.12 * noise.random()
        a = 40.0 + 25.0 * depth + 5.0 * noise.random()
        b, c = rho * rho * a, rho * cos * a
        values[unit] = (a + c) / (math.sqrt(a) * math.sqrt(a + 2 * c + b))
        for key, value in (("A", a), ("B", b), ("C", c), ("rho", rho)):
            columns[key][unit] = value
        columns["phi_degrees"][unit] = math.degrees(math.acos(cos))
    total = sum(columns["B"].values())
    columns["norm_share"] = {unit: b / total for unit, b in columns["B"].items()}
    for rank, unit in enumerate(sorted(units, key=lambda unit: -values[unit]), start=1):
        columns["rank"][unit] = rank
    return {
        "method": "lata_cosine",
        "unit": "cosine",
        "granularity": granularity,
        "higher_means": "more like the instruction vector",
        "values": values,
        "columns": columns,
        "spread": None,
        "model": "models/expert",
        "inputs": {"base": "b" * 16, "instruct": "1" * 16},
    }


def one_cell(rng: random.Random, domain: str, moved: float) -> dict[str, float]:
    loss = START[domain] + moved + 0.003 * rng.random()
    return {
        "loss": loss,
        "loss_se": 0.021 + 0.01 * rng.random(),
        "tokens": 12_000 + rng.randrange(4000),
        "word_perplexity": math.exp(loss * 1.9),
        "byte_perplexity": math.exp(loss / 3.1),
    }


def metrics(*, demo: bool = False) -> dict[str, Any]:
    """Losses of the members and merges, and controls in which the ranking helped a little."""
    rng = random.Random(7)
    moves = {
        "base": (0.05, 0.02, 0.03, 0.55, 0.11, 0.20),
        "instruct": (0.0,) * 6,
        "math": (0.09, 0.12, 0.10, -0.74, 0.16, 0.05),
        "code": (0.07, 0.10, 0.09, 0.21, -0.52, 0.04),
        "LATA": (0.012, 0.014, 0.011, -0.28, -0.17, 0.004),
        "task arithmetic": (0.031, 0.04, 0.035, -0.31, -0.19, 0.012),
    }
    if demo:
        moves["unwanted"] = (0.11, 0.1, 0.12, 0.14, 0.1, -1.05)
        moves["forgotten"] = (0.02, 0.018, 0.022, 0.03, 0.015, 0.48)
    models = {
        name: {
            domain: one_cell(rng, domain, moved) for domain, moved in zip(DOMAINS, row, strict=True)
        }
        for name, row in moves.items()
    }
    paired = {
        name: {
            domain: {"difference": (moved := cell["loss"] - models["instruct"][domain]["loss"])}
            | {"se": 0.002 + abs(moved) * 0.04, "shown": abs(moved) > 0.005}
            for domain, cell in models[name].items()
        }
        for name in models
        if name != "instruct"
    }
    own = sum(one["loss"] for one in models["LATA"].values()) / len(DOMAINS)
    differences = {
        "lata": 0.0,
        "same_norm": 0.0068,
        **{f"permuted_{draw}": 0.006 + 0.004 * rng.random() for draw in range(1, 6)},
        "reversed": 0.0174,
    }
    rows = [
        {
            "name": name,
            "mean_loss": own + moved,
            "difference": moved,
            "se": 0.0 if name == "lata" else 0.0017,
        }
        for name, moved in differences.items()
    ]
    read: dict[str, Any] = {
        "schema": "lamina.metrics/1",
        "domains": list(DOMAINS),
        "models": models,
        "paired": {"reference": "instruct", "differences": paired},
        "controls": {"text": "", "lata": "LATA", "rows": rows},
    }
    if demo:
        read["forget"] = {
            "text": "The loss on the unwanted facts rose from 2.13 to 3.66; the "
            "other domains moved by at most 0.03.",
            "unwanted_domain": "facts",
            "loss_before": 2.13,
            "loss_after": 3.66,
        }
    return read


def manifest(recipe: dict[str, Any], names: list[str], kind: str = "merge") -> dict[str, Any]:
    inputs = {
        name: {
            "path": f"models/{name}",
            "fingerprint": f"{index + 10:x}" * 32,
            "bytes": 8_421_376,
            "license": "apache-2.0" if name != "code" else "unknown",
        }
        for index, name in enumerate(names)
    }
    return {
        "schema": "lamina.manifest/1",
        "kind": kind,
        "status": "done",
        "versions": {"lamina": "0.1.0", "python": "3.11.7", "numpy": "2.3.4", "numba": "0.62.1"},
        "recipe": recipe,
        "inputs": inputs,
        "outputs": {
            "model.safetensors": {"bytes": 8_421_376, "checksum": "c0ffee" * 10},
            "config.json": {"bytes": 712, "checksum": "deca" * 16},
        },
        "results": {
            "tensors": 111,
            "tensors_changed": 108,
            "values": 4_210_688,
            "values_changed": 3_918_221,
            "values_vanished": 41_377,
            "relative_change": 0.0713,
            "per_expert": {},
            "others_share": {name: 0.28 for name in names if name not in ("base", "instruct")},
            "seconds": 0.84,
            "cpu_seconds": 1.31,
            "peak_rss_bytes": 171_000_000,
            "bytes_read": 33_685_504,
            "bytes_written": 8_421_376,
        },
        "warnings": [
            "models/code names no licence; the merge takes the strictest reading.",
        ],
    }


def units_of(blocks: int, granularity: str) -> list[str]:
    if granularity == "block":
        return [str(block) for block in range(blocks)]
    return [f"{block}.{module}" for block in range(blocks) for module in BLOCK_MODULES]


def make_lata(
    folder: Path,
    *,
    blocks: int = 12,
    granularity: str = "block",
    names: tuple[str, ...] = ("math", "code"),
    rule: str = "linear_drop",
    weight: float = 0.5,
    kind: str = "merge",
    measured: bool = True,
) -> Path:
    """A LATA merge (or, with a negative weight, a forgetting)."""
    units = units_of(blocks, granularity)
    experts = {
        name: expert_scores(index, units, granularity) for index, name in enumerate(names, start=1)
    }
    chosen: dict[str, Any] = {}
    for name, scores in experts.items():
        rank, num = scores["columns"]["rank"], len(units)
        by_rule = {
            "linear_drop": lambda unit, rank=rank, num=num: rank[unit] / num,
            "log_drop": lambda unit, rank=rank, num=num: math.log(rank[unit]) / math.log(num),
            "threshold": lambda unit, scores=scores: float(scores["values"][unit] < 0.95),
        }[rule]
        chosen[name] = {
            "granularity": granularity,
            "coefficients": {unit: by_rule(unit) for unit in units},
            "others": 0.0,
            "rule": rule,
            "from_scores": "scores.json",
            "weight": weight,
        }
    where = {
        "attention": 0.27,
        "mlp": 0.41,
        "norm": 0.004,
        "embedding": 0.196,
        "head": 0.12,
    }
    recipe = {
        "method": "lata",
        "base_model": "models/base",
        "instruct_model": "models/instruct",
        "target_model": "models/instruct",
        "models": [{"model": f"models/{name}", "name": name, "weight": weight} for name in names],
        "rule": rule,
        "threshold": 0.95,
        "granularity": granularity,
        "others": "keep",
    }
    _write(
        folder / "scores.json",
        {
            "schema": "lamina.scores/1",
            "experts": experts,
            "where": dict.fromkeys(names, where),
        },
    )
    _write(folder / "plan.json", {"schema": "lamina.plan/1", "experts": chosen})
    if measured:
        _write(folder / "metrics.json", metrics())
    lines = [
        "merge_method: lata",
        "base_model: models/base",
        "instruct_model: models/instruct",
        "models:",
        *(f"  - {{model: models/{name}, parameters: {{weight: {weight}}}}}" for name in names),
        f"parameters: {{rule: {rule}, granularity: {granularity}, others: keep}}",
        "dtype: bfloat16",
    ]
    (folder / "recipe.yaml").write_text("\n".join(lines) + "\n")
    _write(folder / "manifest.json", manifest(recipe, ["base", "instruct", *names], kind))
    return folder


def make_task_arithmetic(folder: Path, *, blocks: int = 12) -> Path:
    """A plain merge: sizes of the update only, one coefficient everywhere."""
    units = units_of(blocks, "block")
    experts = {}
    for index, name in enumerate(("math", "code"), start=1):
        scores = expert_scores(index, units, "block")
        experts[name] = {
            **scores,
            "method": "delta_norm",
            "unit": "l2",
            "higher_means": "moved further from the base model",
            "values": {unit: math.sqrt(b) for unit, b in scores["columns"]["B"].items()},
            "columns": {"norm_share": scores["columns"]["norm_share"]},
        }
    recipe = {
        "method": "task_arithmetic",
        "base_model": "models/instruct",
        "models": [
            {"model": f"models/{name}", "name": name, "weight": 0.5} for name in ("math", "code")
        ],
    }
    plan = {
        name: {
            "granularity": "block",
            "coefficients": dict.fromkeys(units, 1.0),
            "others": 1.0,
            "rule": "constant",
            "from_scores": "scores.json",
            "weight": 0.5,
        }
        for name in experts
    }
    where = {"attention": 0.3, "mlp": 0.45, "norm": 0.01, "embedding": 0.24}
    _write(
        folder / "scores.json",
        {"schema": "lamina.scores/1", "experts": experts, "where": dict.fromkeys(experts, where)},
    )
    _write(folder / "plan.json", {"schema": "lamina.plan/1", "experts": plan})
    (folder / "recipe.yaml").write_text(
        "merge_method: task_arithmetic\nbase_model: models/instruct\n"
    )
    _write(folder / "manifest.json", manifest(recipe, ["instruct", "math", "code"]))
    return folder


def make_demo(folder: Path) -> Path:
    """A demo folder: three merges and one table of losses."""
    make_lata(folder / "lata", measured=False)
    make_task_arithmetic(folder / "task_arithmetic")
    make_lata(
        folder / "forget",
        names=("unwanted",),
        rule="threshold",
        weight=-1.0,
        kind="forget",
        measured=False,
    )
    _write(folder / "metrics.json", metrics(demo=True))
    return folder


def make_all(folder: Path) -> list[Path]:
    """One of each kind."""
    return [
        make_lata(folder / "math-code-lata"),
        make_lata(folder / "eight-blocks", blocks=8, rule="log_drop"),
        make_lata(folder / "forty-two-blocks", blocks=42, names=("math", "code", "unaligned")),
        make_lata(folder / "by-module", blocks=30, granularity="module"),
        make_lata(
            folder / "forgotten",
            names=("unwanted",),
            rule="threshold",
            weight=-1.0,
            kind="forget",
            measured=False,
        ),
        make_task_arithmetic(folder / "plain"),
        make_demo(folder / "demo"),
    ]


if __name__ == "__main__":
    for made in make_all(Path(sys.argv[1])):
        print(made)
