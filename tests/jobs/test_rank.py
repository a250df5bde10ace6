"""What `lamina rank` is told by flags and recipes, and what is made of several measurements."""

import re
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.core.agreement import spearman
from lamina.core.errors import RecipeError
from lamina.core.modules import Linear, Linears
from lamina.core.recipe import load_mapping, validate
from lamina.ila.recipe import RankRecipe
from lamina.ila.ways import Found
from lamina.jobs.rank import Place, read_paths, read_rank_recipe, write_recipe
from lamina.jobs.rank_end import agreement_of, results_of, scores_of, warnings_of

IDS = ("0.self_attn.q_proj", "0.mlp.up_proj", "1.self_attn.q_proj", "1.mlp.up_proj")
KNOWN = Linears(
    "model.layers",
    2,
    {
        one: Linear(one, f"model.layers.{one}", int(one[0]), "mlp" if "mlp" in one else "attention",
                    8, 16)
        for one in IDS
    },
)  # fmt: skip


def ranking(**values: Any) -> Any:
    """A ranking of which only what its end reads is there."""
    from lamina.engine.load import Source
    from lamina.engine.state import Identity
    from lamina.jobs.rank_prepare import Ranking

    asked: dict[str, Any] = {"model": "m", "domains": {"law": "law.jsonl"}, "train": {"rank": 4}}
    recipe = validate(RankRecipe, asked | values.pop("recipe", {}), "r")
    here = Path("nowhere")
    identity = Identity(data="d", recipe="r", model="base+adapter", world=1)
    run = Ranking(
        recipe, Place(here, here, False), Source("m", here, values.pop("adapter", None)), None,
        {}, {}, identity, None, None, values.pop("ranks", {}),  # type: ignore[arg-type]
    )  # fmt: skip
    for name, value in values.items():
        setattr(run, name, value)
    return run


def found(*values: float, **columns: tuple[float, ...]) -> Found:
    tables = {name: dict(zip(IDS, column, strict=True)) for name, column in columns.items()}
    return Found(dict(zip(IDS, values, strict=True)), tables)


# ---- flags and recipes -------------------------------------------------------------------------


def test_flags_make_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    recipe, home = read_rank_recipe(
        "some/model",
        data=["rows/law.jsonl.gz", "code.jsonl"],
        flags={"way": "learn", "seeds": None, "share": 0.2},
        overrides=["gates.steps=7", "seeds=3"],
    )
    assert home == tmp_path
    assert (recipe.model, recipe.way, recipe.seeds, recipe.share) == ("some/model", "learn", 3, 0.2)
    assert tuple(recipe.domains) == ("law", "code")
    assert recipe.domains["law"].sources[0].path == "rows/law.jsonl.gz"
    assert recipe.gates.steps == 7


def test_flags_stand_above_the_recipe(tmp_path: Path):
    file = tmp_path / "r.yaml"
    file.write_text("model: m\nway: snr\nseeds: 5\ndomains: {law: law.jsonl}\n")
    recipe, home = read_rank_recipe(str(file), data=["code.jsonl"], flags={"way": "learn"})
    assert (recipe.way, recipe.seeds, home) == ("learn", 5, tmp_path)
    assert tuple(recipe.domains) == ("code",)


def test_two_files_of_one_name_are_refused():
    words = re.escape("--data gives two files of one name: law. Name their domains in a recipe")
    with pytest.raises(RecipeError, match=words):
        read_rank_recipe("m", data=["a/law.jsonl", "b/law.json", "c/code.jsonl"])


@pytest.mark.parametrize("name", [".hidden", "rows."])
def test_a_file_whose_name_is_odd_has_a_domain(name: str):
    recipe, _ = read_rank_recipe("m", data=[name])
    assert len(recipe.domains) == 1


def test_every_path_of_a_recipe_is_known(tmp_path: Path):
    recipe, _ = read_rank_recipe(
        "base+adapter",
        data=["law.jsonl"],
        flags={"way": "cosine", "base": "raw", "instruct": "told"},
        overrides=[
            "data.chat_template=t.jinja",
            "domains.law={path: law.jsonl, heldout: held.jsonl}",
        ],
    )
    assert set(read_paths(recipe, tmp_path)) == {
        "base", "adapter", "raw", "told", "t.jinja", "law.jsonl", "held.jsonl",
    }  # fmt: skip


def test_the_recipe_of_a_run_leads_to_the_same_files(tmp_path: Path):
    for name in ("model", "adapter", "runs/one"):
        (tmp_path / name).mkdir(parents=True)
    kit.write_rows(tmp_path / "rows" / "law.jsonl", kit.rows_of("law", 2))
    file = tmp_path / "r.yaml"
    file.write_text("model: model+adapter\ndomains: {law: rows/law.jsonl, far: org/set}\n")
    recipe, home = read_rank_recipe(str(file))
    write_recipe(recipe, Place(tmp_path / "runs" / "one", home, False))
    values = load_mapping(tmp_path / "runs" / "one" / "recipe.yaml")
    assert values["model"] == "../../model+../../adapter"
    assert values["domains"]["law"]["sources"][0]["path"] == "../../rows/law.jsonl"
    assert values["domains"]["far"]["sources"][0]["path"] == "org/set"
    again, _ = read_rank_recipe(str(tmp_path / "runs" / "one" / "recipe.yaml"))
    assert again.model_copy(update={"model": "", "domains": {}}) == recipe.model_copy(
        update={"model": "", "domains": {}}
    )


