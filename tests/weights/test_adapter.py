"""LoRA adapters: the same weights as PEFT's own merge, and what is refused instead of guessed."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.core.errors import CheckpointError
from lamina.weights.adapter import AdaptedCheckpoint, adapt, is_adapter, open_adapter
from lamina.weights.checkpoint import open_checkpoint
from lamina.weights.sources import Source

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

ATOL = 2e-6
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PATTERNS: dict[str, Any] = {
    "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 7, r"model\.layers\.0\..*up_proj": 1},
    "alpha_pattern": {"layers.0.self_attn.q_proj": 32, "q_proj": 5, "mlp.down_proj": 0.5},
}


def llama(tied: bool = False, bias: bool = False) -> Any:
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied,
            attention_bias=bias, mlp_bias=bias, pad_token_id=None, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def gpt2() -> Any:
    torch.manual_seed(1)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=4, n_positions=32, n_inner=24,
            bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def save_adapter(
    model: Any, home: Path, edit: Callable[[Any], None] | None = None, **config: Any
) -> Any:
    """A base and an adapter with random factors, as PEFT saves them; gives PEFT's merged model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.1)
        model.save_pretrained(home / "base")
        wrapped = peft.get_peft_model(
            model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | config)
        )
        torch.manual_seed(2)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if parameter.requires_grad or "lora_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        if edit is not None:
            edit(wrapped)
        wrapped.save_pretrained(home / "adapter")
        again = type(model).from_pretrained(home / "base", dtype=torch.float32)
        return peft.PeftModel.from_pretrained(again, home / "adapter").merge_and_unload()


def opened(home: Path) -> AdaptedCheckpoint:
    return adapt(open_checkpoint(home / "base"), open_adapter(home / "adapter"))


def same_as_peft(home: Path, merged: Any, *, changed: int) -> AdaptedCheckpoint:
    """Every tensor of the base's files is PEFT's merged one; `changed` of them moved."""
    adapted = opened(home)
    source, base = Source(adapted), Source(adapted.base)
    state = merged.state_dict()
    moved = 0
    for name in adapted.tensors:
        theirs = state[name].float().numpy()
        ours = source.array(name)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL, err_msg=name)
        moved += bool((theirs != base.array(name)).any())
    assert moved == changed
    return adapted


