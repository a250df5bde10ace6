"""Around a tune run: its folder, its recipe's paths, its checksums and its card."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamina.core.errors import OutputError, RecipeError
from lamina.core.recipe import validate
from lamina.jobs.claimed import leave, standing, take
from lamina.jobs.tune import Place, local_paths, run_tune, write_lines, write_recipe
from lamina.versatune.recipe import TuneRecipe

# ---- the folder --------------------------------------------------------------------------------


def begun(out: Path) -> Path:
    """A folder as a run leaves it that has not trained yet."""
    out.mkdir(parents=True)
    (out / "log.jsonl").write_text('{"event": "begun"}\n')
    (out / "recipe.yaml").write_text("model: base\n")
    return out


def checkpoint(out: Path) -> Path:
    folder = out / "checkpoints" / "checkpoint-3"
    folder.mkdir(parents=True)
    (folder / "mixture.json").write_text("{}")
    return folder


def finished(out: Path, kind: str = "tune") -> Path:
    (begun(out) / "manifest.json").write_text(json.dumps({"kind": kind}))
    return out


def ask(out: Path, *inputs: Path, resume: bool = False, overwrite: bool = False) -> Any:
    return standing(out, inputs, resume=resume, overwrite=overwrite)


WAYS = [{}, {"resume": True}, {"overwrite": True}]


@pytest.mark.parametrize("way", WAYS, ids=["new", "resume", "overwrite"])
def test_a_run_may_begin_where_nothing_of_worth_stands(tmp_path: Path, way: Any) -> None:
    assert ask(tmp_path / "none", **way) is None
    (tmp_path / "empty").mkdir()
    assert ask(tmp_path / "empty", **way) is None
    out = begun(tmp_path / "begun")
    (out / "checkpoints" / ".writing" / "checkpoint-3").mkdir(parents=True)
    assert ask(out, **way) is None


@pytest.mark.parametrize(
    "dear",
    [
        "checkpoints/checkpoint-3/mixture.json",
        "reference/law/checkpoints/checkpoint-3/mixture.json",
        "detect/journal.jsonl",
    ],
)
def test_what_took_time_is_not_begun_again(tmp_path: Path, dear: str) -> None:
    file = begun(tmp_path / "out") / dear
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(OutputError, match=r"not finished\. Go on with it by --resume"):
        ask(tmp_path / "out")
    assert ask(tmp_path / "out", resume=True) is None
    assert ask(tmp_path / "out", overwrite=True) is None


def test_a_finished_run_is_given_or_kept(tmp_path: Path) -> None:
    out = finished(tmp_path / "out")
    assert ask(out, resume=True) == {"kind": "tune"}
    assert ask(out, overwrite=True) is None
    with pytest.raises(OutputError, match="holds a finished run"):
        ask(out)


@pytest.mark.parametrize("way", WAYS, ids=["new", "resume", "overwrite"])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["recipe.yaml"], "no log.jsonl of a tune run"),
        (["recipe.yaml", "model", "data.json"], "no log.jsonl"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
        ([".git"], ".git"),
    ],
)
def test_a_users_own_folder_is_left_alone(
    tmp_path: Path, names: list[str], words: str, way: Any
) -> None:
    for name in names:
        (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(OutputError, match="holds no tune run") as told:
        ask(tmp_path / "out", **way)
    assert words in str(told.value)


@pytest.mark.parametrize("text", ['{"kind": "merge"}', "[]", "{", ""])
def test_an_output_of_another_kind_is_left_alone(tmp_path: Path, text: str) -> None:
    (finished(tmp_path / "out") / "manifest.json").write_text(text)
    with pytest.raises(OutputError, match="holds no tune run"):
        ask(tmp_path / "out", overwrite=True)


def test_inputs_and_the_run_lie_apart(tmp_path: Path) -> None:
    rows = tmp_path / "data" / "law.jsonl"
    rows.parent.mkdir()
    rows.write_text("{}")
    for out in (tmp_path, tmp_path / "data"):
        with pytest.raises(OutputError, match="Inputs are never written into"):
            ask(out, rows)
    with pytest.raises(OutputError, match="Inputs are never written into"):
        ask(tmp_path / "data" / "new", tmp_path / "data")
    with pytest.raises(OutputError, match="is a file, so no folder can stand in it"):
        ask(rows / "new")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with pytest.raises(OutputError, match="is a link"):
        ask(tmp_path / "link")


def test_taking_keeps_or_empties(tmp_path: Path) -> None:
    out = begun(tmp_path / "out")
    checkpoint(out)
    take(out, keep=True)
    assert (out / "checkpoints").is_dir()
    take(out, keep=False)
    assert list(out.iterdir()) == []
    (out / "mine.txt").write_text("put here meanwhile")
    with pytest.raises(OutputError, match="changed meanwhile"):
        take(out, keep=False)
    assert (out / "mine.txt").is_file()


def test_leaving_takes_back_only_what_cost_nothing(tmp_path: Path) -> None:
    (begun(tmp_path / "out") / "checkpoints").mkdir()  # refused before the first was written
    leave(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    out = begun(tmp_path / "out")
    checkpoint(out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("")
    for folder in (out, tmp_path / "mine", tmp_path / "none"):
        leave(folder)
    assert (out / "recipe.yaml").is_file()
    assert (tmp_path / "mine" / "recipe.yaml").is_file()


# ---- the recipe --------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for folder in ("home/base", "home/adapter", "home/shares", "home/judge"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("law.jsonl", "held.jsonl", "text.txt", "own.jinja"):
        (tmp_path / "home" / file).write_text("x")
    return tmp_path / "home"


def recipe(**keys: Any) -> TuneRecipe:
    values: dict[str, Any] = {
        "model": "base",
        "domains": {"law": {"path": "law.jsonl", "heldout": "held.jsonl"}, "code": "org/code"},
    }
    return validate(TuneRecipe, values | keys, "recipe.yaml")


EVERY_PATH: dict[str, Any] = {
    "model": "base+adapter",
    "general": "text.txt",
    "data": {"chat_template": "own.jinja"},
    "mixture": {"policy": "constant", "start": "detected", "detected": "shares"},
    "detect": {"judge": "model", "model": {"path": "judge"}},
}


def test_every_path_leads_from_the_run_to_the_same_file(home: Path) -> None:
    out = home.parent / "runs" / "one"
    out.mkdir(parents=True)
    write_recipe(recipe(**EVERY_PATH), Place(out, home, False))
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert written["model"] == "../../home/base+../../home/adapter"
    assert written["domains"]["law"]["sources"][0]["path"] == "../../home/law.jsonl"
    assert written["domains"]["law"]["heldout"][0]["path"] == "../../home/held.jsonl"
    assert written["domains"]["code"]["sources"][0]["path"] == "org/code"
    assert written["general"] == "../../home/text.txt"
    assert written["data"]["chat_template"] == "../../home/own.jinja"
    assert written["mixture"][0]["detected"] == "../../home/shares"
    assert written["detect"]["model"]["path"] == "../../home/judge"


def test_names_that_are_no_files_stay_names(home: Path) -> None:
    out = home.parent / "one"
    out.mkdir()
    write_recipe(recipe(data={"chat_template": "chatml"}), Place(out, home, False))
    written = yaml.safe_load((out / "recipe.yaml").read_text())
    assert written["data"]["chat_template"] == "chatml"
    assert written["general"] == "default"


def test_what_a_recipe_reads_is_known(home: Path) -> None:
    names = {path.name for path in local_paths(recipe(**EVERY_PATH), home)}
    assert {
        "base",
        "adapter",
        "law.jsonl",
        "held.jsonl",
        "text.txt",
        "own.jinja",
        "shares",
    } <= names
    assert "code" not in names


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml"):
        run_tune(tmp_path / "none.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lines_are_json_one_by_one(tmp_path: Path) -> None:
    write_lines(tmp_path / "x.jsonl", [{"a": 1 / 3}, {"b": "§"}])
    assert (tmp_path / "x.jsonl").read_text() == '{"a": 0.3333333333333333}\n{"b": "§"}\n'
