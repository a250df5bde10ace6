"""`lamina demo`: the whole of lamina on its own small models, in a few minutes, from files.

Merges math and code into instruct by LATA (with controls) and by plain task arithmetic; merges the
unwanted expert in, too, and makes that model forget it again; measures every member and merge on
every domain. Then asks what instruct knows of six domains, and tunes it on them with weights that
move; ranks the modules of base, and tunes some of them (`jobs.demo_layers`). Writes one page.
"""

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import read_json, write_atomic, write_json_atomic
from lamina.core.yaml import dump_yaml
from lamina.jobs import demo_layers
from lamina.jobs.watch import Watcher

MEMBERS = ("base", "instruct", "math", "code", "unwanted")
FORGOTTEN, NEVER_SEEN, POLLUTED = "unwanted", "unwanted_new", "with_unwanted"
BY_RANK = "forget_by_rank"
DETECTED, TUNED = "detect", "tune"
DOMAINS = ("law", "medicine", "finance", "science", "code", "general")
MARK = "demo.txt"


def demo_folder() -> Path:
    """Where the demo's models and texts lie in the installed package."""
    return Path(str(files("lamina"))) / "demo"


def list_members() -> dict[str, str]:
    """Member -> folder.

    Raises:
        DataError: the installation lacks them.
    """
    found = {name: demo_folder() / "models" / name for name in MEMBERS}
    missing = [name for name, folder in found.items() if not folder.is_dir()]
    if missing:
        raise DataError(
            f"the demo's models are missing from {demo_folder()}: {', '.join(missing)}. Install "
            "lamina from its wheel or repository, or make them with `make models`."
        )
    return {name: str(folder) for name, folder in found.items()}


def recipes(members: Mapping[str, str], out: Path) -> dict[str, dict[str, Any]]:
    """The recipes of the demo by folder, in the order they run, as written beside its results."""
    experts = [{"model": members[name], "parameters": {"weight": 0.5}} for name in ("math", "code")]
    unwanted = {"model": members[FORGOTTEN], "parameters": {"weight": 1.0}}
    plain = {"merge_method": "task_arithmetic", "base_model": members["instruct"]}
    lata = {
        "merge_method": "lata",
        "base_model": members["base"],
        "instruct_model": members["instruct"],
    }
    rule = {"rule": "linear_drop", "granularity": "block", "others": "keep"}
    forgetting = {
        **lata,
        "target_model": str(out / POLLUTED),
        "models": [{"model": members[FORGOTTEN]}],
        "dtype": "bfloat16",
    }
    return {
        "lata": {**lata, "models": experts, "parameters": rule, "dtype": "bfloat16"},
        "task_arithmetic": {**plain, "models": experts, "dtype": "bfloat16"},
        POLLUTED: {**plain, "models": [*experts, unwanted], "dtype": "bfloat16"},
        "forget": forgetting,
        BY_RANK: {**forgetting, "parameters": rule},
    }