CONFIGS: dict[str, tuple[dict[str, Any], int]] = {
    "one module": ({"target_modules": ["q_proj"]}, 2),
    "all linear": ({"target_modules": LINEAR}, 14),
    "all linear by its short name": ({"target_modules": "all-linear"}, 14),
    "ranks and alphas per module": ({"target_modules": LINEAR, **PATTERNS}, 14),
    "rsLoRA": ({"target_modules": LINEAR, "use_rslora": True}, 14),
    "rsLoRA, ranks and alphas": ({"target_modules": LINEAR, "use_rslora": True, **PATTERNS}, 14),
    "some layers": ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, 1),
    "by a regular expression": ({"target_modules": r".*\.1\.mlp\.(up|down)_proj"}, 2),
    "head as LoRA": ({"target_modules": ["lm_head", "q_proj"]}, 3),
    "embedding as LoRA": ({"target_modules": ["embed_tokens", "q_proj"]}, 3),
    "embedding alone": ({"target_modules": ["embed_tokens"], "r": 3, "lora_alpha": 9}, 1),
    "modules to save": (
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        4,
    ),
    "the norms to save": ({"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, 7),
    "gaussian start": ({"target_modules": LINEAR, "init_lora_weights": "gaussian"}, 14),
    "orthogonal start": ({"target_modules": LINEAR, "init_lora_weights": "orthogonal"}, 14),
    "rank larger than the matrix": ({"target_modules": ["k_proj"], "r": 32}, 2),
}


@pytest.mark.parametrize(("config", "changed"), CONFIGS.values(), ids=CONFIGS)
def test_a_llama_adapter_is_pefts_merge(
    config: dict[str, Any], changed: int, tmp_path: Path
) -> None:
    merged = save_adapter(llama(), tmp_path, **config)
    same_as_peft(tmp_path, merged, changed=changed)


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_trained_biases_are_pefts(bias: str, tmp_path: Path) -> None:
    merged = save_adapter(
        llama(bias=True), tmp_path, target_modules=["q_proj", "up_proj"], bias=bias
    )
    adapted = opened(tmp_path)
    same_as_peft(tmp_path, merged, changed=4 + len(adapted.replaced))
    if bias == "all":
        assert len(adapted.replaced) == 14


GPT2: dict[str, tuple[dict[str, Any], int]] = {
    "c_attn": ({"target_modules": ["c_attn"]}, 2),
    "the square c_proj": ({"target_modules": ["attn.c_proj"]}, 2),
    "all Conv1D": ({"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}, 8),
    "Conv1D, flag not given": ({"target_modules": ["c_attn", "c_proj", "c_fc"]}, 8),
    "biases": ({"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}, 2 + 26 - 8),
}


@pytest.mark.parametrize(("config", "changed"), GPT2.values(), ids=GPT2)
def test_a_gpt2_adapter_is_pefts_merge(
    config: dict[str, Any], changed: int, tmp_path: Path
) -> None:
    merged = save_adapter(gpt2(), tmp_path, **config)
    changed = 2 + len(opened(tmp_path).replaced) if config.get("bias") else changed
    same_as_peft(tmp_path, merged, changed=changed)


@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_of_a_gpt2_adapter_may_say_anything(flag: bool, tmp_path: Path) -> None:
    """PEFT keeps one `fan_in_fan_out` for all modules: whatever the last one was."""
    merged = save_adapter(gpt2(), tmp_path, target_modules=["c_attn", "c_proj"])
    edit_config(tmp_path, fan_in_fan_out=flag)
    same_as_peft(tmp_path, merged, changed=6)


def test_gpt2_names_without_the_outermost_module(tmp_path: Path) -> None:
    """Older files begin at `h.0`, the loaded model and the adapter at `transformer.h.0`."""
    from safetensors.numpy import load_file, save_file

    merged = save_adapter(gpt2(), tmp_path, target_modules=["c_attn"], fan_in_fan_out=True)
    file = tmp_path / "base" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): v for name, v in load_file(file).items()}
    save_file(tensors, file)
    source, state = Source(opened(tmp_path)), merged.state_dict()
    for name in tensors:
        theirs = state[f"transformer.{name}"].numpy()
        np.testing.assert_allclose(source.array(name), theirs, rtol=0, atol=ATOL)


TIED: dict[str, tuple[dict[str, Any], int]] = {
    "linears": ({"target_modules": LINEAR}, 14),
    "embedding as LoRA": ({"target_modules": ["embed_tokens", "q_proj"]}, 3),
}


@pytest.mark.parametrize(("config", "changed"), TIED.values(), ids=TIED)
def test_an_adapter_of_a_tied_model_is_pefts_merge(
    config: dict[str, Any], changed: int, tmp_path: Path
) -> None:
    merged = save_adapter(llama(tied=True), tmp_path, **config)
    adapted = same_as_peft(tmp_path, merged, changed=changed)
    assert "lm_head.weight" not in adapted.tensors


def test_the_head_of_a_tied_model_cannot_move_alone(tmp_path: Path) -> None:
    save_adapter(llama(tied=True), tmp_path, target_modules=["q_proj", "lm_head"])
    with pytest.raises(CheckpointError, match="lm_head"):
        opened(tmp_path)


def test_an_embedding_trained_whole_would_untie_the_head(tmp_path: Path) -> None:
    """PEFT gives such a model a head of its own; written tied, the head would move silently."""
    merged = save_adapter(
        llama(tied=True), tmp_path, target_modules=["q_proj"], modules_to_save=["embed_tokens"]
    )
    assert not merged.config.tie_word_embeddings
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight: trained whole, .* tied to it"):
        opened(tmp_path)


def test_chunks_of_an_adapter_are_the_whole(tmp_path: Path) -> None:
    save_adapter(llama(), tmp_path, target_modules=[*LINEAR, "embed_tokens"])
    source = Source(opened(tmp_path))
    scratch = np.empty(1 << 12, np.float32)
    for name in source.checkpoint.tensors:
        whole = source.array(name).reshape(-1)
        if source.dtype(name) != 0:
            continue
        for first in (0, 1, 15, 16, 17, whole.size - 1):
            n = min(100, whole.size - first)
            address = source.chunk(name, first, n, scratch)
            if address == scratch.ctypes.data:
                assert (scratch[:n] == whole[first : first + n]).all()


def test_half_precision_adapters_and_bases(tmp_path: Path) -> None:
    """Factors in bf16, base in fp16: computed in fp32 from what the files hold."""
    from safetensors.torch import load_file, save_file

    save_adapter(llama(), tmp_path, target_modules=LINEAR)
    base, lora = tmp_path / "base/model.safetensors", tmp_path / "adapter/adapter_model.safetensors"
    tensors = {name: v.half() for name, v in load_file(base).items()}
    factors = {name: v.bfloat16() for name, v in load_file(lora).items()}
    save_file(tensors, base)
    save_file(factors, lora)
    source = Source(opened(tmp_path))
    moved = 0
    for name, stored in tensors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        expected = stored.double()
        if f"{module}.lora_A.weight" in factors:
            a, b = (factors[f"{module}.lora_{x}.weight"].double() for x in "AB")
            expected = expected + 1.5 * b @ a
            moved += 1
        np.testing.assert_allclose(source.array(name), expected.numpy(), rtol=0, atol=ATOL)
    assert moved == 14


# Refusals


def edit_config(home: Path, **changes: Any) -> None:
    file = home / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(home: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.numpy import load_file, save_file

    file = home / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    save_adapter(llama(), home, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3})
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def refuse(home: Path, *says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Source(opened(home))
    for word in says:
        assert word in str(caught.value), (word, str(caught.value))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, ("DoRA",)),
        ({"init_lora_weights": "pissa"}, ("pissa", "changed the base")),
        ({"init_lora_weights": "pissa_niter_16"}, ("pissa_niter_16",)),
        ({"init_lora_weights": "olora"}, ("olora",)),
        ({"init_lora_weights": "loftq"}, ("loftq",)),
        ({"init_lora_weights": "corda"}, ("corda",)),
        ({"init_lora_weights": "lora_ga"}, ("lora_ga",)),
        ({"lora_bias": True}, ("bias on lora_B",)),
        ({"trainable_token_indices": [1, 2]}, ("single trained token rows",)),
        ({"layer_replication": [[0, 2], [1, 2]]}, ("replicated layers",)),
        ({"target_parameters": ["mlp.experts"]}, ("bare parameters",)),
        ({"alora_invocation_tokens": [1]}, ("activated LoRA",)),
        ({"use_qalora": True}, ("QALoRA",)),
        ({"peft_type": "LOHA"}, ("LOHA", "LORA is needed")),
        ({"peft_type": None}, ("LORA is needed",)),
        ({"bias": "some"}, ("bias: 'some'",)),
        ({"use_dora": True, "lora_bias": True}, ("DoRA", "lora_B")),
    ],
)
def test_kinds_of_adapters_that_are_refused(
    changes: dict[str, Any], says: tuple[str, ...], home: Path
) -> None:
    edit_config(home, **changes)
    refuse(home, "not supported", "merge_and_unload", *says)


Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
TENSORS: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "half a pair": (lambda t: t.pop(f"{Q0}.lora_B.weight"), ("0.self_attn.q_proj", "only lora_A")),
    "the other half": (lambda t: t.pop(f"{Q0}.lora_A.weight"), ("only lora_B",)),
    "ranks that differ": (
        lambda t: t.update({f"{Q0}.lora_B.weight": np.zeros((16, 5), np.float32)}),
        ("[4, 16] and [16, 5]", "do not belong together"),
    ),
    "a convolution": (
        lambda t: t.update({f"{Q0}.lora_A.weight": np.zeros((4, 16, 1, 1), np.float32)}),
        ("do not belong together",),
    ),
    "a rank that the config does not know": (
        lambda t: t.update(
            {
                f"{Q0}.lora_A.weight": np.zeros((5, 16), np.float32),
                f"{Q0}.lora_B.weight": np.zeros((16, 5), np.float32),
            }
        ),
        ("rank 5 in the file, 4 in adapter_config.json",),
    ),
    "integers": (
        lambda t: t.update({f"{Q0}.lora_A.weight": np.zeros((4, 16), np.int32)}),
        ("dtype I32",),
    ),
    "a DoRA magnitude": (
        lambda t: t.update({f"{Q0}.lora_magnitude_vector": np.ones(16, np.float32)}),
        ("DoRA magnitude",),
    ),
    "an unknown part": (
        lambda t: t.update({f"{Q0}.lora_C.weight": np.ones(16, np.float32)}),
        ("not a tensor of plain LoRA",),
    ),
    "a bias of lora_B": (
        lambda t: t.update({f"{Q0}.lora_B.bias": np.ones(16, np.float32)}),
        ("not a tensor of plain LoRA",),
    ),
    "a module that the base lacks": (
        lambda t: t.update(
            {
                "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": np.ones(
                    (4, 16), np.float32
                ),
                "base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight": np.ones(
                    (16, 4), np.float32
                ),
            }
        ),
        ("does not fit the base", "layers.7.self_attn.q_proj: no such module"),
    ),
    "a tensor that the base lacks": (
        lambda t: t.update({"base_model.model.score.weight": np.ones((2, 16), np.float32)}),
        ("score.weight: no such tensor in the base",),
    ),
    "a saved module of another shape": (
        lambda t: t.update({"base_model.model.lm_head.weight": np.ones((41, 16), np.float32)}),
        ("lm_head.weight: [40, 16] in the base, [41, 16] in the adapter",),
    ),
    "NaN": (
        lambda t: t[f"{Q0}.lora_A.weight"].__setitem__((0, 0), math.nan),
        ("1 of 64 values", "q_proj.lora_A.weight", "NaN or infinite"),
    ),
    "infinite": (
        lambda t: t[f"{Q0}.lora_B.weight"].__setitem__((0, 0), math.inf),
        ("q_proj.lora_B.weight", "NaN or infinite"),
    ),
    "nothing": (lambda t: t.clear(), ("holds no LoRA factor",)),
}


