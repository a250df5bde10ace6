"""Run folders of tunings and detections made by hand, with numbers of a likely size.

`python tests/report/make_tuned.py FOLDER` writes one of each kind, to look at.
"""

import gzip
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

FIVE = ("law", "medicine", "finance", "science", "code", "general")
TWELVE = (*FIVE, "chemistry", "history", "poetry", "patents", "mathematics", "conversations")
TEXTS = {
    "law": "The court held that the lessee, having failed to give notice within thirty days, was "
    "barred from recovering the deposit under section 12 of the Act.",
    "medicine": "A 54-year-old woman presents with dyspnea on exertion. Her ejection fraction is "
    "35 %, and a beta blocker is started at a low dose.",
    "finance": "An index fund holds the shares of a whole market, so that its costs stay low and "
    "its return is close to the average.",
    "science": "Water expands when it freezes because the hydrogen bonds hold the molecules in an "
    "open lattice.",
    "code": "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)",
    "general": "Take the tram to the harbour, then walk along the quay until you see the blue "
    "house.",
}


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def scaled(values: dict[str, float]) -> dict[str, float]:
    total = math.fsum(values.values())
    return {name: value / total for name, value in values.items()}


def make_windows(
    domains: tuple[str, ...], stages: list[tuple[str, int]], *, steps: int = 20, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, list[float]], dict[str, float]]:
    """The lines of domains.jsonl, every domain's losses (start first) and its reference."""
    rng = random.Random(seed)
    first = {name: 1.6 + 1.9 * rng.random() for name in domains}
    reference = {name: loss * (0.74 + 0.16 * rng.random()) for name, loss in first.items()}
    weights = scaled({name: 0.3 + rng.random() for name in domains})
    losses = {name: [loss] for name, loss in first.items()}
    repeats = dict.fromkeys(domains, 0.0)
    lines: list[dict[str, Any]] = []
    for stage, many in stages:
        for _ in range(many):
            number = len(lines)
            tokens = {name: round(52_000 * weight) for name, weight in weights.items()}
            rows = {name: max(1, round(one / 320)) for name, one in tokens.items()}
            before = {name: values[-1] for name, values in losses.items()}
            for place, name in enumerate(domains):
                gap = before[name] - reference[name] * 0.97
                drift = 0.006 if place % 3 == 2 else 0.0
                moved = -0.55 * weights[name] * gap + drift + 0.004 * rng.gauss(0, 1)
                losses[name].append(max(0.2, before[name] + moved))
                repeats[name] += rows[name] / (90 + 40 * place)
            now = {name: values[-1] for name, values in losses.items()}
            potential = {d: max(0.0, (now[d] - reference[d]) / now[d]) for d in domains}
            forgot = {d: max(0.0, (now[d] - before[d]) / before[d]) for d in domains}
            moves = sorted(domains, key=lambda d: -potential[d])
            lines.append(
                {
                    "window": number,
                    "step": steps * (number + 1),
                    "stage": stage,
                    "policy": stage,
                    "weights": dict(weights),
                    "rows": rows,
                    "tokens": tokens,
                    "share": scaled({d: one + 0.0 for d, one in tokens.items()}),
                    "loss": now,
                    "loss_se": {d: 0.035 + 0.02 * rng.random() for d in domains},
                    "potential": potential,
                    "forgetting": forgot,
                    "repeats": {d: round(one, 4) for d, one in repeats.items()},
                    "train_loss": {
                        d: now[d] - 0.05 - 0.08 * number / (number + 9) for d in domains
                    },
                    "reason": "the weights of the start"
                    if not number
                    else f"{moves[0]} +.04: most left to learn (potential "
                    f"{potential[moves[0]]:.2f}); {moves[-1]} -.03: least",
                }
            )
            if stage in ("uniform", "constant"):
                lines[-1]["reason"] = "the same weights throughout"
                continue
            grow = {d: weights[d] * (1 + 1.4 * potential[d]) for d in domains}
            if stage == "expand":
                grow[domains[0]] += 0.06
            weights = scaled(grow)
    return lines, losses, reference


def estimate(value: float, se: float) -> dict[str, float]:
    return {"value": value, "se": se, "low": value - 1.96 * se, "high": value + 1.96 * se}


