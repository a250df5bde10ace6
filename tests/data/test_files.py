import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.core.errors import DataError
from lamina.data.files import SUFFIXES, read_file, suffix_of

NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"]


def _write(folder: Path, name: str, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(raw, mtime=0) if name.endswith(".gz") else raw)
    return path


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_file(path, path.name)
    for word in (path.name, *words):
        assert word in str(refusal.value), (word, str(refusal.value))


def test_json_lines_have_their_line_as_place(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.jsonl", '{"text": "a"}\n\n  \n{"text": "b\u2028c", "text": "d"}\r\n')
    assert read_file(path, "a.jsonl") == [
        ("a.jsonl:1", {"text": "a"}),
        ("a.jsonl:4", {"text": "d"}),
    ]


def test_a_json_list_has_its_row_as_place(tmp_path: Path) -> None:
    rows = [("x:1", {"text": "a"}), ("x:2", {"text": "b"})]
    values = [row for _, row in rows]
    for whole in (values, {"version": 1, "data": values}):
        path = _write(tmp_path, "a.json", json.dumps(whole, indent=1))
        assert read_file(path, "x") == rows


def test_a_json_file_with_an_object_per_line_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.json", '{"text": "a"}\n{"text": "b"}\n')
    assert [place for place, _ in read_file(path, "x")] == ["x:1", "x:2"]
    _refused(_write(tmp_path, "a.json", '{"text": "a"}\n{"text": \n'), "1 row of 2", "line 2")


def test_cells_are_texts_and_may_have_line_ends(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", 'prompt,completion\n"1\n+ 1",2\n\n007,"a ""b"""\n')
    assert read_file(path, "a.csv") == [
        ("a.csv:2", {"prompt": "1\n+ 1", "completion": "2"}),
        ("a.csv:5", {"prompt": "007", "completion": 'a "b"'}),
    ]
    path = _write(tmp_path, "a.tsv", "text\tid\na, b\t1\n")
    assert read_file(path, "a.tsv") == [("a.tsv:2", {"text": "a, b", "id": "1"})]


def test_a_cell_may_hold_a_whole_document(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", "text,id\n" + "a" * 300_000 + ",1\n")
    assert len(read_file(path, "a.csv")[0][1]["text"]) == 300_000


def test_texts_stand_between_blank_lines(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.txt", "\none\n more \n\n \n\ntwo\r\nlines\r\n\r\nthree")
    assert read_file(path, "a.txt") == [
        ("a.txt:2", {"text": "one\n more "}),
        ("a.txt:7", {"text": "two\nlines"}),
        ("a.txt:10", {"text": "three"}),
    ]


def test_parquet_rows_keep_their_lists(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": []}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", "x") == [("x:1", rows[0]), ("x:2", rows[1])]


@pytest.mark.parametrize("name", NAMES)
def test_packed_files_read_as_plain_ones(tmp_path: Path, name: str) -> None:
    content = {".json": '[{"text": "a"}]', ".jsonl": '{"text": "a"}', ".txt": "a"}
    text = content.get(Path(name).suffix, "text\na\n")
    plain = read_file(_write(tmp_path, name, text), "x")
    assert plain == read_file(_write(tmp_path, f"{name}.gz", text), "x")
    assert [row for _, row in plain] == [{"text": "a"}]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", b"\xef\xbb\xbftext\nhi\n")
    assert read_file(path, "x") == [("x:2", {"text": "hi"})]


def test_endings_are_known_whatever_their_case() -> None:
    known = {"a.JSONL.GZ": ".jsonl", "a.Parquet": ".parquet", "a.b.txt": ".txt"}
    assert {name: suffix_of(name) for name in known} == known
    assert suffix_of("a.parquet.gz") is suffix_of("jsonl") is suffix_of("a.xlsx") is None


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    _refused(_write(tmp_path, "a.xlsx", "x"), *SUFFIXES)


@pytest.mark.parametrize("name", [*NAMES, "a.parquet", "a.jsonl.gz"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    _refused(_write(tmp_path, name, ""), "is empty")


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", "[]"), ("a.json", '{"data": []}'), ("a.csv", "text\n")]
)
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    _refused(_write(tmp_path, name, content), "has no rows")


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    _refused(tmp_path / "a.parquet", "has no rows")


def test_broken_lines_are_told_by_number(tmp_path: Path) -> None:
    lines = ['{"text": "a"}', '{"text": ', "", *["nope"] * 6]
    path = _write(tmp_path, "a.jsonl", "\n".join(lines))
    _refused(path, "7 rows of 8 are not JSON", "line 2: Expecting value", "line 4:", "and 2 more")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"text": "a"}', "is not JSON: "),
        ('{"rows": [1]}', "is an object with `rows`"),
        ("{}", "is an object with no keys"),
        ('{"data": 5}', "is an object with `data`"),
        ("5", "is a number"),
        ("[" * 100_000, "is not JSON: "),
        ("1" * 5000, "is not JSON: "),
    ],
    ids=["cut", "rows", "none", "data", "number", "deep", "digits"],
)
def test_json_that_is_no_list_of_rows_is_refused(tmp_path: Path, content: str, words: str) -> None:
    _refused(_write(tmp_path, "a.json", content), words)


def test_rows_of_another_width_are_told_by_line(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.csv", 'a,b\n1,2\n"x\ny",2\n1\n1,2,3\n')
    _refused(path, "2 rows of 4", "line 5: 1 cells, 2 names", "line 6: 3 cells", "at commas")


def test_a_quote_that_never_closes_is_refused(tmp_path: Path) -> None:
    _refused(
        _write(tmp_path, "a.csv", 'a,b\n1,2\n1,"x\ny\n'), "line 3", "cannot be read as a table"
    )


def test_a_column_name_twice_is_refused(tmp_path: Path) -> None:
    _refused(_write(tmp_path, "a.csv", "a,b,a\n1,2,3\n"), "'a' is the name of two columns")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path, name: str) -> None:
    _refused(_write(tmp_path, name, b"a\nb\xff"), "is not UTF-8", "0xff at offset 3, line 2")


def test_a_gzip_cut_short_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "a"}\n' * 100, mtime=0)
    for kept in (5, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.jsonl.gz").write_bytes(whole[:kept])
        _refused(tmp_path / "a.jsonl.gz", "does not unpack", "Copy it again")
    (tmp_path / "a.jsonl.gz").write_bytes(b'{"text": "not packed"}')
    _refused(tmp_path / "a.jsonl.gz", "does not unpack")


def test_a_parquet_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-9])
    _refused(path, "cannot be read as parquet")


def test_a_file_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = _write(tmp_path, "a.jsonl", "{}")
    monkeypatch.setattr(Path, "read_bytes", denied)
    _refused(path, "cannot be read: Permission denied")


def _rows_or_refusal(path: Path) -> Any:
    try:
        return read_file(path, "x")
    except DataError as error:
        told = str(error)
    assert told.startswith("x")
    return None


@pytest.mark.parametrize("name", [*NAMES, "a.jsonl.gz"])
@given(raw=st.binary(max_size=60) | st.text('{}[]",:\n\r\t ab1\\\x00\u2028\xe9').map(str.encode))
@example(raw=b'"')
@example(raw=b"\x00")
@example(raw=b"a\r\rb")
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{name}"
    path.write_bytes(raw)
    rows = _rows_or_refusal(path)
    if rows is None:
        return
    assert rows
    places = [int(place.removeprefix("x:")) for place, _ in rows]
    assert places == sorted(set(places))


@given(st.binary(max_size=12), st.integers(0, 400))
def test_a_damaged_parquet_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, patch: bytes, at: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), path)
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + patch + raw[at + len(patch) :])
    rows = _rows_or_refusal(path)
    if rows is None:
        return
    assert rows