# ---- the end -----------------------------------------------------------------------------------


def test_scores_of_two_seeds_by_hand():
    tables = [found(1.0, 2.0, 3.0, 4.0, slope=(0.0, 0.0, 1.0, 1.0)),
              found(3.0, 2.0, 5.0, 0.0, slope=(1.0, 0.0, 1.0, 3.0))]  # fmt: skip
    scores = scores_of(ranking(), "taylor", tables, KNOWN)
    assert list(scores.values.values()) == [2.0, 2.0, 4.0, 2.0]
    assert list((scores.spread or {}).values()) == pytest.approx([2**0.5, 0, 2**0.5, 8**0.5])
    assert list(scores.columns["seed_1"].values()) == [3.0, 2.0, 5.0, 0.0]
    assert list(scores.columns["slope"].values()) == [0.5, 0.0, 1.0, 2.0]
    assert set(scores.columns["parameters"].values()) == {4.0 * (8 + 16)}
    assert set(scores.columns["weights"].values()) == {128.0}
    assert scores.inputs == {"model": "base", "data": "d"}


def test_sizes_are_those_of_the_adapter_that_was_given():
    run = ranking(adapter=Path("a"), ranks={IDS[0]: 2, IDS[1]: 7})
    columns = scores_of(run, "delta_norm", [found(1.0, 2.0, 3.0, 4.0)], KNOWN).columns
    assert list(columns["parameters"].values()) == [24.0 * rank for rank in (2, 7, 7, 7)]


def test_one_seed_has_no_spread():
    scores = scores_of(ranking(), "delta_norm", [found(1.0, 2.0, 3.0, 4.0)], KNOWN)
    assert scores.spread is None
    assert "seed_0" not in scores.columns


def test_agreement_between_seeds_and_with_leaving_out():
    run = ranking(recipe={"share": 0.5, "seeds": 3}, passes={"taylor": 9}, tokens=40)
    tables = {
        "taylor": [found(1, 2, 3, 4), found(1, 2, 4, 3), found(4, 3, 2, 1)],
        "leave_one_out": [found(1, 2, 3, 4)],
        "shapley": [Found({"0.attention": 1.0, "0.mlp": 2.0, "1.attention": 0.0, "1.mlp": 1.0})],
    }
    every = {name: scores_of(run, name, table, KNOWN) for name, table in tables.items()}
    told = agreement_of(run, every, tables)
    assert told["seeds"] == [0, 1, 2]
    assert told["between_seeds"]["spearman"][0][1] == pytest.approx(0.8)
    assert told["between_seeds"]["lowest"] == pytest.approx(-1.0)
    assert told["rankings"] == ["taylor", "leave_one_out"]  # of one grain
    exact = told["leave_one_out"]
    assert exact["spearman"] == spearman(every["taylor"].values, every["leave_one_out"].values)
    assert told["chance"] == 0.5
    assert (told["cost"]["batches"], told["cost"]["tokens"]) == (9, 40)
    results = results_of(run, every["taylor"], told, KNOWN)
    assert results["top"] == [IDS[2], IDS[3]]
    assert results["spearman_between_seeds"] == pytest.approx(-1.0)


def test_a_ranking_alone_agrees_with_itself():
    run = ranking(recipe={"way": "snr"})
    tables = {"snr": [found(1, 2, 3, 4)]}
    every = {"snr": scores_of(run, "snr", tables["snr"], KNOWN)}
    told = agreement_of(run, every, tables)
    assert told["between_seeds"] is None
    assert told["leave_one_out"] is None
    assert told["cost"]["tokens"] == 0
    assert warnings_of(told, run) == []


@pytest.mark.parametrize(
    ("agreement", "run", "words"),
    [
        ({"between_seeds": {"lowest": 0.91}}, {}, "agree by 0.910 (Spearman) only"),
        ({"completeness": {"relative_error": 0.2}}, {}, "by 20.0%: more gates.points"),
        ({}, {"losses": {"loss_without": 2.0, "loss_with": 2.1}}, "does not lower the loss"),
        ({}, {"stage": {"steps": 9, "stopped": None}}, "before the loss was stable"),
    ],
)
def test_what_a_user_should_know(
    agreement: dict[str, Any], run: dict[str, Any], words: str
) -> None:
    calm: dict[str, Any] = {"between_seeds": {"lowest": 0.99}, "completeness": None}
    good = {"losses": {"loss_without": 2.0, "loss_with": 1.0},
            "stage": {"steps": 9, "stopped": "the loss is stable"}}  # fmt: skip
    assert warnings_of(calm, ranking(**good)) == []
    (told,) = warnings_of(calm | agreement, ranking(**(good | run)))
    assert words in told
