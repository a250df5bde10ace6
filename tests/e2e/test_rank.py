"""`lamina rank` as a user meets it: what its folder holds, that it is true, and once more."""

import json
import math
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rank_kit as ranks
import tune_kit as kit

from lamina.engine.load import quiet
from lamina.ila.recipe import WAYS
from lamina.ila.ways import KINDS
from lamina.jobs.verify import verify_folder

IDS = {f"{block}.{module}" for block in (0, 1) for module in ranks.MODULES}
BESIDE = ("--beside", "leave_one_out", "--beside", "delta_norm")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with ranks.home_in(tmp_path_factory.mktemp("home")) as folder:
        yield folder


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A model ranked by the default way, with two others beside."""
    ranks.ranked("model", home / "run", *ranks.DATA, *BESIDE)
    return home / "run"


@pytest.fixture(scope="module")
def adapter(run: Path) -> Path:
    return run / "adapter"


# ---- the folder --------------------------------------------------------------------------------


def test_the_folder_holds_what_it_promises(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == set(
        "recipe.yaml data.json checkpoints adapter scores.json scores agreement.json log.jsonl "
        "report.html manifest.json".split()
    )
    assert {path.name for path in (run / "scores").iterdir()} == {
        "leave_one_out.json",
        "delta_norm.json",
    }
    manifest = kit.json_of(run / "manifest.json")
    assert (manifest["kind"], manifest["status"]) == ("rank", "done")
    assert {"scores.json", "agreement.json", "adapter/adapter_model.safetensors"} <= set(
        manifest["outputs"]
    )
    assert verify_folder(run) == []
    newest = max((p for p in run.iterdir() if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    assert newest.name in ("manifest.json", "log.jsonl")
    events = [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert events == ["ranking begun", "stage 1", "written"]


def test_every_linear_module_has_a_score_and_no_other(run: Path) -> None:
    from transformers import AutoModelForCausalLM

    scores = kit.json_of(run / "scores.json")
    assert set(scores["values"]) == set(scores["spread"]) == IDS
    assert (scores["granularity"], scores["unit"]) == ("module", "nats per token")
    assert scores["prefix"] == "model.layers"
    network = AutoModelForCausalLM.from_pretrained("model")
    for one in IDS:
        weight = network.get_submodule(f"model.layers.{one}").weight
        assert scores["columns"]["weights"][one] == weight.numel()
        assert scores["columns"]["parameters"][one] == 4 * sum(weight.shape)


def test_values_are_means_over_the_seeds_and_spread_their_deviation(run: Path) -> None:
    scores = kit.json_of(run / "scores.json")
    for one, value in scores["values"].items():
        seeds = [scores["columns"][f"seed_{seed}"][one] for seed in (0, 1)]
        assert seeds[0] != seeds[1]
        assert value == pytest.approx(statistics.fmean(seeds))
        assert scores["spread"][one] == pytest.approx(statistics.stdev(seeds))


def test_the_agreement_has_the_fields_of_its_schema(run: Path) -> None:
    told = kit.json_of(run / "agreement.json")
    assert (told["schema"], told["way"], told["seeds"]) == ("lamina.agreement/1", "taylor", [0, 1])
    assert told["rankings"] == ["taylor", "leave_one_out", "delta_norm"]
    for name in ("spearman", "shared", "corrected", "jaccard"):
        assert [len(row) for row in told[name]] == [3, 3, 3]
        assert all(told[name][n][n] == pytest.approx(1.0) for n in range(3))
    assert told["chance"] == 5 / 14
    assert told["between_seeds"]["lowest"] == told["between_seeds"]["spearman"][0][1]
    assert told["leave_one_out"]["spearman"] == pytest.approx(told["spearman"][0][1])
    assert set(told["leave_one_out"]["values"]) == IDS
    assert told["cost"]["batches"] == 2 * 2 * 3
    assert told["cost"]["passes"]["leave_one_out"] == 2 * 3 * (len(IDS) + 1)
    assert told["cost"]["tokens"] > 0
    assert told["cost"]["stage_one_steps"] == 12


def test_the_results_name_the_top_set(run: Path) -> None:
    results = kit.json_of(run / "manifest.json")["results"]
    values = kit.json_of(run / "scores.json")["values"]
    assert results["top"] == sorted(values, key=lambda one: -values[one])[:5]
    assert (results["modules"], results["blocks"], results["stage_one_steps"]) == (14, 2, 12)
    assert results["loss_with"] < results["loss_without"]


def test_leaving_a_module_out_is_an_adapter_without_it(
    run: Path, adapter: Path, tmp_path: Path
) -> None:
    """The exact answer against an adapter whose B is 0 in the file: same rows, whole losses."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, tmp_path / "without")
    file = tmp_path / "without" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"].zero_()
    save_file(tensors, file, metadata={"format": "pt"})
    flags = (*ranks.DATA, "--way", "delta_norm", "--seeds", 1)
    ranks.ranked(tmp_path / "without", tmp_path / "norms", *flags)
    without = kit.json_of(tmp_path / "norms" / "manifest.json")["results"]["loss_with"]
    whole = kit.json_of(run / "manifest.json")["results"]["loss_with"]
    exact = kit.json_of(run / "scores" / "leave_one_out.json")["columns"]["seed_0"]
    assert without - whole == pytest.approx(exact["1.mlp.up_proj"], abs=1e-6)
    assert abs(without - whole) > 1e-5


