"""A language model as a judge: the likelihoods of the names, against a plain computation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.core.errors import CheckpointError, RecipeError
from lamina.versatune.detect_recipe import ModelSection
from lamina.versatune.judges.model import ModelJudge, load_judge

PROMPT = "Which of {domains}? {text} Domain:"
DOMAINS = ("law", "medicine", "real estate")


@pytest.fixture(scope="session")
def judges_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level Llama of a few thousand weights, in `judge`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    home = tmp_path_factory.mktemp("judges")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the law of real estate, a law of medicine"] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(home / "judge")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(home / "judge")
    return home


def load(home: Path, **settings: Any) -> ModelJudge:
    given = {"path": "judge", "prompt": PROMPT, "text_tokens": 40, "dtype": "float32", **settings}
    return load_judge(ModelSection(**given), DOMAINS, home=home)


def likelihood(judge: ModelJudge, prompt: str, name: str) -> float:
    """log P(" name" | prompt), one pass over all of it."""
    tokenizer, model = judge._tokenizer, judge._model
    before, said = tokenizer.encode(prompt), tokenizer.encode(" " + name, add_special_tokens=False)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([before + said])).logits[0].log_softmax(-1)
    return sum(float(logits[len(before) - 1 + t, token]) for t, token in enumerate(said))


@pytest.mark.parametrize("calibrate", [False, True])
def test_probabilities_are_the_likelihoods_of_the_names(judges_home: Path, calibrate: bool) -> None:
    judge = load(judges_home, calibrate=calibrate)
    texts = ["the law of estate", "a {text} with {domains}"]
    listed = "law, medicine, real estate"
    for text, row in zip(texts, judge.judge(texts), strict=True):
        scores = [
            likelihood(judge, f"Which of {listed}? {text} Domain:", name)
            - calibrate * likelihood(judge, f"Which of {listed}?  Domain:", name)
            for name in DOMAINS
        ]
        assert row == pytest.approx(torch.tensor(scores).double().softmax(-1).tolist(), abs=1e-4)


def test_a_judge_without_a_cache_says_the_same(
    judges_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = load(judges_home)
    cached = list(judge.judge(["the law of medicine"]))
    forward = judge._model.forward

    def without(**given: Any) -> Any:
        outputs = forward(**given)
        return type(outputs)(logits=outputs.logits)

    monkeypatch.setattr(judge._model, "forward", without)
    assert next(judge.judge(["the law of medicine"])) == pytest.approx(cached[0], abs=1e-5)


def test_an_empty_text_says_nothing_once_calibrated(judges_home: Path) -> None:
    (row,) = load(judges_home).judge([""])
    assert row == pytest.approx([1 / 3] * 3)


def test_a_text_is_cut_to_what_the_judge_is_shown(judges_home: Path) -> None:
    judge = load(judges_home, text_tokens=5)
    tokens = judge._tokenizer.encode("estate medicine law " * 9, add_special_tokens=False)
    short = judge._tokenizer.decode(tokens[:5])
    long, cut = judge.judge(["estate medicine law " * 9, short])
    assert long == cut


def test_a_text_cut_in_mid_character_has_no_more_tokens(judges_home: Path) -> None:
    for most in (4, 5, 6, 7, 8):
        judge = load(judges_home, text_tokens=most)
        assert len(judge._prompt_ids("😀" * 9)) <= len(judge._prompt_ids("")) + most


def test_a_chat_template_is_used_where_there_is_one(judges_home: Path) -> None:
    judge = load(judges_home)
    assert judge.facts()["chat"] is False
    judge._tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}>"
    chat = ModelJudge(judge._model, judge._tokenizer, judge._section, DOMAINS)
    assert chat.facts()["chat"] is True
    ids = chat._prompt_ids("a fever")
    assert judge._tokenizer.decode(ids) == (
        "[Which of law, medicine, real estate? a fever Domain:]>"
    )


def test_weights_that_are_not_numbers_make_an_invalid_answer(judges_home: Path) -> None:
    judge = load(judges_home)
    with torch.no_grad():
        judge._model.lm_head.weight[3] = float("nan")
    assert list(judge.judge(["the law"])) == [None]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chat": True}, "has no chat template"),
        ({"text_tokens": 120}, r"reads 128 tokens; the prompt with 120 .*text_tokens to \d+"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    judges_home: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load(judges_home, **settings)


def test_a_judge_that_is_not_there_is_refused(judges_home: Path) -> None:
    with pytest.raises(CheckpointError, match="jugde"):
        load(judges_home, path="./jugde")


def test_pickled_weights_are_refused(judges_home: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(judges_home / "judge", tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError):
        load(tmp_path, path="pickled")


def test_a_domain_that_cannot_be_said_is_refused(judges_home: Path) -> None:
    from tokenizers import normalizers

    judge = load(judges_home)
    judge._tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" mute", "")
    with pytest.raises(CheckpointError, match="no token for mute"):
        ModelJudge(judge._model, judge._tokenizer, judge._section, ("law", "mute"))
