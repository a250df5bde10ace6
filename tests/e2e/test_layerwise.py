"""Layer-wise tuners through `lamina tune`: whole, stopped and gone on, refused, in two at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tune_kit as kit

from lamina.core.errors import DataError, LayerError, RecipeError
from lamina.core.scores import LayerScores
from lamina.jobs.watch import Watcher

BLOCKS = 4
TRAIN = {"windows": 2, "window_steps": 4, "save_every": 3, "keep_checkpoints": 99}
LORA = {"method": "lora", "rank": 4, "alpha": 8.0, "learning_rate": 2e-2}
SECTIONS: dict[str, dict[str, Any]] = {
    "lisa": {"layerwise": {"way": "lisa", "period": 2, "layers": 1}, "train": TRAIN},
    "spider": {"layerwise": "spider", "train": TRAIN},
    "prilora": {
        "layerwise": {"way": "prilora", "first_rank": 2, "last_rank": 5, "every": 4},
        "train": {**TRAIN, **LORA},
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = kit.write_home(tmp_path_factory.mktemp("home"))
    kit.write_pico(folder / "model", num_hidden_layers=BLOCKS, hidden_size=16, intermediate_size=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAMINA_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module", params=SECTIONS)
def whole(request: pytest.FixtureRequest, home: Path) -> tuple[str, Path]:
    out, manifest = kit.tune(home, request.param, **SECTIONS[request.param])
    assert manifest["status"] == "done"
    return request.param, out


class Stopper(Watcher):
    """Stops this process's run when step 5 is done."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.done == 5:
            os.kill(os.getpid(), signal.SIGTERM)


def tensors_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def test_a_run_that_is_stopped_goes_on_to_the_bit(home: Path, whole: tuple[str, Path]) -> None:
    way, out = whole
    recipe, again = home / f"{way}.yaml", home / f"{way} again"
    told = kit.run_tune(recipe, again, watch=Stopper())
    assert told["results"]["status"] == "interrupted"
    assert kit.run_tune(recipe, again, resume=True)["status"] == "done"
    wanted = kit.files_of(out)
    assert len(wanted) > 6
    assert kit.files_of(again) == wanted
    state = out / "checkpoints" / "checkpoint-6" / "layerwise.safetensors"
    assert state.is_file() == (way != "lisa")


def test_the_recipe_of_a_run_runs_again_as_it_is(home: Path, whole: tuple[str, Path]) -> None:
    way, out = whole
    kit.run_tune(out / "recipe.yaml", home / f"{way} twice")
    assert tensors_of(home / f"{way} twice" / "model").keys() == tensors_of(out / "model").keys()
    written = (home / f"{way} twice" / "recipe.yaml").read_bytes()
    assert written == (out / "recipe.yaml").read_bytes()


def test_lisa_leaves_a_block_that_was_never_drawn_as_it_was(home: Path) -> None:
    from lamina.engine.layerwise.lisa import draw_blocks

    out, manifest = kit.tune(
        home, "one period", layerwise={"way": "lisa", "period": 99, "layers": 2}, train=TRAIN
    )
    drawn = draw_blocks(range(BLOCKS), 2, seed=0, number=0)
    before, after = tensors_of(home / "model"), tensors_of(out / "model")
    for name in before:
        part = name.split(".")
        moved = part[1] != "layers" or int(part[2]) in drawn
        assert after[name].equal(before[name]) != moved, name
    assert manifest["results"]["trained_parameters"] == sum(t.numel() for t in before.values())


def test_spider_takes_back_a_part_of_every_tensor(home: Path) -> None:
    out, _ = kit.tune(home, "spider once", **SECTIONS["spider"])
    before, after = tensors_of(home / "model"), tensors_of(out / "model")
    for name, tensor in before.items():
        same = float((after[name] == tensor).float().mean())
        assert 0.05 < same < 1, name