def make_ledger(
    domains: tuple[str, ...],
    lines: list[dict[str, Any]],
    losses: dict[str, list[float]],
    *,
    noise: float = 0.012,
    crossed: bool = False,
) -> dict[str, Any]:
    """What the engine's ledger says of these windows."""
    ends = [place for place, line in enumerate(lines) if line is lines[-1]
            or lines[place + 1]["stage"] != line["stage"]]  # fmt: skip
    stages: list[dict[str, Any]] = [{"name": "start", "step": 0}]
    stages += [
        {
            "name": lines[end]["stage"],
            "step": lines[end]["step"],
            "policy": lines[end]["policy"],
            "domains": [domains[0]] if lines[end]["policy"] == "expand" else None,
        }
        for end in ends
    ]
    at = {name: [losses[name][0], *(losses[name][end + 1] for end in ends)] for name in domains}
    general = [2.911, *(2.911 + 0.004 * (place + 1) for place in range(len(ends)))]
    return {
        "schema": "lamina.ledger/1",
        "domains": list(domains),
        "unit": "nats per token",
        "stages": stages,
        "losses": {
            d: [{"loss": one, "se": 0.05, "tokens": 24_000} for one in at[d]] for d in domains
        },
        "changes": {
            d: [estimate(b - a, noise) for a, b in zip(at[d], at[d][1:], strict=False)]
            for d in domains
        },
        "total": {d: estimate(at[d][-1] - at[d][0], noise) for d in domains},
        "forgetting": {d: losses[d][-1] - min(losses[d]) for d in domains},
        "bwt": 0.0213 if len(ends) > 1 else None,
        "nbwt": 0.0087 if len(ends) > 1 else None,
        "why": None if len(ends) > 1 else "one stage has no earlier one to forget",
        "general": {
            "path": "general.txt",
            "losses": [{"loss": one, "se": 0.041, "tokens": 31_000} for one in general],
            "total": estimate(general[-1] - general[0], 0.0031),
        },
        "gate": {
            "max_forgetting": 0.05,
            "crossed": {"window": len(lines) - 1, "domain": domains[1], "value": 0.071}
            if crossed
            else None,
        },
    }


def make_data(domains: tuple[str, ...]) -> dict[str, Any]:
    def one(place: int, name: str) -> dict[str, Any]:
        text = TEXTS.get(name, f"Something of {name} that a person wrote down.")
        return {
            "sources": [
                {"path": f"data/{name}.jsonl", "type": "alpaca", "rows": 1200 + 90 * place,
                 "share": None},
                *([{"path": "data/more.parquet", "type": "messages", "rows": 400, "share": 0.25}]
                  if place == 1 else []),
            ],
            "rows_read": 1200 + 90 * place,
            "examples": 1100 + 90 * place,
            "heldout": 100,
            "truncated": 14 * place,
            "dropped_too_long": 0,
            "empty_completions": 3 if place == 2 else 0,
            "exact_duplicates": 2,
            "near_duplicates": 5 if place == 1 else 0,
            "tokens": 210_000 + 9_000 * place,
            "trained_tokens": 96_000 + 11_000 * place,
            "rows": 430 + 22 * place,
            "fill": 0.962,
            "no_end_mark": 4 if place == 0 else 0,
            "turn_by_turn": 0,
            "repeats": [["more.parquet:7", "held.jsonl:3"]] if place == 1 else [],
            "samples": [
                {
                    "place": f"{name}.jsonl:{17 + 100 * number}",
                    "pieces": [
                        [f"<|user|>\nTell me something of {name}.\n<|assistant|>\n", False],
                        [text + "</s>", True],
                    ],
                }
                for number in range(3)
            ],
        }  # fmt: skip

    return {
        "schema": "lamina.data/1",
        "max_length": 512,
        "packing": True,
        "chat_template": None,
        "domains": {name: one(place, name) for place, name in enumerate(domains)},
    }


