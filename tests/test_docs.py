"""What the documents say is there: links, functions, keys, and the checksum's recipe."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.core.yaml import load_yaml
from lamina.merge.keys import ALL_PARAMETERS, KEYS, METHODS, RULES
from lamina.merge.recipe import from_dict

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
    floors = "core|weights|merge|lata|jobs|evaluate"
    names = sorted(set(re.findall(rf"`((?:{floors})\.[A-Za-z_.]+)`", text)))
    assert len(names) > 30
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
