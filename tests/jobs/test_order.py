"""`lamina order` on a pico model: what is asked, what is written, what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamina.core.errors import DataError, OutputError, RecipeError
from lamina.jobs.order import _Batches, run_order, words
from lamina.jobs.watch import Watcher
from lamina.versatune.order import Order, Pair

WORDS = {"law": "court judge plea", "code": "def return print", "art": "paint brush canvas"}


class Lines(Watcher):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done = 0

    def tell(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, num_bytes: int) -> None:
        self.done += num_bytes


def save_model(folder: Path) -> None:
    """A byte-level tokenizer and a Llama of a few thousand weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<s>": 0, "</s>": 1}
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows of three domains and a file that names them."""
    home = tmp_path_factory.mktemp("home")
    save_model(home / "model")
    draw = np.random.default_rng(0)
    for name, vocabulary in WORDS.items():
        lines = [
            json.dumps({"text": " ".join(draw.choice(vocabulary.split(), 6)) + f" {number}"})
            for number in range(60)
        ]
        (home / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (home / "domains.yaml").write_text("".join(f"{name}: {name}.jsonl\n" for name in WORDS))
    return home


def recipe(home: Path, **changes: Any) -> Path:
    values = {
        "model": "model",
        "domains": {name: f"{name}.jsonl" for name in WORDS},
        "data": {"max_length": 48, "packing": False, "heldout_rows": 8, "heldout_share": 0.2},
        "train": {"method": "full", "batch_size": 3},
    }
    path = home / "recipe.yaml"
    path.write_text(json.dumps(values | changes))
    return path


@pytest.fixture
def ask(home: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(*, changes: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        options = {"repeats": 2, "rows": 4, **options}
        return run_order(recipe(home, **(changes or {})), tmp_path / "out", **options)

    return run


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "order.json").read_text())


def test_an_order_is_written_with_all_pairs(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    watch = Lines()
    manifest = ask(watch=watch)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "order.json", "recipe.yaml"]
    found = told(out)
    assert found["schema"] == "lamina.order/1"
    assert found["domains"] == list(WORDS)
    assert [pair["domains"] for pair in found["pairs"]] == [
        ["law", "code"], ["law", "art"], ["code", "art"],
    ]  # fmt: skip
    assert sorted(found["sequence"]) == sorted(WORDS)
    assert 0 < found["curvature_error"] < 0.1
    assert all(pair["se"] > 0 and pair["value"] != 0 for pair in found["pairs"])
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "order"
    assert set(manifest["outputs"]) == {"order.json", "recipe.yaml"}
    assert manifest["results"]["words"] == [
        line for line in watch.lines if line in manifest["results"]["words"]
    ]
    assert watch.done == 2 * 3


def test_the_same_question_has_the_same_answer_and_the_model_is_untouched(
    ask: Callable[..., dict[str, Any]], home: Path, tmp_path: Path
) -> None:
    weights = (home / "model" / "model.safetensors").read_bytes()
    ask()
    first = (tmp_path / "out" / "order.json").read_bytes()
    ask(overwrite=True)
    assert (tmp_path / "out" / "order.json").read_bytes() == first
    ask(overwrite=True, seed=1)
    assert (tmp_path / "out" / "order.json").read_bytes() != first
    assert (home / "model" / "model.safetensors").read_bytes() == weights


def test_the_recipe_that_is_written_asks_the_same_again(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    ask(target="art")
    again = tmp_path / "again"
    run_order(tmp_path / "out" / "recipe.yaml", again, target="art", repeats=2, rows=4)
    assert told(again) == told(tmp_path / "out")


def test_how_many_rows_go_through_the_model_at_once_changes_rounding_only(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    ask()
    three = told(tmp_path / "out")
    ask(overwrite=True, changes={"train": {"method": "full", "batch_size": 1}})
    for one, other in zip(three["pairs"], told(tmp_path / "out")["pairs"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-2, abs=1e-3 * one["se"])


def test_an_adapter_has_an_order_of_its_own(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    ask(changes={"train": {"method": "lora", "rank": 2, "dtype": "bfloat16"}})
    found = told(tmp_path / "out")
    assert all(pair["value"] != 0 for pair in found["pairs"])
    assert found["curvature_error"] < 0.1  # in float32, whatever the recipe says


def test_a_model_and_a_file_of_domains_will_do(home: Path, tmp_path: Path) -> None:
    run_order(
        home / "model",
        tmp_path / "out",
        domains=home / "domains.yaml",
        target="law",
        repeats=2,
        rows=2,
        overrides=["data.max_length=48", "data.heldout_share=0.2", "train.rank=2"],
    )
    assert told(tmp_path / "out")["target"] == "law"


def test_a_displacement_that_is_too_long_is_told(ask: Callable[..., dict[str, Any]]) -> None:
    (warning,) = ask(radius=0.9)["warnings"]
    assert "when the displacement is halved: these numbers are doubtful" in warning


def test_few_rows_are_told(ask: Callable[..., dict[str, Any]]) -> None:
    manifest = ask(rows=40)
    assert manifest["warnings"] == [
        "law, code, art: fewer than 80 training rows, so repeats share rows and the errors told"
        " are too small"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "lwa"}, "target `lwa` is not a domain; did you mean `law`"),
        ({"repeats": 1, "rows": 0}, r"1 repeats have no spread; .*; 0 rows make no batch"),
        ({"radius": 2.0}, r"radius 2 must lie between 0 and 1; 0\.0001 is a good start"),
        ({"changes": {"domains": {"law": "law.jsonl"}}}, "two domains or more, this has 1"),
    ],
    ids=["target", "repeats and rows", "radius", "one domain"],
)
def test_a_question_that_makes_no_sense_is_told(
    ask: Callable[..., dict[str, Any]], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        ask(**options)
    assert not (tmp_path / "out").exists()


def test_more_repeats_than_held_out_examples_are_refused(
    ask: Callable[..., dict[str, Any]],
) -> None:
    with pytest.raises(DataError, match=r"20 repeats need 20 held-out .*: law has 8, code has 8"):
        ask(repeats=20)


def test_a_model_without_domains_is_asked_for_them(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="or a model with --domains"):
        run_order(home / "model", tmp_path / "out")


def test_an_order_that_is_there_is_not_replaced_unasked(
    ask: Callable[..., dict[str, Any]],
) -> None:
    ask()
    with pytest.raises(OutputError, match="not empty"):
        ask()


def test_every_held_out_example_is_in_one_repeat_and_training_rows_come_once(
    home: Path, tmp_path: Path
) -> None:
    from lamina.data.load import load_domains
    from lamina.engine.load import find_model, load_tokenizer
    from lamina.versatune.recipe import read_tune_recipe

    asked = read_tune_recipe(recipe(home))
    tokenizer = load_tokenizer(find_model(home / "model"))
    data = load_domains(
        asked.domains, tokenizer, asked.data, home=home, num_embeddings=None, tell=None
    )
    batches = _Batches(data, repeats=3, rows=5, seed=0, pad=0)
    held_out = [row.row for repeat in range(3) for row in batches.heldout("law", repeat)]
    assert len(held_out) == len(data["law"].heldout)
    ids = [row.ids.tobytes() for repeat in range(3) for row in batches.heldout("law", repeat)]
    assert len(set(ids)) == len(held_out)
    rows = [row.ids.tobytes() for repeat in range(3) for row in batches.training("law", repeat)]
    assert len(set(rows)) == 15
    assert not set(rows) & set(ids)


def test_words_say_what_is_shown_and_what_is_not() -> None:
    pairs = (
        Pair("a", "b", 2.0, 0.1, 8),
        Pair("a", "c", -1.0, 0.9, 8),
        Pair("b", "c", -1.0, 0.2, 8),
    )
    found = Order(("a", "b", "c"), "c", pairs, ("b", "a", "c"), 8, 0.1, 0.01)
    assert words(found) == [
        "b before a: lower the loss of c (z 20.0)",
        "a, c: either may come first (z -1.1)",
        "b before c: lower the loss of c (z 5.0)",
        "best order by all pairs: b, a, c",
    ]
    nothing = Order(("a", "b"), None, (Pair("a", "b", 1.0, 1.0, 8),), ("b", "a"), 8, 0.1, 0.01)
    assert words(nothing)[-1] == "no order is shown to be better than another"
