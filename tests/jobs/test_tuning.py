"""What a tune run keeps in memory and writes, where models lie elsewhere or runs move."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.core.errors import RecipeError
from lamina.jobs import tuning

SHORT = {"windows": 1, "window_steps": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_home(tmp_path_factory.mktemp("home"))


def test_a_model_is_gone_before_the_next_is_loaded(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []
    load = tuning.load_tunable

    def counted(*arguments: Any, **named: Any) -> Any:
        alive.append(sum(model() is not None for model in made))
        model = load(*arguments, **named)
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(tuning, "load_tunable", counted)
    tuned = {"policy": "foster", "reference": {"way": "tuned", **SHORT}}
    gc.disable()  # it would come at times of its own
    try:
        kit.tune(home, "memory", mixture=tuned, train=SHORT)
    finally:
        gc.enable()
    assert alive == [0, 0, 0, 0]  # three domains alone, and all together


def test_a_resume_from_the_recipe_in_the_folder_is_the_same_run(home: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    (home / "own.jinja").write_text(template)
    shares = dict.fromkeys(kit.NAMES, 1 / 3)
    (home / "known").mkdir()
    (home / "known" / "shares.json").write_text(json.dumps({"shares": shares}))
    out, _ = kit.tune(
        home,
        "moved",
        data={"chat_template": "own.jinja"},
        mixture={"policy": "constant", "start": "detected", "detected": "known"},
        train=SHORT,
    )
    (out / "manifest.json").unlink()
    told = kit.run_tune(out / "recipe.yaml", out, resume=True)
    assert told["results"]["status"] == "done"


def test_a_model_tuned_from_an_adapter_has_the_adapters_tokenizer(home: Path) -> None:
    kit.tune(home, "lora", train={"method": "lora", "rank": 2, **SHORT})
    own = home / "lora" / "model" / "tokenizer_config.json"
    own.write_text(mark := own.read_text() + "\n")
    out, _ = kit.tune(home, "on", model="model+lora/model", train=SHORT)
    files = {path.name for path in (out / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= files
    assert (out / "model" / "tokenizer_config.json").read_text() == mark


def test_an_adapter_names_a_base_from_the_hub_by_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(home / "model"))
    lora = {"method": "lora", "rank": 2, **SHORT}
    out, _ = kit.tune(home, "hub", model="org/base@v1", train=lora)
    config = kit.json_of(out / "model" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "v1")


def test_doremi_tells_the_mean_of_its_weights(home: Path) -> None:
    mixture = {"policy": "doremi", "reference": {"way": "fraction"}}
    _, manifest = kit.tune(home, "doremi", mixture=mixture, train={"windows": 2, "window_steps": 1})
    mean = manifest["results"]["mean_weights"]
    assert tuple(mean) == kit.NAMES
    assert sum(mean.values()) == pytest.approx(1)


def test_flash_attention_in_float32_is_refused_in_words(home: Path) -> None:
    with pytest.raises(RecipeError, match=r"takes no float32.* dtype: bfloat16"):
        kit.tune(home, "flash", train={"attention": "flash_attention_2"})
    assert not (home / "flash").exists()


def test_each_stage_begins_with_the_shares_of_its_own_detection(home: Path) -> None:
    known = {"first": (0.5, 0.3, 0.2), "second": (0.2, 0.3, 0.5)}
    stages = []
    for name, shares in known.items():
        (home / name).mkdir()
        told = {"shares": dict(zip(kit.NAMES, shares, strict=True))}
        (home / name / "shares.json").write_text(json.dumps(told))
        start = {"policy": "constant", "start": "detected", "detected": name}
        stages.append({**start, "windows": 1})
    train = {"window_steps": 1, "windows": 2}
    out, _ = kit.tune(home, "two", mixture=stages, train=train)
    weights = [tuple(line["weights"].values()) for line in kit.lines_of(out)]
    assert weights == [pytest.approx(shares) for shares in known.values()]


def test_an_adapter_on_a_tied_output_embedding_is_refused(home: Path) -> None:
    lora = {"method": "lora", "rank": 2, "targets": ["q_proj", "lm_head"], **SHORT}
    with pytest.raises(RecipeError, match="`lm_head`, which shares its weights with the input"):
        kit.tune(home, "tied", train=lora)
