"""Scores of the tiny model, by module, and the files that hold them."""

import json
from pathlib import Path

from tiny_family import BLOCKS, random_model, write_model

from lamina.core.scores import LayerScores
from lamina.engine.plan_recipe import PlanSection
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.linears import linears_of


def model_of(folder: Path, *, seed: int = 0, blocks: int = BLOCKS, **config) -> Path:
    told = {"num_hidden_layers": blocks, **config}
    return write_model(folder, random_model(seed, blocks), config=told)


def scores_of(model: Path, **more) -> LayerScores:
    """Rising with the modules' order: the last module is the most important one."""
    linears = linears_of(open_checkpoint(model))
    every = linears.by_id.values()
    return LayerScores(
        **{
            "method": "ila_integrate",
            "unit": "nats a token",
            "granularity": "module",
            "higher_means": "important",
            "values": {one.id: float(n) for n, one in enumerate(every)},
            "columns": {
                "weights": {one.id: float(one.weights) for one in every},
                "parameters": {one.id: float(one.lora_parameters(4)) for one in every},
            },
            "model": str(model),
            "inputs": {"model": open_checkpoint(model).fingerprint, "data": "fd"},
            "prefix": "model.layers",
            **more,
        }
    )


def write_scores(folder: Path, scores: LayerScores) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(scores.to_json())
    return folder / "scores.json"


def write_merge_scores(folder: Path, **experts: LayerScores) -> Path:
    """As a merge writes them: a table for each expert."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: one.model_dump() for name, one in experts.items()}
    text = json.dumps({"schema": "lamina.scores/1", "experts": told, "where": {}})
    (folder / "scores.json").write_text(text)
    return folder / "scores.json"


def section(**keys) -> PlanSection:
    return PlanSection(**{"parameters": {"share": 0.25}, **keys})
