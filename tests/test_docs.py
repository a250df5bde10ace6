"""What the documents say is there: links, functions, keys, and the checksum's recipe."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lamina.core.recipe import validate
from lamina.core.rules import RULES as PLAN_RULES
from lamina.core.rules import parameters_of as rule_parameters
from lamina.core.yaml import load_yaml
from lamina.evaluate.tasks.registry import DEFINITIONS
from lamina.evaluate.tasks.rows import ENDINGS
from lamina.ila.recipe import STAGE_ONE, WAYS, RankRecipe
from lamina.merge.keys import ALL_PARAMETERS, KEYS, METHODS, RULES
from lamina.merge.recipe import from_dict
from lamina.versatune.policies import POLICIES, parameters_of
from lamina.versatune.recipe import TuneRecipe

HOME = Path(__file__).parents[1]
PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/*.md"), HOME / "dev" / "LOG.md"])


def read(name: str) -> str:
    return (HOME / name).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """What GitHub makes of headings."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_pages_were_found():
    names = {str(page.relative_to(HOME)) for page in PAGES}
    assert names >= {"README.md", "CHANGELOG.md", "dev/LOG.md", "docs/merging.md"}
    assert len(names) >= 10, names


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = page if not file else (page.parent / file)
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name}: {link}"


def test_every_function_that_the_papers_page_names_is_there():
    text = read("docs/papers.md")
    floors = "core|weights|data|merge|engine|ila|lata|versatune|jobs|evaluate"
    names = sorted(set(re.findall(rf"`((?:{floors})\.[A-Za-z_.]+)`", text)))
    assert len(names) > 120
    assert [name for name in names if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether `merge.methods.kept_count` is a module or something in one."""
    parts = ["lamina", *name.split(".")]
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = vars(found).get(part)
        return found is not None
    return False


def test_every_key_method_and_rule_stands_in_the_reference():
    text = read("docs/merging.md")
    known = {*KEYS, *METHODS, *RULES, *(f"parameters.{key}" for key in ALL_PARAMETERS)}
    keys = {*re.findall(r"`([\w.\[\]]+)`", text)}
    missing = sorted(key for key in known - keys if not any(k.startswith(f"{key}.") for k in keys))
    assert missing == []


@pytest.mark.parametrize("page", ["README.md", "docs/merging.md"])
def test_the_recipe_in_the_text_is_one(page: str):
    blocks = re.findall(r"```yaml\n(.*?)```", read(page), re.DOTALL)
    whole = [block for block in blocks if "merge_method" in block]
    assert len(whole) == 1
    assert from_dict(load_yaml(whole[0]), page).warnings == ()


def default_keys(model: Any, prefix: str = "") -> dict[str, str]:
    """Key -> its default as the tables write it, for all keys below a recipe's class."""
    keys: dict[str, str] = {}
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True)
        inner = models_in(field.annotation)
        keys |= {} if inner else {f"{prefix}{name}": shown(value)}
        for one in inner:
            keys |= default_keys(one, f"{prefix}{name}.")
    return keys


