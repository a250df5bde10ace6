"""Does LATA's ranking of the layers carry information? Merges and their controls, over seeds.

    python studies/lata.py experts --data DIR --out DIR [--seeds 1 2 3]
    python studies/lata.py learning --data DIR --out DIR [--seeds 1 2 3]
    python studies/lata.py forgetting --data DIR --out DIR [--seeds 1 2 3]
    python studies/lata.py answers --data DIR --out DIR [--seeds 1 2 3]
    python studies/lata.py tables

`experts` trains the experts anew from the shipped instruct model, a set for each seed
(`lata_experts.py`). `learning` merges math and code into instruct: every method tries the same
coefficients on validation rows with the first seed's experts; the best of them is tested with all
seeds, and so are the controls of every LATA rule. `forgetting` takes the expert of the forgotten
authors away from a model that knows forgotten and retained ones: every method, and every control,
is brought to the same forgetting, and what is asked is what that cost elsewhere. `answers`
asks some of the models choices, and sums of GSM8K in writing.

Each finished measurement is a line of `studies/results/lata.jsonl`; what has its line is not run
again. Test rows: MBPP and GSM8K test, and halves of the demo's held-out files that were not
validated on. `--data` is the folder of source files that `models/sources.py` lists: it is not
part of the repository. `tables` prints what docs/studies.md shows (`lata_tables.py`).
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lata_tables
from lata_experts import MODELS, train_experts

from lamina.core.plan import LayerPlan
from lamina.core.scores import LayerScores
from lamina.core.yaml import dump_yaml
from lamina.jobs.demo import demo_folder

if TYPE_CHECKING:
    from lamina.evaluate.models import LanguageModel
    from lamina.evaluate.text import Document

KEPT = ("instruct", "general", "law", "medicine", "finance", "science")
"""Domains that neither expert is for: what a merge should keep."""
WEIGHTS = (0.25, 0.45, 0.7, 1.0, 1.4)
"""The coefficients that every method tries; both experts have the same."""
SWEPT = 1
"""The seed whose experts the coefficients are chosen with, for all seeds."""
DENSITY = 0.7
"""The paper's: TIES keeps 70 % of the values, DARE drops 30 %."""
RULES = ("linear_drop", "log_drop", "threshold")
METHODS = ("task arithmetic", "TIES", "DARE", *RULES)
DRAWS = 3
TRIES, NEAR = 5, 0.005
"""How often the weight of equal forgetting is tried at most, and the nats at which it is found."""
TEXT_ROWS = 30
AUTHOR_ROWS = {"forgotten": (40, 80), "unseen": (40, 60), "retained": (0, 80)}
"""Rows of TOFU for validation and for the test."""
CHOICE_ROWS = {"arc_easy": 200, "basic_skills": 240}
LEARNING = (*METHODS, "linear_drop, embedding merged")
RANKED = (*RULES, *LEARNING[len(METHODS) :])
SUMS = 50
BATCH_TOKENS = 1024
Texts = Mapping[str, Sequence["Document"]]


# ---- Rows ---------------------------------------------------------------------------------------


def rows_of(data: Path) -> dict[str, dict[str, tuple["Document", ...]]]:
    """Texts by split and name; no row is in two splits."""
    from lamina.evaluate.text import Document, read_documents

    sys.path.insert(0, str(MODELS))
    import readers
    from rows import Row, shuffled

    def documents(rows: Iterable[Row]) -> tuple[Document, ...]:
        pairs = [row.chat() for row in rows]
        return tuple(Document(prompt, text, text) for prompt, text in pairs)

    heldout = demo_folder() / "heldout"
    found = {name: read_documents(heldout / f"{name}.jsonl.gz") for name in (*KEPT, "math", "code")}
    validation = {name: found[name][0::2] for name in ("math", "code")}
    test: dict[str, tuple[Document, ...]] = {}
    validation |= {name: found[name][0::4] for name in KEPT}
    test |= {name: found[name][1::2] for name in KEPT}
    sums = (row | {"answer": plain_solution(row["answer"])} for row in lines_of(data, "gsm8k_test"))
    asked = [Row("math", "gsm8k", row["question"], row["answer"], "") for row in sums]
    test["GSM8K test"] = documents(shuffled(asked)[:TEXT_ROWS])
    test["MBPP test"] = documents(shuffled(readers.programs(data, "test"))[:TEXT_ROWS])
    learned, unseen = readers.authors(data)
    authors = {"forgotten": learned[-400:], "unseen": unseen, "retained": learned[:-400]}
    drawn = {name: shuffled(rows) for name, rows in authors.items()}
    ends = {name: (first, first + second) for name, (first, second) in AUTHOR_ROWS.items()}
    return {
        "validation": validation,
        "test": test,
        "forgetting validation": {
            name: documents(drawn[name][: ends[name][0]]) for name in ("forgotten", "unseen")
        },
        "forgetting test": {
            name: documents(drawn[name][begin:end]) for name, (begin, end) in ends.items()
        }
        | {name: found[name][1::4] for name in KEPT},
    }


