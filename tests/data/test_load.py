import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from lamina.core.errors import CheckpointError, DataError, RecipeError
from lamina.data.load import DomainData, load_domains, read_records
from lamina.data.recipe import DataSection, domains_from_dict


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and `</s>` as the 257th."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*alphabet, "</s>"])}
    plain = Tokenizer(models.BPE(vocabulary, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>")


def _write(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _asked(count: int, name: str = "a", words: int = 3) -> list[dict[str, str]]:
    return [
        {"prompt": f"what is {name}{n}?", "completion": " ".join([f"{name}{n}"] * words)}
        for n in range(count)
    ]


def _load(
    home: Path,
    domains: dict[str, Any],
    tokenizer: Any,
    *,
    num_embeddings: int | None = None,
    num_positions: int | None = None,
    told: list[str] | None = None,
    **section: Any,
) -> dict[str, DomainData]:
    settings = DataSection(**{"max_length": 64, "chat_template": "plain", **section})
    return load_domains(
        domains_from_dict(domains, "r.yaml"),
        tokenizer,
        settings,
        home=home,
        num_embeddings=num_embeddings,
        num_positions=num_positions,
        tell=None if told is None else told.append,
    )


def _refused(home: Path, domains: dict[str, Any], tokenizer: Any, **section: Any) -> str:
    with pytest.raises(DataError) as refusal:
        _load(home, domains, tokenizer, **section)
    return str(refusal.value)


def test_domains_become_rows_and_held_out_examples(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40, "law"))
    _write(tmp_path / "code.jsonl", ({"text": f"def f{n}(): pass"} for n in range(30)))
    told: list[str] = []
    data = _load(tmp_path, {"law": "law.jsonl", "code": "code.jsonl"}, tokenizer, told=told)
    assert list(data) == ["law", "code"]
    law, code = data["law"], data["code"]
    assert (law.report["examples"], law.report["heldout"]) == (36, 4)
    assert (code.report["examples"], code.report["heldout"]) == (27, 3)
    assert law.report["sources"] == [
        {
            "path": "law.jsonl",
            "type": "prompt_completion",
            "rows_read": 40,
            "rows": 40,
            "share": 1.0,
        }
    ]
    assert law.report["rows"] == len(law.train) < 36
    assert law.report["tokens"] == law.train.tokens.sum() == law.train.examples.lengths.sum()
    assert law.report["trained_tokens"] == law.train.trained_tokens.sum()
    assert law.report["fill"] == pytest.approx(law.train.tokens.mean() / 64)
    places = {*law.train.examples.places, *law.heldout.places}
    assert places == {f"law.jsonl:{n}" for n in range(1, 41)}
    assert told[0].startswith(f"law: 36 examples in {len(law.train)} rows")
    assert told[1].startswith("code: 27 examples in")
    assert len(told) == 2


def test_the_completion_is_trained_and_the_prompt_is_not(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40, "law", words=1))
    law = _load(tmp_path, {"law": "law.jsonl"}, tokenizer, heldout_rows=2)["law"]
    samples = law.report["samples"]
    assert len(samples) == 3
    for sample in samples:
        n = int(sample["place"].partition(":")[2]) - 1
        assert sample["pieces"] == [[f"what is law{n}?\n", False], [f"law{n}</s>", True]]


def test_without_packing_each_row_is_an_example(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    law = _load(tmp_path, {"law": "law.jsonl"}, tokenizer, packing=False)["law"]
    assert law.report["rows"] == law.report["examples"] == 36


def test_every_row_has_something_to_train_on(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [*_asked(30), *[{"prompt": f"p{n}", "completion": "  "} for n in range(5)]]
    rows += [{"prompt": "long " * 40 + str(n), "completion": "x"} for n in range(5)]
    rows += [{"prompt": f"q{n}", "completion": f"long {n} " * 20} for n in range(5)]
    rows += _asked(60, "b")
    _write(tmp_path / "law.jsonl", rows)
    told: list[str] = []
    law = _load(tmp_path, {"law": "law.jsonl"}, tokenizer, told=told)["law"]
    entry = law.report
    assert (entry["truncated"], entry["dropped_too_long"], entry["empty_completions"]) == (5, 5, 5)
    assert entry["rows_read"] == 105 == entry["examples"] + entry["heldout"] + 5 + 5
    assert (law.train.trained_tokens > 0).all()
    assert (law.heldout.trained_tokens > 0).all()
    assert "law: left out: 5 rows too long for 64 tokens and 5 rows without a completion" in told
    assert "law: 5 examples cut at `max_length`" in told
    dropped = _load(tmp_path, {"law": "law.jsonl"}, tokenizer, too_long="drop")["law"].report
    assert (dropped["truncated"], dropped["dropped_too_long"]) == (0, 10)


def test_the_same_recipe_gives_the_same_data_and_fingerprint(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    first, again, other = (
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, seed=seed)["law"] for seed in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.report == again.report
    assert np.array_equal(first.train.examples.ids, again.train.examples.ids)
    unpacked = _load(tmp_path, {"law": "law.jsonl"}, tokenizer, packing=False)["law"]
    assert unpacked.fingerprint != first.fingerprint
    assert len(first.fingerprint) == 64


def test_the_held_out_rows_do_not_depend_on_the_length(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    places = {
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, max_length=length)["law"].heldout.places
        for length in (20, 64, 100)
    }
    assert len(places) == 1


def test_held_out_rows_of_its_own_are_all_taken(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(10))
    _write(tmp_path / "held.jsonl", _asked(4, "b"))
    spec = {"law": {"path": "law.jsonl", "heldout": "held.jsonl"}}
    law = _load(tmp_path, spec, tokenizer)["law"]
    assert law.heldout.places == tuple(f"held.jsonl:{n}" for n in range(1, 5))
    assert law.report["examples"] == 10
    assert [source["path"] for source in law.report["heldout_sources"]] == ["held.jsonl"]
    _write(tmp_path / "held.jsonl", _asked(1))
    assert "domain law: no held-out rows: `heldout:` gives 1 row" in _refused(
        tmp_path, spec, tokenizer
    )


def test_shares_are_kept_and_reported(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    _write(tmp_path / "a.jsonl", _asked(100, "a"))
    _write(tmp_path / "b.jsonl", _asked(30, "b"))
    domains = {"law": [{"path": "a.jsonl", "share": 0.5}, "b.jsonl"]}
    entry = _load(tmp_path, domains, tokenizer)["law"].report
    assert [(s["rows_read"], s["rows"], s["share"]) for s in entry["sources"]] == [
        (100, 30, 0.5),
        (30, 30, 0.5),
    ]
    assert entry["rows_read"] == 130
    assert entry["examples"] + entry["heldout"] == 60
    _write(tmp_path / "b.jsonl", _asked(1, "b"))
    domains = {"law": [{"path": "a.jsonl", "share": 0.001}, {"path": "b.jsonl", "share": 0.999}]}
    assert _load_counts(tmp_path, domains) == [0, 1]


def _load_counts(home: Path, domains: dict[str, Any]) -> list[int]:
    records = read_records(domains_from_dict(domains, "r")["law"], home=home)
    return [sum(r.place.startswith(f"{name}.jsonl") for r in records) for name in "ab"]


def test_shares_that_leave_no_row_are_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.jsonl", _asked(1, "a"))
    _write(tmp_path / "b.jsonl", _asked(1, "b"))
    domains = {"law": [{"path": "a.jsonl", "share": 0.5}, {"path": "b.jsonl", "share": 0.5}]}
    assert _load_counts(tmp_path, domains) == [1, 1]
    _write(tmp_path / "a.jsonl", _asked(1, "a"))
    spec = domains_from_dict({"law": [{"path": "a.jsonl", "share": 1.0}]}, "r")["law"]
    assert len(read_records(spec, home=tmp_path)) == 1


REPEATED = "the quick brown fox jumps over the lazy dog while the cat sleeps in the warm sun"


def test_repeats_of_held_out_rows_are_dropped_and_told(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [*_asked(10), {"prompt": "EXACTLY b0?", "completion": "b0"}]
    near = {"prompt": "say it", "completion": REPEATED}
    _write(tmp_path / "law.jsonl", [*rows, near])
    _write(
        tmp_path / "held.jsonl",
        [
            {"prompt": "exactly  b0?", "completion": "b0"},
            {"prompt": "now say it", "completion": REPEATED + " again"},
        ],
    )
    domains = {"law": {"path": "law.jsonl", "heldout": "held.jsonl"}}
    told: list[str] = []
    law = _load(tmp_path, domains, tokenizer, told=told, max_length=128)["law"]
    assert (law.report["exact_duplicates"], law.report["near_duplicates"]) == (1, 1)
    assert law.report["examples"] == 10
    assert law.report["repeats"] == [
        ["law.jsonl:11", "held.jsonl:1"],
        ["law.jsonl:12", "held.jsonl:2"],
    ]
    assert told[-1] == (
        "law: 2 training rows the same or nearly the same as held-out rows, such as law.jsonl:11"
        " as held.jsonl:1; left out of training"
    )
    law = _load(tmp_path, domains, tokenizer, told=told, duplicates="keep", max_length=128)["law"]
    assert (law.report["exact_duplicates"], law.report["near_duplicates"]) == (1, 1)
    assert law.report["examples"] == 12
    assert "kept: held-out losses will be too low" in told[-1]


def test_rows_held_out_of_one_domain_are_not_trained_on_in_another(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    _write(tmp_path / "all.jsonl", [*_asked(40), *_asked(40, "b")])
    _write(tmp_path / "held.jsonl", _asked(2, "c"))
    general = {"path": "all.jsonl", "heldout": "held.jsonl"}
    data = _load(tmp_path, {"law": "law.jsonl", "general": general}, tokenizer)
    held = {place.partition(":")[2] for place in data["law"].heldout.places}
    trained = {place.partition(":")[2] for place in data["general"].train.examples.places}
    assert held
    assert not held & trained
    assert data["general"].report["exact_duplicates"] == len(held) == 4


def test_a_domain_that_only_repeats_held_out_rows_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(4))
    domains = {"law": {"path": "law.jsonl", "heldout": "law.jsonl"}}
    told = _refused(tmp_path, domains, tokenizer)
    assert told.startswith("domain law: all its 4 training rows repeat held-out rows.")
    kept = _load(tmp_path, domains, tokenizer, duplicates="keep")["law"]
    assert kept.report["examples"] == 4


def test_rows_that_are_all_too_long_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40, words=30))
    told = _refused(tmp_path, {"law": "law.jsonl"}, tokenizer, too_long="drop")
    assert "domain law: of its 36 training rows none can be used: 36 rows too long for 64" in told
    assert "raise `max_length` or `too_long: truncate`" in told
    assert "of its 4 held-out rows none can be used" in told
    _write(tmp_path / "law.jsonl", ({"prompt": f"{n} " * 99, "completion": "x"} for n in range(40)))
    told = _refused(tmp_path, {"law": "law.jsonl"}, tokenizer)
    assert "36 rows too long for 64 tokens. To mend it, raise `max_length`." in told


def test_rows_without_a_completion_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", ({"prompt": f"p{n}", "completion": ""} for n in range(40)))
    told = _refused(tmp_path, {"law": "law.jsonl"}, tokenizer)
    assert told == (
        "domain law: none of its 40 rows has a completion: text that an assistant says, or running"
        " text."
    )
    _write(tmp_path / "held.jsonl", _asked(2))
    domains = {"law": {"path": "law.jsonl", "heldout": "held.jsonl"}}
    told = _refused(tmp_path, domains, tokenizer)
    assert "domain law: of its 40 training rows none can be used: 40 rows without a comp" in told
    assert "give rows that an assistant answers" in told


def test_held_out_rows_that_cannot_be_used_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(10))
    _write(tmp_path / "held.jsonl", [*_asked(1, "b"), {"prompt": "q", "completion": ""}])
    domains = {"law": {"path": "law.jsonl", "heldout": "held.jsonl"}}
    told = _refused(tmp_path, domains, tokenizer)
    assert "of its 2 held-out rows only 1 can be used: 1 row without a completion" in told
    assert "At least 2 are needed." in told


def test_all_problems_of_all_domains_are_in_one_message(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "good.jsonl", _asked(40))
    _write(tmp_path / "few.jsonl", _asked(5))
    _write(
        tmp_path / "empty-answers.jsonl", [{"prompt": str(n), "completion": ""} for n in range(40)]
    )
    _write(tmp_path / "other.jsonl", [{"question": "q", "answer": "a"}])
    _write(tmp_path / "field.jsonl", [*_asked(2), {"prompt": "q"}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    (tmp_path / "line.jsonl").write_text('{"text": "a"}\n{"text"\n')
    whole = gzip.compress(b'{"text": "a"}\n', mtime=0)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-3])
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    (tmp_path / "folder").mkdir()
    domains = {
        "good": "good.jsonl",
        "few": "few.jsonl",
        "silent": "empty-answers.jsonl",
        "other": "other.jsonl",
        "field": "field.jsonl",
        "empty": ["empty.jsonl", "latin.jsonl"],
        "line": "line.jsonl",
        "cut": "cut.jsonl.gz",
        "x": "x.xlsx",
        "folder": "folder",
        "gone": "gone.jsonl",
        "hub": "no-such/set",
    }
    told = _refused(tmp_path, domains, tokenizer)
    assert told.startswith("11 problems with the domains' rows:")
    for words in (
        "domain few: no held-out rows: 0.1 of 5 rows",
        "domain silent: none of its 40 rows has a completion",
        "domain other: other.jsonl: no type of row fits other.jsonl:1",
        "domain field: field.jsonl: 1 row of 3",
        "field.jsonl:3: `completion` missing",
        "domain empty: empty.jsonl is empty",
        "latin.jsonl is not UTF-8: byte 0xe9 at offset 13, line 1",
        "line 2: ",
        "cut.jsonl.gz ends in .gz but does not unpack",
        "x.xlsx: the name does not say",
        "folder is a folder without a file of rows",
        "No such file: 'gone.jsonl'",
        "no-such/set: `datasets` cannot load it",
    ):
        assert words in told, (words, told)
    assert "domain good" not in told
    order = [line.split(":")[0] for line in told.splitlines() if line.startswith("domain ")]
    assert order == [f"domain {name}" for name in domains if name != "good"]


def test_one_problem_is_told_alone(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "law.jsonl").write_text("")
    told = _refused(tmp_path, {"law": "law.jsonl"}, tokenizer)
    assert told == "domain law: law.jsonl is empty. It needs at least one row."


def test_a_vocabulary_larger_than_the_embedding_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    assert _load(tmp_path, {"law": "law.jsonl"}, tokenizer, num_embeddings=257)
    with pytest.raises(CheckpointError, match=r"has 257 tokens, .* has 256 rows") as refusal:
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, num_embeddings=256)
    assert "resize the model's embedding" in str(refusal.value)


def test_an_example_longer_than_the_model_reads_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    found = _load(tmp_path, {"law": "law.jsonl"}, tokenizer)["law"]
    examples = found.train.examples
    longest = int(examples.lengths.max())
    assert longest >= found.heldout.lengths.max()
    assert found.train.tokens.max() > longest, "a packed row may be longer"
    assert _load(tmp_path, {"law": "law.jsonl"}, tokenizer, num_positions=longest)
    told = rf"law\.jsonl:\d+ has {longest}, the model reads {longest - 1}\. Set max_length to"
    with pytest.raises(RecipeError, match=told):
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, num_positions=longest - 1)


def test_a_token_beyond_the_embedding_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A vocabulary with holes: fewer tokens than its largest number.
    monkeypatch.setattr(type(tokenizer), "__len__", lambda self: 200)
    _write(tmp_path / "law.jsonl", _asked(40))
    with pytest.raises(CheckpointError, match="257 tokens"):
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, num_embeddings=256)


def test_a_template_that_does_not_exist_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _write(tmp_path / "law.jsonl", _asked(40))
    with pytest.raises(RecipeError, match="did you mean `plain`"):
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, chat_template="plian")
    with pytest.raises(RecipeError, match="no chat template"):
        _load(tmp_path, {"law": "law.jsonl"}, tokenizer, chat_template=None)


def test_the_judge_reads_the_same_records(tmp_path: Path) -> None:
    _write(tmp_path / "a.jsonl", _asked(3))
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    spec = domains_from_dict({"law": ["a.jsonl", "b.txt"]}, "r.yaml")["law"]
    records = read_records(spec, home=tmp_path)
    assert [record.place for record in records] == [
        *(f"a.jsonl:{n}" for n in (1, 2, 3)),
        "b.txt:1",
        "b.txt:3",
    ]
