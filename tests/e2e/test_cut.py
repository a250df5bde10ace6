"""`lamina cut`: the lowest blocks of a model, bit for bit, as a model that transformers loads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_family as family

from lamina.core.errors import CheckpointError, OutputError, RecipeError
from lamina.jobs.cut import run_cut
from lamina.jobs.verify import verify_folder

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 4},
    "qwen2": {"num_hidden_layers": 4, "use_sliding_window": True, "max_window_layers": 2},
    "gemma3_text": {"num_hidden_layers": 4, "head_dim": 8},
    "gpt2": {"n_layer": 4, "n_embd": 32, "n_head": 4, "n_inner": 48},
    "gpt_neo": {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]},
    "gpt_neox": {"num_hidden_layers": 4},
    "opt": {"num_hidden_layers": 4, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 4, "n_head": 4},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layer_interval": 2},
    "qwen3_moe": {
        "num_hidden_layers": 4,
        "mlp_only_layers": [0, 3],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 8,
    },
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return family.write_model(tmp_path / "model", family.random_model(blocks=3))


def network_of(kind: str, changes: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    size = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    own = {"gpt2", "bloom", "gpt_neo", "gpt_neox", "opt"}
    heads = {k: v for k, v in heads.items() if k != "num_key_value_heads" or kind not in own}
    config = AutoConfig.for_model(kind, **{**size, **heads, **tokens, **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def blocks_of(network: Any) -> Any:
    """The list of decoder blocks of a network in memory."""
    import torch

    lists = [m for m in network.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4]
    return lists[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_cut_model_loads_and_says_what_the_lowest_blocks_say(kind: str, tmp_path: Path) -> None:
    """Against the network in memory whose top blocks are passed over."""
    import torch
    from transformers import AutoModelForCausalLM

    network = network_of(kind, FAMILIES[kind])
    network.save_pretrained(tmp_path / "model")
    run_cut(str(tmp_path / "model"), tmp_path / "out", keep=3)
    cut, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert len([m for m in cut.modules() if isinstance(m, type(blocks_of(network)[0]))]) == 3
    ids = torch.arange(2, 12)[None]
    passed_over: list[Any] = []

    def pass_over(block: Any, inputs: Any, given: Any, output: Any) -> Any:
        """What goes into a block comes out of it."""
        passed_over.append(inputs[0] if inputs else given["hidden_states"])
        return passed_over[0] if torch.is_tensor(output) else (passed_over[0], *output[1:])

    blocks_of(network)[3].register_forward_hook(pass_over, with_kwargs=True)
    with torch.no_grad():
        wanted = network(input_ids=ids, use_cache=False).logits
        found = cut.eval()(input_ids=ids, use_cache=False).logits
    assert len(passed_over) == 1
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_tensors_that_stay_are_the_same_bytes(tmp_path: Path, shards: int) -> None:
    path = family.write_model(tmp_path / "model", family.random_model(blocks=3), shards=shards)
    before = family.snapshot(path)
    manifest = run_cut(str(path), tmp_path / "out", keep=2)
    source, cut = family.read_raw(path), family.read_raw(tmp_path / "out")
    assert set(cut) == {name for name in source if ".layers.2." not in name}
    assert all(cut[name] == source[name] for name in cut)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == (1 if shards == 1 else 2)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((path / "config.json").read_text()) | {"num_hidden_layers": 2}
    assert (manifest["kind"], manifest["status"]) == ("cut", "complete")
    results = manifest["results"]
    assert (results["blocks"], results["of_blocks"]) == (2, 3)
    assert (results["tensors"], results["of_tensors"]) == (len(cut), len(source))
    assert verify_folder(tmp_path / "out") == []
    assert family.snapshot(path) == before


def test_tokenizer_and_licence_come_along_and_the_same_command_gives_the_same_bytes(
    model: Path, tmp_path: Path
) -> None:
    (model / "tokenizer.json").write_text("{}")
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    run_cut(str(model), tmp_path / "a", keep=1)
    run_cut(str(model), tmp_path / "b", keep=1)
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == set(
        "model.safetensors config.json tokenizer.json README.md manifest.json".split()
    )
    assert "license: apache-2.0" in (tmp_path / "a" / "README.md").read_text()
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    damaged = bytearray((tmp_path / "a" / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "a" / "model.safetensors").write_bytes(damaged)
    assert verify_folder(tmp_path / "a") == ["model.safetensors: other contents than were written"]


def test_a_killed_cut_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lamina.jobs import cut

    run_cut(str(model), tmp_path / "whole", keep=2)
    copied: list[str] = []

    def stop_at_seven(file: Any, begin: int, place: Any, partial: Any) -> str:
        if len(copied) == 7:
            raise KeyboardInterrupt
        copied.append(place.name)
        return real(file, begin, place, partial)

    real = cut._copy_tensor
    monkeypatch.setattr(cut, "_copy_tensor", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        run_cut(str(model), tmp_path / "out", keep=2)
    assert not (tmp_path / "out").exists()
    done = set(copied)
    copied.clear()
    copied.extend("........")
    run_cut(str(model), tmp_path / "out", keep=2)
    assert not done & set(copied)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("keep", [0, 3, 4, -1])
def test_a_number_of_blocks_that_leaves_none_or_all_is_refused(
    model: Path, tmp_path: Path, keep: int
) -> None:
    with pytest.raises(RecipeError, match=f"--keep is {keep}, but .* has 3 blocks: .* from 1 to 2"):
        run_cut(str(model), tmp_path / "out", keep=keep)
    assert not (tmp_path / "out").exists()


def test_a_model_with_tensors_for_all_blocks_at_once_is_refused(tmp_path: Path) -> None:
    tensors = family.random_model()
    tensors["model.embed_tokens_per_layer.weight"] = tensors["model.embed_tokens.weight"]
    path = family.write_model(tmp_path / "model", tensors)
    with pytest.raises(CheckpointError, match=r"embed_tokens_per_layer.* a part for every block"):
        run_cut(str(path), tmp_path / "out", keep=1)


def test_a_folder_that_is_not_empty_is_left_alone(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        run_cut(str(model), tmp_path / "out", keep=1)
    with pytest.raises(OutputError, match="one folder or lie in one another"):
        run_cut(str(model), model / "out", keep=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    shutil.rmtree(tmp_path / "out")
    run_cut(str(model), tmp_path / "out", keep=1)
    run_cut(str(model), tmp_path / "out", keep=2, overwrite=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 2


def test_cutting_needs_no_torch(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lamina.jobs.cut import run_cut; "
        f"run_cut({str(model)!r}, Path({str(tmp_path / 'out')!r}), keep=1); "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.e2e
def test_the_verb_cuts_and_tells_a_mistake_in_one_line(model: Path, tmp_path: Path) -> None:
    def lamina(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lamina", "cut", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = lamina(model, "--keep", 2, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 of 3 blocks" in done.stdout
    assert verify_folder(tmp_path / "out") == []
    wrong = lamina(model, "--keep", 3, "--out", tmp_path / "other")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("error: --keep is 3, but ")
    assert not (tmp_path / "other").exists()
