"""What `layerwise:` reads from files: LISA's weights of blocks, refused before anything is made."""

import json
import sys
from pathlib import Path

import pytest
from plan_kit import model_of, scores_of, write_scores

from lamina.core.errors import LayerError
from lamina.engine.layerwise_recipe import LayerwiseSection
from lamina.jobs.layerwise import tuner
from lamina.weights.checkpoint import open_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "e2e"))


def drawn_by(scores: Path, model: Path):
    return tuner(
        LayerwiseSection(way="lisa", layers=1, scores=str(scores)),
        model_folder=model,
        fingerprint=open_checkpoint(model).fingerprint,
        home=scores.parent,
        seed=0,
    )


def test_blocks_weigh_what_an_adapter_of_some_modules_had(tmp_path):
    model = model_of(tmp_path / "model")
    every = scores_of(model)
    kept = {f"{block}.self_attn.{name}_proj": block + 0.25 for block in (0, 2) for name in "qv"}
    inputs = {**every.inputs, "adapter": "fa"}
    some = every.model_copy(update={"values": kept, "columns": {}, "inputs": inputs})
    found = drawn_by(write_scores(tmp_path, some), model)
    assert found._weights == {0: 0.5, 1: 0.0, 2: 4.5}


def test_scores_that_do_not_fit_are_refused_before_a_folder_is_made(tmp_path):
    import tune_kit as kit

    kit.write_home(tmp_path)
    values = {str(block): 1.0 for block in range(2)}
    told = {"granularity": "block", "values": values, "columns": {}, "inputs": {"model": "0" * 32}}
    write_scores(tmp_path, scores_of(model_of(tmp_path / "tiny")).model_copy(update=told))
    section = {"way": "lisa", "layers": 1, "scores": "scores.json"}
    with pytest.raises(LayerError, match="measured on another model"):
        kit.tune(tmp_path, "out", layerwise=section)
    assert not (tmp_path / "out").exists()
    told = json.loads((tmp_path / "scores.json").read_text())
    told["inputs"] = {"model": open_checkpoint(tmp_path / "model").fingerprint}
    (tmp_path / "scores.json").write_text(json.dumps(told))
    short = {"windows": 1, "window_steps": 1}
    assert kit.tune(tmp_path, "out", layerwise=section, train=short)[1]["status"] == "done"