def test_the_adapter_is_one_that_peft_loads(run: Path, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained("model")
    with quiet():
        network = PeftModel.from_pretrained(base, str(adapter))
    moved = {
        name.split("model.layers.")[1].removesuffix(".lora_B.default.weight")
        for name, parameter in network.named_parameters()
        if ".lora_B." in name and parameter.abs().sum() > 0
    }
    assert moved == IDS


def test_it_shows_itself_in_the_terminal(run: Path) -> None:
    shown = ranks.cli("show", run)
    assert shown.code == 0, shown.err
    assert "up_proj" in shown.out
    assert "leave_one_out" in shown.out


# ---- once more ---------------------------------------------------------------------------------


def test_the_same_command_gives_the_same_bytes_and_touches_no_input(home: Path, run: Path) -> None:
    inputs = {part: kit.files_of(home / part) for part in ("model", "rows")}
    ranks.ranked("model", home / "twice", *ranks.DATA, *BESIDE)
    wanted = kit.files_of(run)
    assert len(wanted) > 7
    assert kit.files_of(home / "twice") == wanted
    assert {part: kit.files_of(home / part) for part in inputs} == inputs


def test_its_recipe_runs_again_as_it_is(
    home: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    told = ranks.cli("rank", run / "recipe.yaml", "--out", home / "again")
    assert told.code == 0, told.err
    found, wanted = kit.files_of(home / "again"), kit.files_of(run)
    assert found.keys() == wanted.keys()
    for name in wanted:  # but for the way from the recipe to its files, which they tell
        assert found[name].replace(b"../", b"") == wanted[name].replace(b"../", b""), name


# ---- adapters ----------------------------------------------------------------------------------


def test_an_adapter_is_ranked_as_it_is(home: Path, run: Path, adapter: Path) -> None:
    before = kit.files_of(adapter)
    scores = ranks.ranked("run/adapter", home / "given", *ranks.DATA, *BESIDE)
    assert kit.files_of(adapter) == before
    of_model = kit.json_of(run / "scores.json")
    assert scores["values"] == pytest.approx(of_model["values"], abs=1e-7)
    assert scores["columns"]["parameters"] == of_model["columns"]["parameters"]
    assert not (home / "given" / "adapter").exists()
    assert not (home / "given" / "checkpoints").exists()
    results = kit.json_of(home / "given" / "manifest.json")["results"]
    assert (results["stage_one_steps"], results["stage_one_stopped"]) == (0, None)
    assert set(scores["inputs"]) == {"model", "data", "adapter"}
    assert scores["inputs"]["model"] == of_model["inputs"]["model"]


def test_sizes_are_those_of_the_adapter(home: Path, adapter: Path) -> None:
    norms = ("--way", "delta_norm")
    scores = ranks.ranked(adapter, home / "sizes", *norms, train__rank=64)
    assert scores["columns"]["parameters"]["0.mlp.up_proj"] == 4 * (32 + 64)


def test_an_adapter_on_some_modules_is_ranked_on_these(home: Path) -> None:
    scores = ranks.ranked("model", home / "some", *ranks.DATA, train__targets="[q_proj, up_proj]")
    wanted = {f"{block}.{name}" for block in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")}
    assert set(scores["values"]) == wanted


# ---- ways --------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("cosine", "taylor")])
def test_every_way_ranks_an_adapter(home: Path, adapter: Path, way: str) -> None:
    out = home / f"way {way}"
    scores = ranks.ranked(adapter, out, *ranks.DATA, "--way", way)
    kind = KINDS[way]
    assert (scores["method"], scores["granularity"]) == (way, kind.grain)
    units = {
        "module": IDS,
        "sublayer": {f"{block}.{role}" for block in (0, 1) for role in ("attention", "mlp")},
        "block": {"0", "1"},
    }[kind.grain]
    assert set(scores["values"]) == units
    assert all(math.isfinite(value) for value in scores["values"].values())
    assert (scores["spread"] is None) == (way in ("snr", "delta_norm"))
    assert "Not a number" not in (out / "report.html").read_text()
    shown = ranks.cli("show", out)
    assert shown.code == 0, shown.err
    assert verify_folder(out) == []


@pytest.mark.parametrize("way", ["snr", "block_influence"])
def test_ways_that_need_no_adapter_do_not_tune(home: Path, way: str) -> None:
    out = home / f"untuned {way}"
    data = ranks.DATA if way == "block_influence" else ()
    ranks.ranked("model", out, *data, "--way", way)
    assert not {"adapter", "checkpoints"} & {path.name for path in out.iterdir()}
    assert kit.json_of(out / "manifest.json")["results"]["stage_one_steps"] == 0
    assert (out / "report.html").is_file()


def test_cosine_is_that_of_lata(home: Path, adapter: Path) -> None:
    """A model is the base of `instruct`: u is known, and by hand is one module's cosine."""
    from safetensors.torch import load_file

    kit.write_pico(home / "raw", initializer_range=0.03)
    flags = ("--way", "cosine", "--base", "raw")
    by_adapter = ranks.ranked(adapter, home / "cosine", *flags)
    assert set(by_adapter["values"]) == IDS
    name = "layers.1.mlp.up_proj"
    raw, instruct = (load_file(f"{m}/model.safetensors")[f"model.{name}.weight"].double()
                     for m in ("raw", "model"))  # fmt: skip
    factors = load_file(adapter / "adapter_model.safetensors")
    a, b = (factors[f"base_model.model.model.{name}.lora_{n}.weight"].double() for n in "AB")
    u, c = instruct - raw, instruct - raw + 32 / 4 * b @ a
    wanted = float((u * c).sum() / u.norm() / c.norm())
    assert by_adapter["values"]["1.mlp.up_proj"] == pytest.approx(wanted, abs=1e-5)
    kit.write_pico(home / "tuned", initializer_range=0.025)
    by_model = ranks.ranked("tuned", home / "cosine too", *flags, "--instruct", "model")
    assert set(by_model["values"]) == IDS
    assert not (home / "cosine too" / "adapter").exists()


@pytest.mark.parametrize("way", ["learn", "sparse"])
def test_gates_are_learnt_from_a_model_too(home: Path, way: str) -> None:
    scores = ranks.ranked("model", home / f"{way} by model", *ranks.DATA, "--way", way)
    assert all(0 < value < 1 for value in scores["values"].values())


def test_completeness_is_told(home: Path, adapter: Path) -> None:
    flags = (*ranks.DATA, "--way", "integrate", "--seeds", 1)
    scores = ranks.ranked(adapter, home / "whole", *flags, gates__points=12)
    test = kit.json_of(home / "whole" / "agreement.json")["completeness"]
    assert test["sum"] == pytest.approx(sum(scores["values"].values()))
    results = kit.json_of(home / "whole" / "manifest.json")["results"]
    assert test["difference"] == pytest.approx(results["loss_without"] - results["loss_with"])
    assert test["relative_error"] < 0.05


def test_one_seed_has_no_spread(home: Path, adapter: Path) -> None:
    scores = ranks.ranked(adapter, home / "one", *ranks.DATA, "--seeds", 1)
    assert scores["spread"] is None
    assert kit.json_of(home / "one" / "agreement.json")["between_seeds"] is None


def test_rows_need_not_be_packed_and_a_base_may_be_bfloat16(home: Path, adapter: Path) -> None:
    changes = {"data__packing": "false", "train__dtype": "bfloat16"}
    near = ranks.ranked(adapter, home / "rough", *ranks.DATA, "--way", "delta_norm", **changes)
    exact = ranks.ranked(adapter, home / "exact", *ranks.DATA, "--way", "delta_norm")
    assert near["values"] == exact["values"]  # factors stay in float32
    ranks.ranked("model", home / "bf16", *ranks.DATA, **changes)


def test_routers_and_experts_get_no_adapter(home: Path) -> None:
    """PEFT's own `all-linear` takes them, and no gate can stand there."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=4096, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
        bos_token_id=0, eos_token_id=0, pad_token_id=1, max_position_embeddings=128,
    )  # fmt: skip
    with quiet():
        MixtralForCausalLM(config).save_pretrained(home / "experts")
    for name in kit.TOKENIZER:
        shutil.copyfile(kit.MODELS / "instruct" / name, home / "experts" / name)
    told = ranks.rank("experts", home / "of experts", *ranks.DATA)
    assert told.code == 0, told.err
    assert "they get no adapter and no score" in told.err
    values = kit.json_of(home / "of experts" / "scores.json")["values"]
    assert set(values) == {f"{b}.self_attn.{n}_proj" for b in (0, 1) for n in "qkvo"}


def test_the_ranking_becomes_a_plan(home: Path, run: Path) -> None:
    flags = ("--rule", "top", "-s", "share=0.3", "--out", home / "plan.json")
    told = ranks.cli("plan", run / "scores.json", *flags)
    assert told.code == 0, told.err
    plan = kit.json_of(home / "plan.json")
    results: dict[str, Any] = kit.json_of(run / "manifest.json")["results"]
    chosen = {one for one, value in plan["coefficients"].items() if value}
    assert chosen == set(results["top"])
