"""`lamina demo`: the whole of lamina on its own small models, in a few minutes, from files.

Merges math and code into instruct by LATA (with controls) and by plain task arithmetic; merges the
unwanted expert in, too, and makes that model forget it again; measures every member and merge on
every domain, and writes one page.
"""

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lamina.core.errors import DataError, OutputError
from lamina.core.manifest import read_json, write_atomic, write_json_atomic
from lamina.core.yaml import dump_yaml
from lamina.jobs.watch import Watcher

MEMBERS = ("base", "instruct", "math", "code", "unwanted")
FORGOTTEN, NEVER_SEEN, POLLUTED = "unwanted", "unwanted_new", "with_unwanted"
BY_RANK = "forget_by_rank"
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


def run_demo(out: Path, watch: Watcher) -> dict[str, Any]:
    """Run everything and write `out`; returns where the page and the numbers are.

    Raises:
        OutputError: something that is not an earlier demo stands there.
        DataError: the demo's models or texts are missing.
    """
    from lamina.evaluate.perplexity import TextLoss, measure
    from lamina.evaluate.run import metrics_of
    from lamina.evaluate.text import read_documents
    from lamina.jobs.controls import bundled_texts, paired_with
    from lamina.jobs.merge import run_merge
    from lamina.report.page import write_demo_page

    members = list_members()
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
    page = write_demo_page(
        out,
        {
            "LATA: math and code into instruct": "lata",
            "Plain task arithmetic": "task_arithmetic",
            "A model that also knows the unwanted facts": POLLUTED,
            "Forgetting them, by the paper's threshold": "forget",
            "Forgetting them, by rank": BY_RANK,
        },
    )
    return {"folder": str(out), "page": str(page), "numbers": str(out / "metrics.json")}


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