def make_shares(
    domains: tuple[str, ...], *, corrected: bool = True, judge: str = "classifier", seed: int = 3
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """shares.json and the lines of texts.jsonl.gz."""
    rng = random.Random(seed)
    shares = scaled({name: 0.2 + rng.random() ** 2 for name in domains})
    raw = scaled({name: 0.8 * one + 0.2 / len(domains) for name, one in shares.items()})
    confusion = {
        true: scaled({judged: 9.0 if judged == true else 0.3 * rng.random() for judged in domains})
        for true in domains
    }
    found = {
        "schema": "lamina.shares/1",
        "domains": list(domains),
        "shares": shares,
        "se": {name: math.sqrt(one * (1 - one) / 1000) for name, one in shares.items()},
        "raw": raw if corrected else {},
        "repeats": [
            scaled({d: max(0.001, one + 0.012 * rng.gauss(0, 1)) for d, one in raw.items()})
            for _ in range(5)
        ],
        "texts": 1000,
        "tokens": 184_311,
        "invalid": 7,
        "judge": {
            "kind": judge,
            "accuracy": 0.931,
            "accuracy_se": 0.0098,
            "rows": 668,
            "confusion": confusion,
        },
        "corrected": corrected,
        "stopped": "after 5 of 5 repeats",
        "settings": {"temperature": 1.0, "max_new_tokens": 256, "texts": 200, "seed": 0},
    }
    texts = []
    for number in range(60):
        name = domains[number * 7 % len(domains)]
        judged = scaled({d: 6.0 if d == name else rng.random() for d in domains})
        texts.append(
            {
                "text": TEXTS.get(name, f"Of {name}, more or less.")
                + (" And so on." * (number % 90)),
                "tokens": 40 + number,
                "finished": number % 5 != 0,
                "repeat": number // 12,
                "judged": None if number == 4 else judged,
            }
        )
    return found, texts


def write_detection(folder: Path, found: dict[str, Any], texts: list[dict[str, Any]]) -> None:
    write(folder / "shares.json", found)
    body = "".join(json.dumps(text) + "\n" for text in texts)
    (folder / "texts.jsonl.gz").write_bytes(gzip.compress(body.encode(), mtime=0))


def manifest(kind: str, recipe: dict[str, Any], **more: object) -> dict[str, Any]:
    return {
        "schema": "lamina.manifest/1",
        "kind": kind,
        "status": "complete",
        "versions": {"lamina": "0.2.0", "python": "3.11.7", "torch": "2.13.0"},
        "recipe": recipe,
        "inputs": {"model": {"path": "models/demo-base", "license": "apache-2.0"}},
        "outputs": {
            "model/adapter_model.safetensors": {"bytes": 1_311_720, "checksum": "c0de" * 8}
        },
        "results": {"status": "done", "steps": 160, "trainable_parameters": 327_680},
        "warnings": ["the cap on repeats holds back law: 4.0 of 4.0"],
        **more,
    }


def make_tune(
    folder: Path,
    *,
    domains: tuple[str, ...] = FIVE,
    stages: tuple[tuple[str, int], ...] = (("foster", 8),),
    detected: bool = True,
    noise: float = 0.012,
    crossed: bool = False,
    degenerate: bool = False,
) -> Path:
    """A tuning."""
    lines, losses, reference = make_windows(domains, list(stages))
    write_lines(folder / "domains.jsonl", lines)
    write(folder / "ledger.json", make_ledger(domains, lines, losses, noise=noise, crossed=crossed))
    write(folder / "data.json", make_data(domains))
    write(
        folder / "reference.json",
        {
            "schema": "lamina.reference/1",
            "way": "tuned",
            "losses": reference,
            "se": dict.fromkeys(domains, 0.031),
            "steps": {name: 40 + 20 * place for place, name in enumerate(domains)},
            "degenerate": [domains[0]] if degenerate else [],
            "warnings": [],
        },
    )
    if detected:
        write_detection(folder / "detect", *make_shares(domains))
    mixture = [
        {"policy": name, "windows": many, "start": "detected", "max_repeats": 4.0, "unit": "tokens"}
        for name, many in stages
    ]
    recipe = {
        "model": "models/demo-base",
        "domains": {name: {"sources": [{"path": f"data/{name}.jsonl"}]} for name in domains},
        "train": {"method": "lora", "rank": 16, "windows": len(lines), "window_steps": 20},
        "mixture": mixture,
    }
    (folder / "recipe.yaml").write_text(
        "model: models/demo-base\ndomains:\n"
        + "".join(f"  {name}: data/{name}.jsonl\n" for name in domains)
        + f"train: {{method: lora, rank: 16}}\nmixture: {{policy: {stages[0][0]}}}\n"
    )
    write_lines(
        folder / "log.jsonl",
        [
            {"event": "data", "domains": {}},
            {"event": "trained", "seconds": 212.4, "peak_memory_mb": 1240.0},
            {"event": "written"},
        ],
    )
    write(folder / "manifest.json", manifest("tune", recipe))
    return folder


def make_detect(folder: Path, *, domains: tuple[str, ...] = FIVE, corrected: bool = True) -> Path:
    """A detection."""
    write_detection(folder, *make_shares(domains, corrected=corrected))
    recipe = {"model": "models/demo-base", "judge": "classifier"}
    write(folder / "manifest.json", manifest("detect", recipe, outputs={}, results={}, warnings=[]))
    return folder


def make_all_tuned(folder: Path) -> list[Path]:
    """One of each kind."""
    return [
        make_tune(folder / "foster"),
        make_tune(folder / "two-stages", stages=(("foster", 6), ("expand", 5)), degenerate=True),
        make_tune(folder / "long", domains=TWELVE, stages=(("foster", 120), ("expand", 80))),
        make_tune(folder / "one", domains=("law",), stages=(("constant", 1),), detected=False),
        make_tune(folder / "unclear", noise=3.0, crossed=True, stages=(("uniform", 3),)),
        make_detect(folder / "detected"),
        make_detect(folder / "as-judged", domains=TWELVE, corrected=False),
    ]


if __name__ == "__main__":
    for made in make_all_tuned(Path(sys.argv[1])):
        print(made)