def models_in(kind: Any) -> list[Any]:
    """The recipe classes in an annotation, however deep."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [found for part in get_args(kind) for found in models_in(part)]


def shown(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:g}" if value < 1e6 else str(value)
        case tuple() | list():
            return f"[{', '.join(map(shown, value))}]"
        case str() if len(value) > 60:
            return "ours"  # a prompt
        case _ if value is PydanticUndefined:
            return ""
        case _:
            return str(value)


def key_rows(page: str, heading: str) -> list[tuple[str, str, str]]:
    """(stars, key, default) of every row of the tables below a heading."""
    text = read(page).partition(f"## {heading}\n")[2]
    return re.findall(r"^\| (\**)`([\w.]+)`\** \| (.*?) ?\|", text, re.MULTILINE)


def test_every_key_of_a_tuning_stands_in_the_reference_with_its_default():
    rows = key_rows("docs/tuning.md", "The recipe, key by key")
    written = {key: default for _, key, default in rows}
    real = {
        key.removeprefix("domains.sources."): default
        for key, default in default_keys(TuneRecipe).items()
        if not key.startswith("domains.heldout.")
    }
    ours = {"domains", "domains.NAME.sources", "domains.NAME.heldout"}
    assert {key: default for key, default in written.items() if key not in ours} == real
    bold = {key for stars, key, _ in rows if stars}
    assert bold - {"domains"} == {key for key, default in real.items() if default == ""}


def test_every_key_of_a_ranking_stands_in_the_reference_with_its_default():
    rows = key_rows("docs/layers.md", "The recipe of a ranking, key by key")
    every = default_keys(RankRecipe)
    shared = {key for key in every if key.startswith(("data.", "train."))}
    assert shared <= {key for _, key, _ in key_rows("docs/tuning.md", "The recipe, key by key")}
    real = {key: default for key, default in every.items() if key not in shared}
    real = {key: default for key, default in real.items() if not key.startswith("domains.")}
    real |= {"domains": "{}", **{f"train.{key}": shown(value) for key, value in STAGE_ONE.items()}}
    assert {key: default for _, key, default in rows} == real
    assert {key for stars, key, _ in rows if stars} == {k for k, value in real.items() if not value}


def test_every_way_and_rule_stands_in_its_table():
    ways = re.findall(r"^\| `(\w+)` \| ", section("docs/layers.md", "Ways"), re.MULTILINE)
    assert sorted(ways) == sorted(WAYS)
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) ?\|", section("docs/layers.md", "Rules", 3), re.MULTILINE
    )
    written = {
        name: {*re.findall(r"`(\w+)`", keys)}
        for names, keys in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert written == {name: {*rule_parameters(name)} for name in PLAN_RULES}


def section(page: str, heading: str, level: int = 2) -> str:
    """What stands below a heading, up to the next one."""
    below = read(page).partition(f"\n{'#' * level} {heading}\n")[2]
    return re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0]


def test_the_plans_in_the_text_are_plans():
    text = read("docs/layers.md")
    lines = re.findall(r"^ *((?:plan|layerwise): [^#\n]+)", text, re.MULTILINE)
    assert len(lines) == 5, lines
    recipe = {"model": "./instruct", "domains": {"law": "law.jsonl"}}
    for line in lines:
        method = "full" if line.startswith("layerwise") else "lora"
        validate(TuneRecipe, {**recipe, "train": {"method": method}, **load_yaml(line)}, line)


def test_every_policy_stands_in_the_table_with_its_parameters():
    rows = re.findall(r"^\| `(\w+)` \| .*? \| (.*?) ?\| .*?\| .* \|$", read("docs/tuning.md"), re.M)
    table = {name: parameters for name, parameters in rows if name in POLICIES}
    assert list(table) == [name for name in table if name in POLICIES]
    assert set(table) == set(POLICIES)
    for name, text in table.items():
        written = dict(re.findall(r"`(\w+)` ?([\w.]*)", text))
        known = {
            key: "" if value in (None, inspect.Parameter.empty) else shown(value)
            for key, value in parameters_of(name).items()
        }
        assert written == known, name


@pytest.mark.parametrize("page", ["README.md", "docs/tuning.md"])
def test_the_tune_recipes_in_the_text_are_recipes(page: str):
    blocks = re.findall(r"```yaml\n(.*?)```", read(page), re.DOTALL)
    values = [load_yaml(block) for block in blocks]
    whole = [value for value in values if "domains" in value and "model" in value]
    assert len(whole) == 1
    validate(TuneRecipe, whole[0], page)
    for part in values:
        if part not in whole and "merge_method" not in part:
            validate(TuneRecipe, {**whole[0], "train": {}, **part}, page)


def test_every_task_stands_in_its_table_with_its_measures_examples_and_files():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| .*? \| (-|\d+).*? \| (.*?) \|$",
        section("docs/evaluation.md", "Tasks"),
        re.MULTILINE,
    )
    assert sorted(name for name, *_ in rows) == sorted(DEFINITIONS)
    for name, measures, examples, files in rows:
        one = DEFINITIONS[name]
        assert re.findall(r"`(.*?)`", measures) == [m.name for m in one.task.metrics], name
        assert examples == ("-" if one.no_examples else str(one.few_shot)), name
        first = [split.files[0] for split in (one.test, one.shots) if split is not None]
        assert re.findall(r"`(.*?)`", files)[: len(first)] == first, name
    assert all(f"`{ending}`" in read("docs/evaluation.md") for ending in ENDINGS)


def test_every_flag_of_the_evaluation_page_is_one_and_every_one_is_in_the_help():
    from lamina.cli.evaluating import evaluate
    from lamina.cli.sandboxing import sandbox

    flags = {
        f"--{name.replace('_', '-')}"
        for verb in (evaluate, sandbox)
        for name, one in inspect.signature(verb).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    }
    others = {"--apply_chat_template", "--harness-python"}  # the harness's, a benchmark's
    for page in ("docs/evaluation.md", "docs/sandbox.md"):
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", read(page)))
        assert named
        assert named - flags - others == set(), page
    told = inspect.getdoc(evaluate) or ""
    keywords = [
        name
        for name, one in inspect.signature(evaluate).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    assert len(keywords) > 20
    assert [name for name in keywords if f"\n{name}\n" not in told] == []


def test_the_checksum_in_the_text_is_the_one_we_write(tmp_path: Path):
    from safetensors.numpy import save_file

    from lamina.weights.headers import read_header
    from lamina.weights.sources import MappedFile, checksum_range, combined_digest

    noise = np.random.default_rng(0)
    tensors = {
        "b.weight": noise.normal(size=(50, 33)).astype(np.float32),
        "a.weight": noise.normal(size=(7,)).astype(np.float16),
        "zeros": np.zeros(64, np.float32),
    }
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    header = read_header(file)
    mapped = MappedFile(header)
    ours = combined_digest((t.name, checksum_range(mapped, t.begin, t.end)) for t in header.tensors)
    blocks = re.findall(r"```python\n(.*?)```", read("docs/merging.md"), re.DOTALL)
    (block,) = [block for block in blocks if "file_checksum" in block]
    space: dict[str, Any] = {}
    exec(block, space)
    assert space["file_checksum"](str(file)) == ours
