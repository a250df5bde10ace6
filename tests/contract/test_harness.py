"""What we need of lm-evaluation-harness 0.4.13: its numbers on WikiText-like pages.

The golden numbers are the harness's own log-likelihoods of each page (float32, CPU, torch 2.13,
transformers 5.23), had by `bench/perplexity_vs_harness.py FOLDER --data PAGES --rows OUT` on the
folder and the pages that `save_model` and `PAGES` make. The model is a formula, not a random draw,
so that any version of torch makes the same one.
"""

import json
from pathlib import Path

import pytest

from lamina.evaluate.models import find_model, load_model
from lamina.evaluate.perplexity import measure, score
from lamina.evaluate.text import read_documents
from lamina.evaluate.wikitext import detokenise

SHARED = Path(__file__).resolve().parents[2].parent / "shared"

PAGES = (
    " = The Lamp = \n \n The lamp ( built 1 @,@ 903 ) is well @-@ known ; it burns at 20 ° C . \n",
    " = = Later years = = \n \n He said : \" it is ' ours ' , is it not ? \" and the dogs ' owner"
    " left . The 3 @.@ 5 m [ high ] wall was Tomas 's , too ! \n = = = Notes = = = \n None . \n",
    "<s> begins with the start token",
    "x",
    "杜甫 wrote { N } poems " * 6,
    "The lamp was lit , and the dogs ' owner ( the other one ) went to the mat . \n " * 60,
)

# By kind of tokenizer: log-likelihood of each page, word perplexity, byte perplexity.
GOLDEN: dict[str, tuple[list[float], float, float]] = {
    "adds bos": (
        [
            -435.9274787902832,
            -842.6804275512695,
            -156.0093536376953,
            -14.247220993041992,
            -834.2457847595215,
            -22110.626998901367,
        ],
        98973999.95536712,
        116.50065232758335,
    ),
    "has bos": (
        [
            -429.6892967224121,
            -838.3848266601562,
            -156.0093536376953,
            -6.972517013549805,
            -828.081729888916,
            -22102.974617004395,
        ],
        96639670.24499604,
        115.78425198767629,
    ),
    "has eos": (
        [
            -431.20434188842773,
            -839.8603973388672,
            -156.28819274902344,
            -6.480273246765137,
            -828.6886024475098,
            -22103.917839050293,
        ],
        96955800.83330683,
        115.88201780901417,
    ),
}

# The first three pages of WikiText-2 raw test by stories260k, windows of 512.
STORIES: tuple[list[float], float, float] = (
    [-15243.330688476562, -63994.48663330078, -33360.403076171875],
    807827.9818677206,
    14.138952778100869,
)


def save_tokenizer(folder: Path, kind: str) -> None:
    """Byte-level BPE with three merges; `adds bos`, `has bos` or `has eos` only."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    pieces = ["<s>", "</s>", *alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]
    )
    if kind == "adds bos":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=None if kind == "has eos" else "<s>",
        eos_token="</s>",
    ).save_pretrained(folder)


def save_model(folder: Path, kind: str) -> Path:
    """A Llama of two blocks and 32 positions whose weights are a sine of their place."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    save_tokenizer(folder, kind)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=261,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=0,
            eos_token_id=1,
        )
    )
    with torch.no_grad():
        for order, (name, tensor) in enumerate(sorted(model.named_parameters())):
            if "norm" in name:
                tensor.fill_(1.0)
                continue
            places = torch.arange(tensor.numel(), dtype=torch.float64)
            wave = torch.sin(places * 12.9898 + order * 78.233)
            tensor.copy_(wave.reshape(tensor.shape) * 0.2)
    model.save_pretrained(folder)
    return folder


def _pages(folder: Path) -> Path:
    path = folder / "pages.jsonl"
    path.write_text("".join(json.dumps({"page": page}) + "\n" for page in PAGES))
    return path


@pytest.mark.parametrize("kind", ["adds bos", "has bos", "has eos"])
def test_every_page_has_the_likelihood_the_harness_gives_it(tmp_path: Path, kind: str) -> None:
    rows, words, bytes_ = GOLDEN[kind]
    model = save_model(tmp_path, kind)
    loss = measure(model, {"pages": read_documents(_pages(tmp_path))})["pages"]
    assert [-value for value in loss.row_sums] == pytest.approx(rows, rel=1e-6)
    assert loss.word_perplexity == pytest.approx(words, rel=1e-6)
    assert loss.byte_perplexity == pytest.approx(bytes_, rel=1e-6)


def test_a_trained_model_has_the_perplexity_the_harness_gives_it() -> None:
    model = SHARED / "models" / "stories260k"
    text = SHARED / "data" / "text" / "wikitext2_raw_test.jsonl.gz"
    if not model.is_dir() or not text.is_file():
        pytest.skip("stories260k and WikiText-2 are not beside the repository (../shared)")
    rows, words, bytes_ = STORIES
    loss = score(load_model(find_model(model)), read_documents(text)[: len(rows)])
    assert [-value for value in loss.row_sums] == pytest.approx(rows, rel=1e-6)
    assert loss.word_perplexity == pytest.approx(words, rel=1e-6)
    assert loss.byte_perplexity == pytest.approx(bytes_, rel=1e-6)


def test_detokenising_is_the_harness_s_own() -> None:
    """Only where lm-eval is installed (`pip install lamina[eval]`)."""
    theirs = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    for page in (*PAGES, "".join(PAGES), PAGES[1][::-1]):
        assert detokenise(page) == theirs.wikitext_detokenizer({"page": page})


def test_the_golden_pages_have_what_can_go_wrong() -> None:
    text = "".join(PAGES)
    for trap in (" @-@ ", " @,@ ", " @.@ ", "s '", " 's", "( ", "[ ", "{ ", '" ', "= =", " N "):
        assert trap in text, trap
    assert all(len(rows) == len(PAGES) for rows, _, _ in GOLDEN.values())