def test_prilora_gives_ranks_that_rise_and_prunes_at_its_last_step(home: Path) -> None:
    out, manifest = kit.tune(home, "prilora once", **SECTIONS["prilora"])
    tensors = tensors_of(out / "model")
    matrices = {name: value for name, value in tensors.items() if ".lora_A." in name}
    assert len(matrices) == 7 * BLOCKS
    for name, matrix in matrices.items():
        block = int(name.split(".layers.")[1].split(".")[0])
        assert matrix.shape[0] == 2 + block, name
        assert ((matrix == 0).sum(1) == matrix.shape[1] // 2).all(), name
    config = json.loads((out / "model" / "adapter_config.json").read_text())
    scales = {
        config["alpha_pattern"].get(key, config["lora_alpha"]) / rank
        for key, rank in config["rank_pattern"].items()
    }
    assert scales | {config["lora_alpha"] / config["r"]} == {2.0}
    assert manifest["results"]["trained_parameters"] == sum(t.numel() for t in tensors.values())


def test_lisa_draws_by_scores_of_this_model_alone(home: Path) -> None:
    from lamina.weights.checkpoint import open_checkpoint

    def write(name: str, fingerprint: str, blocks: int = BLOCKS) -> None:
        scores = LayerScores(
            method="delta_norm",
            unit="l2",
            granularity="block",
            higher_means="important",
            values={str(block): float(block == 1) for block in range(blocks)},
            model="model",
            inputs={"model": fingerprint},
        )
        (home / name).write_text(scores.to_json())

    def lisa(scores: str, layers: int = 1) -> dict[str, Any]:
        return {"way": "lisa", "period": 1, "layers": layers, "scores": scores}

    mine = open_checkpoint(home / "model").fingerprint
    write("scores.json", mine)
    out, _ = kit.tune(home, "weighed", layerwise=lisa("scores.json"), train=TRAIN)
    before, after = tensors_of(home / "model"), tensors_of(out / "model")
    moved = {n.split(".")[2] for n in before if ".layers." in n and not after[n].equal(before[n])}
    assert moved == {"1"}
    assert kit.run_tune(out / "recipe.yaml", home / "weighed twice")["status"] == "done"
    with pytest.raises(RecipeError, match="only 1 of the model's 4 blocks can be drawn"):
        kit.tune(home, "too many", layerwise=lisa("scores.json", 2), train=TRAIN)
    with pytest.raises(DataError, match=r"lost\.json"):
        kit.tune(home, "lost", layerwise=lisa("lost.json"), train=TRAIN)
    write("of another.json", "another")
    with pytest.raises(LayerError, match="measured on another model"):
        kit.tune(home, "of another", layerwise=lisa("of another.json"), train=TRAIN)
    write("larger.json", mine, 6)
    with pytest.raises(LayerError, match="do not fit a model"):
        kit.tune(home, "larger", layerwise=lisa("larger.json"), train=TRAIN)


def test_prilora_keeps_to_the_targets_of_the_recipe(home: Path) -> None:
    train = {**TRAIN, **LORA, "windows": 1, "targets": ["q_proj", "mlp.up_proj"]}
    out, _ = kit.tune(home, "targets", layerwise="prilora", train=train)
    tuned = {name.split(".lora_")[0].split(".", 4)[4] for name in tensors_of(out / "model")}
    kinds = {name.partition(".")[2] for name in tuned}
    assert len(tuned) == 2 * BLOCKS
    assert kinds == {"self_attn.q_proj", "mlp.up_proj"}
    with pytest.raises(RecipeError, match="`q_prj`: did you mean `q_proj`"):
        kit.tune(home, "mistyped", layerwise="prilora", train={**train, "targets": ["q_prj"]})


def test_a_plan_says_which_blocks_lisa_draws_from(home: Path) -> None:
    plan = {"rule": "last", "parameters": {"share": 0.5}}
    section = {"way": "lisa", "period": 1, "layers": 1}
    out, _ = kit.tune(home, "planned", layerwise=section, plan=plan, train=TRAIN)
    before, after = tensors_of(home / "model"), tensors_of(out / "model")
    moved = {n for n in before if not after[n].equal(before[n])}
    assert {n.split(".")[2] for n in moved} == {"2", "3"}


def test_a_cached_prefix_is_refused_beside_lisa(home: Path) -> None:
    plan = {"rule": "last", "parameters": {"share": 0.5}, "cache_prefix": True}
    with pytest.raises(RecipeError, match=r"plan\.cache_prefix .* way `lisa` tunes other blocks"):
        kit.tune(home, "cached", layerwise="lisa", plan=plan, train=TRAIN)


@pytest.mark.e2e
def test_a_conflict_is_one_line_and_nothing_is_written(home: Path) -> None:
    recipe = kit.write_recipe(home, "wrong.yaml", layerwise="prilora")
    command = [sys.executable, "-m", "lamina", "tune", str(recipe), "--out", str(home / "wrong")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "layerwise: way `prilora` tunes an adapter, but train.method is `full`" in line
    assert not (home / "wrong").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_do_the_same_and_go_on_to_the_bit(home: Path) -> None:
    for way, section in SECTIONS.items():
        kit.write_recipe(home, f"{way}.yaml", **section)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes", "1"),
        *("--nproc-per-node", "2", str(Path(__file__).parent / "layerwise_scenes.py"), str(home)),
        *SECTIONS,
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads((home / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    for way in SECTIONS:
        assert told[0][way]["ends"] == ["done", "interrupted", "done"]
        steps = told[0][way]["steps"]
        assert len(steps) == 16  # eight in each run, the second in two parts
        assert steps[:8] == steps[8:]
        assert kit.files_of(home / f"{way} by two again") == kit.files_of(home / f"{way} by two")
