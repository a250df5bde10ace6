"""Values that are read without failing: what is wrong is told with its file and key."""

from pathlib import Path

from lamina.report.soft import Soft, soft_json, soft_lines


def soft(value: object) -> tuple[Soft, list[str]]:
    problems: list[str] = []
    return Soft(value, "ledger.json", problems), problems


def test_what_is_right_is_read_and_nothing_is_told() -> None:
    place, problems = soft({"a": {"b": 1.5}, "names": ["x", "y"], "none": None})
    assert place.get("a").get("b").number() == 1.5
    assert place.get("a").numbers() == {"b": 1.5}
    assert place.get("names").texts() == ("x", "y")
    assert place.get("none").number() is None
    assert place.get("missing").get("deeper").listed() == []
    assert problems == []


def test_what_is_wrong_is_told_with_its_key_and_left_out() -> None:
    place, problems = soft({"total": {"law": "high", "code": 2, "odd": True}, "stages": 7})
    assert place.get("total").numbers() == {"code": 2.0}
    assert place.get("stages").listed() == []
    assert problems == [
        "ledger.json: `total.law` should be a number, but it is 'high'; it is left out.",
        "ledger.json: `total.odd` should be a number, but it is True; it is left out.",
        "ledger.json: `stages` should be a list, but it is 7; it is left out.",
    ]


def test_the_same_problem_is_told_once() -> None:
    place, problems = soft([1])
    assert place.get("a").value is None
    assert place.get("b").value is None
    assert len(problems) == 1


def test_numbers_that_no_float_holds_do_not_pass() -> None:
    place, problems = soft({"huge": 10**400, "nan": float("nan"), "inf": float("inf")})
    assert place.numbers() == {}
    assert len(problems) == 1
    assert place.cleaned()["huge"] == "a number with more than 300 digits"


def test_a_file_that_is_no_json_is_told_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("{")
    problems: list[str] = []
    assert soft_json(tmp_path / "data.json", problems).value is None
    assert soft_json(tmp_path / "none.json", problems).value is None
    (told,) = problems
    assert told.startswith("data.json is left out: it is not JSON")
    assert str(tmp_path) not in told


def test_torn_lines_are_counted_and_the_others_read(tmp_path: Path) -> None:
    (tmp_path / "domains.jsonl").write_text('{"window": 0}\n[1]\n\n{"window": 1}\n{"wind')
    problems: list[str] = []
    lines = soft_lines(tmp_path / "domains.jsonl", problems)
    assert [line.get("window").number() for line in lines] == [0.0, 1.0]
    assert problems == ["domains.jsonl: lines 2, 5 cannot be read and are left out."]