@pytest.mark.parametrize(("change", "says"), TENSORS.values(), ids=TENSORS)
def test_factors_that_are_refused(
    change: Callable[[dict[str, Any]], Any], says: tuple[str, ...], home: Path
) -> None:
    edit_tensors(home, change)
    refuse(home, *says)


@pytest.mark.parametrize("alpha", [None, "16", True, math.inf, math.nan])
def test_an_alpha_that_is_no_number(alpha: Any, home: Path) -> None:
    edit_config(home, lora_alpha=alpha)
    refuse(home, "lora_alpha is")


@pytest.mark.parametrize("pattern", [{"v_proj": 4}, {"v_proj": "3"}, {}, None])
def test_a_rank_pattern_that_does_not_fit(pattern: Any, home: Path) -> None:
    edit_config(home, rank_pattern=pattern)
    refuse(home, "v_proj: rank 3 in the file", "2 " if False else "layers.1.self_attn.v_proj")


def test_another_base(home: Path, tmp_path: Path) -> None:
    wide = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=40, hidden_size=32, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=False,
        )
    )  # fmt: skip
    wide.save_pretrained(home / "base")
    refuse(
        home,
        "does not fit the base",
        "4 of 4 modules",
        "[32, 32] in the base, the adapter's delta is [16, 16]",
        "It was trained on",
    )


