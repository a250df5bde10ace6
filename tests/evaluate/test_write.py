"""Writing: every architecture writes in batches what it writes alone; plans, samples, refusals."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lamina.core.errors import CheckpointError, DataError
from lamina.engine.generate import Sampling
from lamina.evaluate import write
from lamina.evaluate.models import LanguageModel, find_model, load_model
from lamina.evaluate.nouns import Raw, WriteItem
from lamina.evaluate.write import answer_writing, plan_writing
from lamina.evaluate.write_fit import fits

SIZES: dict[str, Any] = {"vocab_size": 258, "pad_token_id": None, "initializer_range": 0.6}
WIDE = {**SIZES, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {**WIDE, "num_attention_heads": 4, "max_position_embeddings": 96}
GROUPED = {**HEADS, "num_key_value_heads": 2}
ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 8,
        "short_factor": [1.0, 1.0], "long_factor": [4.0, 4.0]}  # fmt: skip

# By name: model type, config, whether its rows can be written side by side.
FAMILIES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", GROUPED, True),
    "qwen2": ("qwen2", GROUPED, True),
    "qwen3": ("qwen3", {**GROUPED, "head_dim": 8}, True),
    "gemma": ("gemma", {**GROUPED, "head_dim": 8}, True),
    "gemma2, wide windows": (
        "gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 96}, True),
    "gemma2, narrow windows": (
        "gemma2", {**GROUPED, "head_dim": 8, "sliding_window": 8}, False),
    "mistral, wide windows": ("mistral", {**GROUPED, "sliding_window": 96}, True),
    "mistral, narrow windows": ("mistral", {**GROUPED, "sliding_window": 8}, False),
    "phi3": ("phi3", GROUPED, True),
    "phi3, long": ("phi3", {**GROUPED, "rope_parameters": ROPE}, False),
    "gpt2": ("gpt2", {**SIZES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 96}, True),
    "gpt_neox": ("gpt_neox", HEADS, True),
    "opt": ("opt", {**HEADS, "ffn_dim": 24, "word_embed_proj_dim": 16}, True),
    "bloom": ("bloom", {**SIZES, "hidden_size": 16, "n_layer": 2, "n_head": 2}, False),
    "mixtral": ("mixtral", {**GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}, True),
    "olmo2": ("olmo2", GROUPED, True),
    "mamba": (
        "mamba", {**SIZES, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, False),
}  # fmt: skip
PROMPTS = ("a", "the cat sat", "why?", "one two three", "the cat sat on the mat and", "0 1 2 3 4")
WRITTEN = 10


def save(folder: Path, family: str) -> Path:
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in pieces[:2]])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=96
    ).save_pretrained(folder)
    kind, settings, _ = FAMILIES[family]
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=1, **settings)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def model(family: str) -> LanguageModel:
        return load_model(find_model(save(tmp_path_factory.mktemp("family"), family)))

    return model


@pytest.fixture
def llama(models: Any) -> LanguageModel:
    return models("llama")


def items(
    prompts: Sequence[str] = PROMPTS, *, written: int = WRITTEN, stops: tuple[str, ...] = ()
) -> list[WriteItem]:
    return [WriteItem(f"q{i}", prompt, stops, written, "") for i, prompt in enumerate(prompts)]


def answers(
    model: LanguageModel, asked: Sequence[WriteItem], *, batch_tokens: int = 256, **how: Any
) -> dict[str, Raw]:
    samples = how.pop("samples", 1)
    found: dict[str, Raw] = {}
    for portion in plan_writing(model, asked, batch_tokens=batch_tokens, samples=samples):
        found |= answer_writing(model, portion, **how)
    return found


def plainly(model: LanguageModel, prompt: str, *, written: int = WRITTEN) -> str:
    """The likeliest tokens, the whole text read again for each."""
    import torch

    network: Any = model.network
    tokens = model.tokenizer.encode(prompt)
    begin = len(tokens)
    for _ in range(written):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
        tokens.append(int(logits.argmax()))
        if tokens[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(tokens[begin:], skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_written_together_are_those_written_alone(models: Any, family: str) -> None:
    import torch

    model = models(family)
    found = answers(model, items())
    assert list(found) == sorted(found, key=lambda id_: (-len(PROMPTS[int(id_[1:])]), id_))
    assert [found[f"q{i}"]["texts"] for i in range(len(PROMPTS))] == [
        [plainly(model, prompt)] for prompt in PROMPTS
    ]
    with torch.inference_mode():
        assert fits(model, len(max(PROMPTS)) + WRITTEN) == FAMILIES[family][2]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_texts_do_not_depend_on_how_many_run_at_once(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    asked = items([f"{prompt} {n}" for n in range(4) for prompt in PROMPTS], stops=("e",))
    wanted = answers(llama, asked)
    assert {answer["ended"][0] for answer in wanted.values()} == {"stop", "length"}
    monkeypatch.setattr(write, "_ROWS", rows)
    assert answers(llama, asked) == wanted


def test_texts_grow_beyond_the_room_they_begin_with(llama: LanguageModel) -> None:
    found = answers(llama, items(("x", "why?", "ab"), written=85))
    assert max(raw["tokens"][0] for raw in found.values()) > 80
    for number, prompt in enumerate(("x", "why?", "ab")):
        assert found[f"q{number}"]["texts"] == [plainly(llama, prompt, written=85)]


def test_a_text_stops_at_its_own_items_strings_and_length(llama: LanguageModel) -> None:
    free = {id_: raw["texts"][0] for id_, raw in answers(llama, items()).items()}
    asked = [
        dataclasses.replace(item, stops=(free[item.id][2:4],), max_tokens=WRITTEN - i)
        for i, item in enumerate(items())
    ]
    found = answers(llama, asked)
    for item in asked:
        text = free[item.id]
        assert found[item.id]["texts"] == [text.split(text[2:4])[0]]
        assert found[item.id]["tokens"][0] <= item.max_tokens
    assert [raw["ended"] for raw in found.values()].count(["stop"]) == len(asked)


def test_a_plan_is_the_same_each_time_and_answers_every_item_once(llama: LanguageModel) -> None:
    asked = items([f"{'x' * (n % 7)} {n}" for n in range(150)])
    plan = plan_writing(llama, asked, batch_tokens=512, samples=2)
    assert plan == plan_writing(llama, asked, batch_tokens=512, samples=2)
    ids = [id_ for portion in plan for id_ in portion.ids]
    assert len(plan) > 3
    assert sorted(ids) == sorted(item.id for item in asked)


def test_a_portion_s_answers_do_not_depend_on_those_before(llama: LanguageModel) -> None:
    shared = "the same long beginning of all the prompts: "
    asked = items([f"{shared}{n % 5}{'!' * n}" for n in range(20)])
    plan = plan_writing(llama, asked, batch_tokens=512)
    alone = [answer_writing(llama, portion) for portion in plan]
    assert [answer_writing(llama, portion) for portion in reversed(plan)] == alone[::-1]


def test_a_shared_beginning_changes_no_text(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.evaluate import write_batch

    shared = "the same long beginning of all prompts, "
    asked = items([shared + prompt for prompt in PROMPTS] + [shared])
    seen = []
    read = write_batch.read

    def counted(model: Any, prompts: Any, prefix: Any) -> Any:
        seen.append((sum(map(len, prompts)), prefix is not None))
        return read(model, prompts, prefix)

    monkeypatch.setattr(write_batch, "read", counted)
    found = answers(llama, asked)
    assert seen[0] == (len(shared) - 1, False), "a token of each prompt is left to be read"
    assert sum(with_it for _, with_it in seen) > 0
    assert sum(tokens for tokens, _ in seen) == len(shared) + len("".join(PROMPTS)) + 6
    for item in asked:
        assert found[item.id]["texts"] == [plainly(llama, item.prompt)]


def test_a_prompt_that_is_too_long_loses_its_beginning(llama: LanguageModel) -> None:
    asked = items(["0123456789" * 12, "short"], written=30)
    (portion,) = plan_writing(llama, asked, batch_tokens=512)
    assert portion.cut == {"q0": 120 - (96 - 30)}
    found = answer_writing(llama, portion)
    assert [found[id_]["cut"] for id_ in ("q0", "q1")] == [54, 0]
    assert found["q0"]["texts"] == [plainly(llama, asked[0].prompt[54:], written=30)]


def test_an_item_that_may_write_more_than_the_model_reads_has_what_is_left(
    llama: LanguageModel,
) -> None:
    asked = items(["0123456789" * 12, "short", ""], written=96)
    found = answers(llama, asked)
    assert [found[id_]["cut"] for id_ in ("q0", "q1", "q2")] == [120 - 48, 0, 0]
    for id_, most in (("q0", 48), ("q1", 91), ("q2", 95)):
        (written,) = found[id_]["tokens"]
        assert written == most or found[id_]["ended"] == ["eos"]


def test_samples_are_their_own_and_the_same_in_any_batch(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"sampling": Sampling(temperature=0.8, top_p=0.9), "seed": 7}
    found = answers(llama, items(), samples=3, **how)
    texts = [text for raw in found.values() for text in raw["texts"]]
    assert len(set(texts)) == len(texts) == 3 * len(PROMPTS)
    assert {len(raw[key]) for raw in found.values() for key in ("texts", "ended", "tokens")} == {3}
    monkeypatch.setattr(write, "_ROWS", 2)
    assert answers(llama, items(), samples=3, **how) == found
    fewer = answers(llama, items(PROMPTS[:2]), samples=2, **how)
    assert [raw["texts"] for raw in fewer.values()] == [found[id_]["texts"][:2] for id_ in fewer]
    assert answers(llama, items(), samples=3, **{**how, "seed": 8}) != found


def test_the_slow_way_draws_the_same_samples(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"sampling": Sampling(), "seed": 1, "samples": 2}
    together = answers(llama, items(), **how)
    monkeypatch.setattr("lamina.evaluate.write_fit.fits", lambda *_: False)
    assert answers(llama, items(), **how) == together
    assert answers(llama, items()) != together


@pytest.mark.parametrize("fit", [True, False])
def test_the_model_s_own_penalty_counts_as_in_transformers(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch, fit: bool
) -> None:
    import torch

    network: Any = llama.network
    plain = answers(llama, items())
    monkeypatch.setattr(network.generation_config, "repetition_penalty", 1.6)
    if not fit:
        monkeypatch.setattr("lamina.evaluate.write_fit.fits", lambda *_: False)
    found = answers(llama, items())
    assert found != plain
    for item in items():
        ids = torch.tensor([llama.tokenizer.encode(item.prompt)])
        wanted = network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=WRITTEN, pad_token_id=0
        )[0, ids.shape[1] :]
        assert found[item.id]["texts"] == [llama.tokenizer.decode(wanted, skip_special_tokens=True)]


def test_settings_that_change_the_likeliest_token_are_left_to_transformers(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = answers(llama, items())
    assert fits(llama, 20)
    monkeypatch.setattr(llama.network.generation_config, "suppress_tokens", [*range(2, 100)])
    assert not fits(llama, 20)
    assert answers(llama, items()) != plain


def test_the_model_s_own_length_counts_as_in_transformers(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama.network.generation_config, "max_new_tokens", 4)
    assert max(raw["tokens"][0] for raw in answers(llama, items()).values()) == 4


@pytest.mark.parametrize("fit", [True, False])
def test_an_output_that_is_not_a_number_names_the_items(
    models: Any, monkeypatch: pytest.MonkeyPatch, fit: bool
) -> None:
    import torch

    model = models("gpt2")
    place = model.tokenizer.encode("w")[0]
    broken = model.network.get_input_embeddings().weight[place].detach()
    kept = broken.clone()
    monkeypatch.setattr("lamina.evaluate.write_fit.fits", lambda *_: fit)
    try:
        broken.fill_(torch.nan)
        with pytest.raises(CheckpointError, match=r"not a number .* item q\d"):
            answers(model, items())
    finally:
        broken.copy_(kept)


def test_tokens_that_the_model_does_not_have_are_refused(llama: LanguageModel) -> None:
    fewer = dataclasses.replace(llama, num_embeddings=100)
    with pytest.raises(DataError, match="belongs to another model"):
        plan_writing(fewer, items(), batch_tokens=64)