def tune_recipes(members: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What is known, and the tuning that begins there: the recipes by folder.

    The instruct model has something left to learn in five of the domains; the base reads most of
    them as well as it can (docs/studies.md). Each domain is asked rows and plain text.
    """
    folder = demo_folder() / "domains"
    domains = {
        name: [str(folder / f"{name}{end}.jsonl.gz") for end in ("", "_text")] for name in DOMAINS
    }
    missing = [path for paths in domains.values() for path in paths if not Path(path).is_file()]
    if missing:
        raise DataError(
            f"the demo's rows are missing from {folder}: {', '.join(Path(m).name for m in missing)}"
            ". Install lamina from its wheel or repository."
        )
    detect = {"texts": 100, "repeats": 3, "max_new_tokens": 64, "classifier": {"rows": 300}}
    train = {
        "method": "full",
        "learning_rate": 5e-4,
        "betas": [0.9, 0.95],
        "batch_size": 4,
        "windows": 6,
        "window_steps": 6,
        "report_to": [],
    }
    mixture = {
        "policy": "foster",
        "start": "detected",
        "detected": DETECTED,
        "growth": 64,
        "floor": 0.02,
        "reference": {"way": "tuned", "windows": 2, "window_steps": 6, "patience": 1},
    }
    return {
        DETECTED: {"domains": domains, "detect": detect},
        TUNED: {
            "model": members["instruct"],
            "domains": domains,
            "data": {"max_length": 512, "heldout_rows": 16},
            "train": train,
            "mixture": mixture,
        },
    }


def layer_recipes(members: Mapping[str, str]) -> tuple[demo_layers.Recipe, demo_layers.Recipes]:
    """The ranking of the raw model on requests and answers, and the tunings by folder."""
    rows, base = str(demo_folder() / "domains" / "general.jsonl.gz"), members["base"]
    return demo_layers.rank_recipe(base, rows), demo_layers.plan_recipes(base, rows)


def run_demo(out: Path, watch: Watcher) -> dict[str, Any]:
    """Run everything and write `out`; returns where the page and the numbers are.

    Raises:
        OutputError: something that is not an earlier demo stands there.
        DataError: the demo's models, texts or rows are missing.
    """
    from lamina.evaluate.perplexity import TextLoss, measure
    from lamina.evaluate.run import metrics_of
    from lamina.evaluate.text import read_documents
    from lamina.jobs.controls import bundled_texts, paired_with
    from lamina.jobs.merge import run_merge
    from lamina.report.page import write_demo_page

    members = list_members()
    tuning, layers = tune_recipes(members), layer_recipes(members)
    out = _make_room(out)
    for name, recipe in recipes(members, out).items():
        write_atomic(out / f"{name}.yaml", dump_yaml(recipe).encode())
        verb = "forget" if name.startswith("forget") else "merge"
        controls = name == "lata"
        flag = " --controls" if controls else ""
        watch.tell(f"lamina {verb} {out / name}.yaml {out / name}{flag}")
        run_merge(
            out / f"{name}.yaml",
            out / name,
            forget=verb == "forget",
            controls=controls,
            watch=watch,
        )
    texts = {domain: read_documents(path) for domain, path in bundled_texts().items()}
    losses: dict[str, dict[str, TextLoss]] = {}
    for name in ("instruct", FORGOTTEN, "task_arithmetic", POLLUTED, "forget", BY_RANK):
        watch.stage(f"measuring {name.replace('_', ' ')}", 0)
        folder = Path(members[name]) if name in members else out / name
        base = Path(members["instruct"]) if name == FORGOTTEN else None
        losses[name.replace("_", " ")] = measure(folder, texts, base=base)
    first = read_json(out / "lata" / "metrics.json")
    others = {name: metrics_of(by) for name, by in losses.items() if name != "instruct"}
    paired = first["paired"]
    paired["differences"] |= paired_with(losses, "instruct")["differences"]
    order = [*first["order"], *others]
    order = sorted(order, key=lambda name: name not in MEMBERS)
    metrics = {
        **first,
        "order": order,
        "models": {**first["models"], **others},
        "paired": paired,
        "forget": {"text": _forgetting(losses, read_json(out / "forget" / "plan.json"))},
    }
    write_json_atomic(out / "metrics.json", metrics, sort_keys=False)
    _detect_and_tune(members["instruct"], tuning, out, watch)
    demo_layers.run_layers(*layers, out, _Outline(watch))
    page = write_demo_page(
        out,
        {
            "LATA: math and code into instruct": "lata",
            "Plain task arithmetic": "task_arithmetic",
            "A model that also knows the unwanted facts": POLLUTED,
            "Forgetting them, by the paper's threshold": "forget",
            "Forgetting them, by rank": BY_RANK,
            "What the instruct model knows": DETECTED,
            "Tuning it with weights that move": TUNED,
            "Which modules of the raw model matter": demo_layers.RANKED,
        },
    )
    return {"folder": str(out), "page": str(page), "numbers": str(out / "metrics.json")}


def _detect_and_tune(
    model: str, tuning: Mapping[str, Mapping[str, Any]], out: Path, watch: Watcher
) -> None:
    """Both runs, each from a recipe that is written beside its folder."""
    from lamina.jobs.detect import run_detect
    from lamina.jobs.tune import run_tune

    paths = {name: out / f"{name}.yaml" for name in tuning}
    for name, recipe in tuning.items():
        write_atomic(paths[name], dump_yaml(dict(recipe)).encode())
    watch.tell(f"lamina detect {model} --domains {paths[DETECTED]} --out {out / DETECTED}")
    run_detect(model, paths[DETECTED], out / DETECTED, watch=watch)
    watch.tell(f"lamina tune {paths[TUNED]} --out {out / TUNED}")
    run_tune(paths[TUNED], out / TUNED, watch=_Outline(watch))


class _Outline(Watcher):
    """Without the indented lines: samples and reasons are in the page."""

    def __init__(self, watch: Watcher) -> None:
        self._watch = watch

    def stage(self, name: str, total_bytes: int) -> None:
        self._watch.stage(name, total_bytes)

    def advance(self, num_bytes: int) -> None:
        self._watch.advance(num_bytes)

    def tell(self, line: str) -> None:
        if not line.startswith(" "):
            self._watch.tell(line)


def _forgetting(losses: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """What forgetting did, in words: on the unwanted facts and on everything else."""
    taken = list(plan["experts"][FORGOTTEN]["coefficients"].values())
    whole = sum(taken) == len(taken)
    clean, before = losses["task arithmetic"], losses[POLLUTED.replace("_", " ")]
    told = [
        f"On the unwanted facts the model that learnt them has a loss of "
        f"{before[FORGOTTEN].loss:.3f}; the same merge without them {clean[FORGOTTEN].loss:.3f}.",
        f"The paper's threshold takes {int(sum(taken))} of {len(taken)} layers of the vector away: "
        + _change(losses["forget"], before),
        "That is the whole vector, so this only undoes the merge, and says nothing about choosing "
        "layers."
        if whole
        else "",
        "By rank, the layers most like the instruction vector are spared: "
        + _change(losses[BY_RANK.replace("_", " ")], before),
    ]
    return " ".join(filter(None, told))


def _change(after: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    from lamina.evaluate.compare import mean_difference, paired_difference

    gone = paired_difference(after[FORGOTTEN], before[FORGOTTEN])
    others = [d for d in after if d not in (FORGOTTEN, NEVER_SEEN)]
    rest = mean_difference([paired_difference(after[d], before[d]) for d in others])
    return (
        f"{gone.value:+.3f} ± {gone.se or 0:.3f} on the unwanted facts, {rest.value:+.3f} ± "
        f"{rest.se or 0:.3f} on the mean of the {len(others)} other domains."
    )


def _make_room(out: Path) -> Path:
    """An empty folder for the demo, in place of an earlier demo's."""
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise OutputError(
                f"{out} is not empty and is no earlier demo. Give another folder: lamina demo OUT."
            )
        shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text("Written by `lamina demo`, which may replace it.\n")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}.") from None
    return out.absolute()
