import json
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.evaluate.perplexity import measure
from lamina.evaluate.run import run_eval, short_names, warnings_of
from lamina.evaluate.text import read_documents


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Path]:
    rows = ["the cat sat", "on the mat", "the rat ate the hat"]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps({"text": r}) + "\n" for r in rows))
    (tmp_path / "book.txt").write_text("the cat ate the rat")
    return {"talk": tmp_path / "talk.jsonl", "book": tmp_path / "book.txt"}


def test_the_metrics_hold_every_model_on_every_text(
    pico: Path, other: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []
    metrics = run_eval(
        {"one": pico, "two": other}, texts, out=tmp_path / "m.json", progress=told.append
    )
    assert json.loads((tmp_path / "m.json").read_text()) == metrics
    assert metrics["schema"] == "lamina.metrics/1"
    assert (metrics["domains"], metrics["order"]) == (["talk", "book"], ["one", "two"])
    own = measure(pico, {"talk": read_documents(texts["talk"])})["talk"]
    entry = metrics["models"]["one"]["talk"]
    assert entry["loss"] == own.loss
    assert entry["loss_se"] == own.loss_se
    assert entry["word_perplexity"] == own.word_perplexity
    assert (entry["tokens"], entry["rows"], entry["words"]) == (own.tokens, 3, 11)
    assert metrics["models"]["two"]["book"]["loss_se"] is None
    paired = metrics["paired"]
    assert paired["reference"] == "one"
    gap = metrics["models"]["two"]["talk"]["loss"] - entry["loss"]
    assert paired["differences"]["two"]["talk"]["difference"] == pytest.approx(gap)
    assert metrics["settings"]["max_length"] == {"one": 24, "two": 24}
    assert metrics["warnings"] == []
    assert told == [
        f"{name}: {what}"
        for name in ("one", "two")
        for what in ("loading", "reading talk (3 texts)", "reading book (1 texts)")
    ]


def test_texts_are_read_before_any_model_is_loaded(pico: Path, texts: dict[str, Path]) -> None:
    told: list[str] = []
    with pytest.raises(DataError, match="No such file"):
        run_eval([pico], {**texts, "gone": Path("gone.txt")}, progress=told.append)
    assert told == []


def test_an_output_without_a_folder_is_refused_first(pico: Path, texts: dict[str, Path]) -> None:
    with pytest.raises(OutputError, match="There is no folder"):
        run_eval([pico], texts, out=texts["book"].parent / "no" / "m.json")
    told: list[str] = []
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        run_eval([pico], texts, out=texts["book"].parent, progress=told.append)
    assert told == []


def test_a_base_without_an_adapter_is_refused(
    pico: Path, other: Path, texts: dict[str, Path]
) -> None:
    with pytest.raises(RecipeError, match="no model is an adapter"):
        run_eval([pico], texts, base=other)


def test_nothing_to_measure_is_refused(pico: Path) -> None:
    with pytest.raises(RecipeError, match="1 models, 0 texts"):
        run_eval([pico], {})


def test_models_are_called_by_what_tells_them_apart() -> None:
    named = short_names(["a/math/model", "b/math/model", "b/code"])
    assert named == {
        "a/math/model": "a/math/model",
        "b/math/model": "b/math/model",
        "code": "b/code",
    }
    assert list(short_names(["runs/one/", "two"])) == ["one", "two"]


def test_one_model_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match="Named twice: a"):
        short_names(["a", "b", "a"])
    with pytest.raises(RecipeError, match="same folder"):
        short_names(["a", "./a"])


def test_what_was_left_out_is_told_in_words(pico: Path, tmp_path: Path) -> None:
    long = "the cat sat on the mat, " * 5
    rows = [
        {"prompt": "a", "completion": long},
        {"prompt": long, "completion": "a"},
        {"prompt": "a", "completion": "b"},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    told = warnings_of("pico", measure(pico, {"qa": read_documents(path)}))
    assert told == [
        "pico on qa: 1 of 3 texts left out, as their completion is longer than the model reads "
        "(texts 1)",
        "pico on qa: 1 of 3 prompts lost their beginning to fit the model",
    ]


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import lamina.evaluate.run, sys;"
        "sys.exit(bool({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