def plain_solution(answer: str) -> str:
    """A solution of GSM8K without the calculator's marks, as the math expert was taught them."""
    return "".join(part.split(">>")[-1] for part in answer.split("<<"))


def lines_of(data: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a benchmark's file."""
    path = data / "bench" / f"{name}.jsonl.gz"
    if not path.is_file():
        raise SystemExit(f"no {path}: give the folder of source files with --data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def skill_rows(data: Path, count: int) -> list[dict[str, Any]]:
    """As many rows of each of the basic skills, in the form of a user's own task file."""
    by_skill: dict[str, list[dict[str, Any]]] = {}
    for row in lines_of(data, "basic_skills"):
        by_skill.setdefault(row["skill"], []).append(row)
    each = count // len(by_skill)
    return [
        {"question": row["question"], "choices": row["choices"], "answer": row["answer"]}
        for skill in sorted(by_skill)
        for row in by_skill[skill][:: len(by_skill[skill]) // each][:each]
    ]


# ---- Merges -------------------------------------------------------------------------------------


def recipe(method: str, weight: float, experts: Mapping[str, Path]) -> dict[str, Any]:
    """The recipe of a merge into instruct."""
    members = demo_folder() / "models"
    weights = {"task arithmetic": weight, "DARE": weight, "TIES": 1.0}
    models = [
        {"model": str(path), "name": name, "parameters": {"weight": weights.get(method, weight)}}
        for name, path in experts.items()
    ]
    values: dict[str, Any] = {"models": models, "dtype": "float32"}
    plain = values | {"base_model": str(members / "instruct")}
    match method:
        case "task arithmetic":
            return plain | {"merge_method": "task_arithmetic"}
        case "TIES":  # the mean of those that agree, times lambda
            parameters = {"density": DENSITY, "lambda": weight}
            return plain | {"merge_method": "ties", "parameters": parameters}
        case "DARE":
            return plain | {"merge_method": "dare_linear", "parameters": {"density": DENSITY}}
    rule, _, how = method.partition(", ")
    parameters = {"rule": rule, "others": "merge" if how == "embedding merged" else "keep"}
    return values | {
        "merge_method": "lata",
        "base_model": str(members / "base"),
        "instruct_model": str(members / "instruct"),
        "parameters": parameters,
    }


def forgetting_recipe(method: str, weight: float, expert: Path, target: Path) -> dict[str, Any]:
    """The recipe that takes an expert away; methods without a ranking take every layer whole."""
    rule = method if method in RULES else "linear_drop"
    values = recipe(rule, weight, {"unwanted": expert}) | {"target_model": str(target)}
    if method in ("TIES", "DARE"):
        values["parameters"] |= {"method": method.lower(), "density": DENSITY}
    return values


def rank(
    values: Mapping[str, Any], out: Path
) -> tuple[dict[str, LayerScores], dict[str, LayerPlan]]:
    """LATA's similarities and its coefficients; `threshold` stands at each expert's median.

    The paper's .95 takes every layer here: an expert's similarities lie between .5 and .7.
    """
    from lamina.jobs.prepare import prepare
    from lamina.jobs.results import lata_scores
    from lamina.lata.choose import choose
    from lamina.lata.measure import measure
    from lamina.merge.sources import Sources

    prepared = prepare(written(values, out.with_suffix(".yaml")))
    inputs = prepared.inputs
    grams = measure(inputs, Sources(inputs), threads=1, progress=lambda _: None)
    scores = lata_scores(prepared, grams)
    rule, others = prepared.recipe.rule or "", prepared.recipe.others_coefficient
    return scores, {
        name: choose(table, rule, others=others, sigma=statistics.median(table.values.values()))
        for name, table in scores.items()
    }


def controls(
    scores: Mapping[str, LayerScores], plans: Mapping[str, LayerPlan], seed: int
) -> dict[str, dict[str, LayerPlan]]:
    """Those of `lamina merge --controls`, by name."""
    from lamina.jobs.controls import permuted_plan, reversed_plan, same_norm_plan

    found = {"same norm": {n: same_norm_plan(scores[n], plans[n]) for n in plans}}
    found["reversed"] = {n: reversed_plan(scores[n], plans[n]) for n in plans}
    for draw in range(1, DRAWS + 1):
        dealt = {n: permuted_plan(scores[n], plans[n], f"{seed}/{draw}/{n}") for n in plans}
        found[f"permuted {draw}"] = dealt
    return found


def all_layers(plans: Mapping[str, LayerPlan]) -> dict[str, LayerPlan]:
    """Every layer whole: task arithmetic."""
    return {
        name: plan.model_copy(update={"coefficients": dict.fromkeys(plan.coefficients, 1.0)})
        for name, plan in plans.items()
    }


def merge(
    values: Mapping[str, Any],
    out: Path,
    *,
    plans: Mapping[str, LayerPlan] | None = None,
    forget: bool = False,
) -> "LanguageModel":
    """A merge by lamina's own job, loaded."""
    from lamina.evaluate.models import find_model, load_model
    from lamina.jobs.merge import Options, merge_prepared
    from lamina.jobs.prepare import check_place, prepare
    from lamina.jobs.watch import Watcher

    prepared = prepare(written(values, out.with_suffix(".yaml")), forget=forget)
    check_place(prepared, out, overwrite=True)
    options = Options(threads=1, watch=Watcher(), overwrite=True, report=False)
    merge_prepared(prepared, out, options, plans=plans)
    return load_model(find_model(out))


def member(path: Path) -> "LanguageModel":
    """A model of the family, an adapter on the instruct model."""
    from lamina.evaluate.models import find_model, load_model

    adapter = (path / "adapter_config.json").is_file()
    return load_model(find_model(path, base=demo_folder() / "models/instruct" if adapter else None))


# ---- Measures -----------------------------------------------------------------------------------


def losses(model: "LanguageModel", texts: Texts) -> dict[str, Mapping[str, Sequence[float]]]:
    """Summed nats and tokens of every document."""
    from lamina.evaluate.perplexity import score

    found: dict[str, Mapping[str, Sequence[float]]] = {}
    for name, documents in texts.items():
        loss = score(model, documents, batch_tokens=BATCH_TOKENS)
        assert not loss.skipped, name
        nats = [round(value, 2) for value in loss.row_sums]
        found[name] = {"nats": nats, "tokens": list(loss.row_tokens)}
    return found


def mean_loss(found: Mapping[str, Mapping[str, Sequence[float]]], name: str) -> float:
    return sum(found[name]["nats"]) / sum(found[name]["tokens"])


def objective(found: Mapping[str, Mapping[str, Sequence[float]]], split: str) -> float:
    """A third each: math, code, and the mean of the domains to keep. Low is good."""
    math, code = ("math", "code") if split == "validation" else ("GSM8K test", "MBPP test")
    kept = statistics.fmean(mean_loss(found, name) for name in KEPT)
    return (mean_loss(found, math) + mean_loss(found, code) + kept) / 3


def choices(model: "LanguageModel", data: Path, out: Path) -> dict[str, Any]:
    """By task and metric one figure for each item: 1 if it is right."""
    from lamina.evaluate.choose import answer_choices, plan_choices
    from lamina.evaluate.nouns import ChoiceItem
    from lamina.evaluate.tasks import build_items, find_tasks, read_task_file

    own = out / "basic_skills.jsonl"
    if not own.is_file():
        rows = skill_rows(data, CHOICE_ROWS["basic_skills"])
        own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (easy,) = find_tasks(["arc_easy"])
    asked = {
        "arc_easy": build_items(easy, data=data, limit=CHOICE_ROWS["arc_easy"], few_shot=0),
        "basic_skills": read_task_file(own, few_shot=0),
    }
    found = {}
    for name, chosen in asked.items():
        items = [item for item in chosen.items if isinstance(item, ChoiceItem)]
        raw: dict[str, Any] = {}
        for portion in plan_choices(model, items, batch_tokens=4096):
            raw |= answer_choices(model, portion)
        values = [chosen.task.judge(item, raw[item.id]) for item in items]
        found[name] = {
            metric: "".join(f"{one[metric][0]:.0f}" for one in values)
            for metric in ("acc", "acc_norm")
        }
    return {"choices": found}


def sums(model: "LanguageModel", data: Path, out: Path) -> dict[str, Any]:
    """GSM8K answered in writing: no examples, the chat template, the likeliest token."""
    from lamina.evaluate.nouns import WriteItem
    from lamina.evaluate.tasks import build_items, find_tasks
    from lamina.evaluate.write import answer_writing, plan_writing

    def chat(messages: list[dict[str, str]]) -> str:
        text = model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return str(text)

    del out
    (task,) = find_tasks(["gsm8k"])
    chosen = build_items(task, data=data, limit=SUMS, few_shot=0, chat=chat)
    items = [item for item in chosen.items if isinstance(item, WriteItem)]
    raw: dict[str, Any] = {}
    for portion in plan_writing(model, items, batch_tokens=4096):
        raw |= answer_writing(model, portion)
    values = [task.judge(item, raw[item.id]) for item in items]
    right = {name: int(sum(one[name][0] for one in values)) for name in values[0]}
    return {"rows": len(items), "right": right}


ANSWERS: Mapping[str, tuple[tuple[str, ...], Callable[..., dict[str, Any]]]] = {
    "choices": (("instruct", *METHODS), choices),
    "sums": (("instruct", "math", "task arithmetic", "linear_drop"), sums),
}
"""Which models are asked."""


# ---- Runs ---------------------------------------------------------------------------------------


class Results:
    """The lines so far, and which of them are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = lata_tables.read_lines(path)

    def find(self, **keys: Any) -> dict[str, Any] | None:
        matching = (one for one in self.lines if all(one.get(k) == v for k, v in keys.items()))
        return next(matching, None)

    def get(self, make: Callable[[], Mapping[str, Any]], **keys: Any) -> dict[str, Any]:
        """The line with these keys; made and written if it is not there."""
        found = self.find(**keys)
        if found is None:
            found = {**keys, **make(), "commit": commit()}
            self.lines.append(found)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write((json.dumps(found) + "\n").encode())
            told = " ".join(str(value) for value in keys.values())
            print(told, flush=True)
        return found


def run_learning(data: Path, out: Path, seeds: Sequence[int], results: Results) -> None:
    """Every method's coefficient by the validation rows, then the test, seed by seed."""
    texts = rows_of(data)

    for seed in seeds:
        home = out / f"seed-{seed}"
        experts = {name: home / name for name in ("math", "code")}
        for name, path in {"instruct": demo_folder() / "models/instruct", **experts}.items():
            results.get(
                lambda path=path: {"losses": losses(member(path), texts["test"])},
                part="learning", seed=seed, method=name, control="",
            )  # fmt: skip
        for method in LEARNING if seed == SWEPT else METHODS:
            learn(method, experts, texts, out / "merged", seed, results)


def learn(
    method: str,
    experts: Mapping[str, Path],
    texts: Mapping[str, Texts],
    place: Path,
    seed: int,
    results: Results,
) -> None:
    """One method: its sweep (first seed only), its test, and its controls if it ranks layers."""
    assert seed == SWEPT or results.find(part="sweep", method=method), f"seed {SWEPT} comes first"
    scores, plans = rank(recipe(method, 1.0, experts), place) if method in RANKED else ({}, None)

    def sweep(weight: float) -> dict[str, Any]:
        model = merge(recipe(method, weight, experts), place, plans=plans)
        found = losses(model, texts["validation"])
        domains = {name: round(mean_loss(found, name), 5) for name in found}
        return {"objective": objective(found, "validation"), "domains": domains}

    tried = {}
    for weight in WEIGHTS:
        keys = {"part": "sweep", "seed": SWEPT, "method": method, "weight": weight}
        tried[weight] = results.get(lambda weight=weight: sweep(weight), **keys)["objective"]
    best = min(tried, key=lambda weight: tried[weight])

    def test(control: str, dealt: Mapping[str, LayerPlan] | None) -> dict[str, Any]:
        model = merge(recipe(method, best, experts), place, plans=dealt)
        found = {"weight": best, "losses": losses(model, texts["test"])}
        return found | (layers_of(scores, dealt) if not control else {})

    controlled = plans is not None and method in RULES
    variants = {"": plans} | (controls(scores, plans, seed) if controlled else {})
    for control, dealt in variants.items():
        keys = {"part": "learning", "seed": seed, "method": method, "control": control}
        results.get(lambda control=control, dealt=dealt: test(control, dealt), **keys)


def layers_of(
    scores: Mapping[str, LayerScores], plans: Mapping[str, LayerPlan] | None
) -> dict[str, Any]:
    """Similarities, lengths and coefficients of the layers, by expert."""
    if not plans:
        return {}
    return {
        "layers": {
            name: {
                "cosine": [round(value, 4) for value in table.values.values()],
                "squares": [round(value, 3) for value in table.columns["B"].values()],
                "coefficient": [round(plans[name].coefficients[unit], 4) for unit in table.values],
            }
            for name, table in scores.items()
            if table.granularity == "block"
        }
    }


def run_forgetting(
    data: Path,
    out: Path,
    seeds: Sequence[int],
    results: Results,
    methods: Sequence[str] = METHODS,
) -> None:
    """Every method and control at the same forgetting, seed by seed."""
    texts = rows_of(data)
    for seed in seeds:
        home = out / f"seed-{seed}"
        plain = recipe("task arithmetic", 1.0, {"authors": home / "authors"})
        knowing = merge(plain, home / "knowing")
        models = {"instruct": demo_folder() / "models/instruct", "unwanted": home / "unwanted"}
        for name, path in {**models, "knowing": home / "knowing"}.items():
            results.get(
                lambda path=path: {"losses": losses(member(path), texts["forgetting test"])},
                part="forgetting", seed=seed, method=name, control="",
            )  # fmt: skip
        before = losses(knowing, texts["forgetting validation"])
        levels = {name: mean_loss(before, name) for name in before}
        for method in methods:
            forget(method, home, levels, texts, out / "forgetful", seed, results)


def run_answers(data: Path, out: Path, seeds: Sequence[int], results: Results) -> None:
    """Choices and sums, asked of the models that `learning` has chosen coefficients for."""
    for seed in seeds:
        home = out / f"seed-{seed}"
        experts = {name: home / name for name in ("math", "code")}
        for part, (methods, asked) in ANSWERS.items():
            for method in methods:
                found = results.find(part="learning", seed=seed, method=method, control="")
                assert found is not None, f"{method}: learning comes first"
                make = partial(again, method, found, experts, out / "answering")
                if "choices" not in found or part != "choices":
                    keys = {"part": part, "seed": seed, "method": method}
                    results.get(lambda make=make, asked=asked: asked(make(), data, out), **keys)


def again(
    method: str, found: Mapping[str, Any], experts: Mapping[str, Path], place: Path
) -> "LanguageModel":
    """A member, or a merge with the coefficient that was chosen for it."""
    if method not in METHODS:
        return member(experts.get(method, demo_folder() / "models" / method))
    values = recipe(method, found["weight"], experts)
    return merge(values, place, plans=rank(values, place)[1] if method in RANKED else None)


def forget(
    method: str,
    home: Path,
    levels: Mapping[str, float],
    texts: Mapping[str, Texts],
    place: Path,
    seed: int,
    results: Results,
) -> None:
    """One method and its controls, each with the weight at which as much is forgotten."""

    def values(weight: float) -> dict[str, Any]:
        return forgetting_recipe(method, weight, home / "unwanted", home / "knowing")

    scores, plans = rank(values(1.0), place)
    variants = {"": plans if method in RULES else all_layers(plans)}
    if method in RULES:
        variants |= controls(scores, plans, seed)
        del variants["same norm"]  # of one expert at the same forgetting: task arithmetic

    def forgotten(dealt: Mapping[str, LayerPlan]) -> dict[str, Any]:
        tries: dict[float, float] = {}

        def gap(weight: float) -> float:
            model = merge(values(weight), place, plans=dealt, forget=True)
            rows = {"forgotten": texts["forgetting validation"]["forgotten"]}
            tries[weight] = mean_loss(losses(model, rows), "forgotten")
            return tries[weight] - levels["unseen"]

        weight = solve(gap, levels["forgotten"] - levels["unseen"], TRIES, NEAR)
        model = merge(values(weight), place, plans=dealt, forget=True)
        return {
            "weight": round(weight, 4),
            "goal": round(levels["unseen"], 4),
            "tries": {f"{one:.4f}": round(loss, 4) for one, loss in tries.items()},
            "losses": losses(model, texts["forgetting test"]),
        }

    for control, dealt in variants.items():
        keys = {"part": "forgetting", "seed": seed, "method": method, "control": control}
        results.get(lambda dealt=dealt: forgotten(dealt), **keys)


def solve(gap: Callable[[float], float], at_zero: float, tries: int, near: float = 0.0) -> float:
    """Where a rising function is nearest to 0, of `tries` values: the false position (Illinois).

    `at_zero` is its value at 0, which is below 0; the bracket is doubled until it holds the root.
    A value as small as `near` ends the search.
    """
    low, value_low, high = 0.0, at_zero, 1.0
    best, nearest, value_high = 0.0, abs(at_zero), 0.0
    side = 0
    for _ in range(tries):
        inside = value_high > 0
        at = (low * value_high - high * value_low) / (value_high - value_low) if inside else high
        value = gap(at)
        if abs(value) < nearest:
            best, nearest = at, abs(value)
        if nearest <= near:
            break
        if value > 0:
            high, value_high = at, value
            if side > 0:
                value_low /= 2
            side = 1 if inside else 0
        else:
            low, value_low = at, value
            if inside and side < 0:
                value_high /= 2
            side = -1 if inside else 0
            if not inside:
                high = 2 * at
    return best


# ---- Files --------------------------------------------------------------------------------------


def written(values: Mapping[str, Any], path: Path) -> Path:
    """A recipe as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(dict(values)))
    return path


def commit() -> str:
    """The commit that the code comes from."""
    asked = ["git", "-C", str(MODELS.parent), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("tables")
    for name in ("experts", "learning", "forgetting", "answers"):
        verb = verbs.add_parser(name)
        verb.add_argument("--data", type=Path, required=True, help="folder of the source files")
        verb.add_argument("--out", type=Path, required=True, help="folder for models and merges")
        verb.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
        if name == "forgetting":
            verb.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
        verb.add_argument("--results", type=Path, default=lata_tables.RESULTS)
    given = parser.parse_args()
    if given.verb == "tables":
        print(lata_tables.tables())
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if given.verb == "experts":
        train_experts(given.data, given.out, given.seeds)
        return
    results = Results(given.results)
    if given.verb == "forgetting":
        run_forgetting(given.data, given.out, given.seeds, results, given.methods)
        return
    runs = {"learning": run_learning, "answers": run_answers}
    runs[given.verb](given.data, given.out, given.seeds, results)


if __name__ == "__main__":
    main()