def test_an_embedding_of_the_wrong_way_round(tmp_path: Path) -> None:
    save_adapter(llama(), tmp_path, target_modules=["embed_tokens"])

    def turn(tensors: dict[str, Any]) -> None:
        name = "base_model.model.model.embed_tokens.lora_embedding_"
        tensors.pop("base_model.model.model.embed_tokens.weight", None)
        for key in [key for key in tensors if "base_layer" in key]:
            tensors.pop(key)
        a, b = tensors[f"{name}A"], tensors[f"{name}B"]
        tensors[f"{name}A"], tensors[f"{name}B"] = b.T.copy(), a.T.copy()

    edit_tensors(tmp_path, turn)
    refuse(tmp_path, "[40, 16] in the base, the adapter's delta is [16, 40]")


def test_files_that_are_missing_or_lead_elsewhere(home: Path, tmp_path: Path) -> None:
    weights = home / "adapter" / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    refuse(home, "has no adapter_model.safetensors")
    (home / "adapter" / "adapter_model.bin").write_bytes(b"x")
    refuse(home, "pickled adapter_model.bin", "run code")
    weights.symlink_to(tmp_path / "elsewhere")
    refuse(home, "link out of the model folder")
    weights.unlink()
    weights.write_bytes((tmp_path / "elsewhere").read_bytes()[:-4])
    refuse(home, "truncated")


def test_what_is_an_adapter(home: Path) -> None:
    assert is_adapter(home / "adapter")
    assert not is_adapter(home / "base")
    with pytest.raises(CheckpointError, match="LoRA adapter; a whole model is needed"):
        open_checkpoint(home / "adapter")


# What we rely on in PEFT


def test_every_field_of_pefts_config_is_known() -> None:
    """A new field of LoraConfig may change what a merge is: look at it, then add it here."""
    import dataclasses

    from lamina.weights import adapter

    harmless = set(
        """
        alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying
        eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights
        layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout lora_ga_config
        megatron_config megatron_core modules_to_save peft_type peft_version qalora_group_size r
        rank_pattern revision runtime_config target_modules task_type use_rslora
        """.split()
    )
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields - harmless - set(adapter._REFUSED) == set()


@pytest.mark.parametrize(
    "pattern",
    ["q_proj", "attn.q_proj", "self_attn.q_proj", "proj", r".*q_proj", "^model.layers.0.*q_proj",
     "layers.0.self_attn.q_proj", "model.layers.0.self_attn.q_proj", "x|q_proj", "layers.0",
     "ayers.0.self_attn.q_proj", "", r"q_proj$", "(?i)Q_PROJ"],
)  # fmt: skip
def test_patterns_are_looked_up_as_peft_does(pattern: str) -> None:
    from peft.utils.other import get_pattern_key

    from lamina.weights.adapter import _pattern

    module = "model.layers.0.self_attn.q_proj"
    table = {pattern: 3, "self_attn.q_proj": 5}
    try:
        theirs = table.get(get_pattern_key(table.keys(), module), 8)
    except Exception:  # PEFT does not load such an adapter
        return
    assert _pattern(table, module, 8) == theirs
