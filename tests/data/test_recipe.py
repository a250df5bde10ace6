import pytest

from lamina.core.errors import RecipeError
from lamina.core.recipe import validate
from lamina.data.recipe import (
    FIELDS,
    REQUIRED,
    DataSection,
    DomainSpec,
    SourceSpec,
    domains_from_dict,
)


def _refused(raw: object) -> str:
    with pytest.raises(RecipeError) as refusal:
        domains_from_dict(raw, "d.yaml")
    return str(refusal.value)


def test_a_text_a_map_and_a_list_are_domains() -> None:
    domains = domains_from_dict(
        {
            "law": "law.jsonl",
            "medicine": {"path": "m.parquet", "type": "alpaca"},
            "general": ["a.jsonl", {"path": "org/name", "split": "train"}],
            "science": {"sources": "s.jsonl", "heldout": ["h.jsonl"]},
        },
        "d.yaml",
    )
    assert domains == {
        "law": DomainSpec(sources=(SourceSpec(path="law.jsonl"),)),
        "medicine": DomainSpec(sources=(SourceSpec(path="m.parquet", type="alpaca"),)),
        "general": DomainSpec(
            sources=(SourceSpec(path="a.jsonl"), SourceSpec(path="org/name", split="train"))
        ),
        "science": DomainSpec(
            sources=(SourceSpec(path="s.jsonl"),), heldout=(SourceSpec(path="h.jsonl"),)
        ),
    }
    assert list(domains) == ["law", "medicine", "general", "science"]


def test_held_out_rows_may_stand_beside_a_path() -> None:
    domain = domains_from_dict({"code": {"path": "a.jsonl", "heldout": "b.jsonl"}}, "d.yaml")
    assert domain["code"].sources == (SourceSpec(path="a.jsonl"),)
    assert domain["code"].heldout == (SourceSpec(path="b.jsonl"),)


def test_domains_may_stand_under_their_key() -> None:
    named = {"law": "law.jsonl"}
    assert domains_from_dict({"domains": named}, "d") == domains_from_dict(named, "d")


def test_a_recipe_that_was_written_out_reads_the_same() -> None:
    domain = domains_from_dict({"a": [{"path": "a", "share": 0.5}, "b"]}, "d.yaml")["a"]
    assert DomainSpec.model_validate(domain.model_dump(mode="json")) == domain


@pytest.mark.parametrize("raw", [[], {}, None, "law.jsonl", {"domains": {}}])
def test_no_domains_are_refused(raw: object) -> None:
    assert "law: data/law.jsonl" in _refused(raw)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"pth": "x"}, ["sources[0].path: missing", "did you mean `path`?"]),
        ({"path": "x", "typ": "alpaca"}, ["did you mean `type`?"]),
        ({"path": "x", "type": "alpca"}, ["'alpca' is unknown", "did you mean `alpaca`?"]),
        ({"path": "x", "heldout": {"path": "y", "spilt": "z"}}, ["did you mean `split`?"]),
        ([], ["no source"]),
        (5, ["a path, a map with `path`, or a list"]),
        (None, ["a path, a map with `path`, or a list"]),
        ([5], ["a source is a path, or a map"]),
        ("", ["path"]),
        ({"path": "x", "share": 0}, ["share"]),
        ({"path": "x", "share": 1.5}, ["share"]),
        ({"path": "x", "share": 0.5}, ["sum to 0.5"]),
        ([{"path": "x", "share": 0.5}, {"path": "y", "share": 0.6}], ["sum to 1.1"]),
        ([{"path": "x", "share": 1.0}, "y"], ["leaves nothing for the sources without"]),
        ({"path": "x", "fields": {"promt": "q"}}, ["did you mean `prompt`?"]),
        ({"path": "x", "type": "text", "fields": {"prompt": "q"}}, ["type `text` has text"]),
        ({"path": "x", "fields": {"prompt": "q", "text": "t"}}, ["no type has all of them"]),
    ],
)
def test_a_domain_that_cannot_be_is_refused(raw: object, words: list[str]) -> None:
    told = _refused({"law": raw})
    for word in ("domains.law", *words):
        assert word in told, (word, told)


@pytest.mark.parametrize("name", ["", " law", "law\n", "a\x00b"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    assert repr(name) in _refused({name: "law.jsonl"})


def test_all_domains_are_told_at_once() -> None:
    told = _refused({"law": {"pth": "x"}, "code": {"path": "x", "type": "txt"}})
    assert "domains.law" in told
    assert "domains.code" in told


def test_the_data_section_has_its_bounds() -> None:
    assert DataSection() == DataSection(
        max_length=1024,
        packing=True,
        chat_template=None,
        too_long="truncate",
        heldout_rows=256,
        heldout_share=0.1,
        duplicates="drop",
        seed=0,
    )
    wrong = {
        "max_length": 1,
        "heldout_rows": 1,
        "heldout_share": 1,
        "duplicates": "dorp",
        "too_long": "cut",
        "seed": -1,
        "max_lenght": 5,
    }
    with pytest.raises(RecipeError) as refusal:
        validate(DataSection, wrong, "r.yaml")
    for name in wrong:
        assert name in str(refusal.value)


def test_required_fields_are_fields() -> None:
    assert list(FIELDS) == list(REQUIRED)
    assert all(set(REQUIRED[kind]) <= set(FIELDS[kind]) for kind in FIELDS)
