import gzip
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lamina.core.errors import DataError
from lamina.evaluate.text import Document, read_documents


def _jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert read_documents(tmp_path / "a.txt") == (Document(None, "one\n\ntwo\n", "one\n\ntwo\n"),)


def test_rows_of_all_forms_may_stand_in_one_file(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path / "a.jsonl",
        {"text": "plain", "id": 4},
        {"page": "a @-@ b"},
        {"prompt": "Q: ", "completion": "A"},
    )
    assert read_documents(path) == (
        Document(None, "plain", "plain"),
        Document(None, "a-b", "a @-@ b"),
        Document("Q: ", "A", "A"),
    )


def test_packed_files_and_json_lists_are_read(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"text": "one"}\n\n{"text": "two"}\n', mtime=0))
    assert read_documents(tmp_path / "a.json") == read_documents(packed)
    assert [document.text for document in read_documents(packed)] == ["one", "two"]


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert read_documents(path)[0].text == "a\u2028b\x85c"


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_documents(tmp_path / "a.txt")[0].text == "hello"


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as refusal:
        read_documents(path)
    for word in (path.name, *words):
        assert word in str(refusal.value), (word, str(refusal.value))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    _refused(tmp_path / "no.jsonl", "No such file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    _refused(tmp_path / "a.txt", "is a folder")


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    _refused(tmp_path / "a.parquet", ".jsonl", ".txt")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(" \n")
    _refused(tmp_path / name, "is empty")


def test_texts_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    _refused(_jsonl(tmp_path / "a.jsonl", {"text": ""}, {"text": " \n"}), "all 2 texts are empty")


def test_every_unknown_row_is_told_by_line_with_the_keys_seen(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path / "a.jsonl",
        {"text": "good"},
        {"question": "q", "answer": "a"},
        {"prompt": "only"},
        {"text": "a", "page": "b"},
        {"text": 5},
        ["text"],
    )
    _refused(
        path,
        "5 lines are not a row to score",
        "line 2: keys seen: question, answer",
        "line 3: keys seen: prompt",
        "line 4: it could be read in two ways, as text and page",
        "line 5: `text` must be a string, this is a number",
        "line 6: a JSON object is needed, this is a list",
        "A row needs `text`, `page`, or `prompt` with `completion`",
    )


def test_many_bad_lines_are_counted_not_listed(tmp_path: Path) -> None:
    _refused(_jsonl(tmp_path / "a.jsonl", *({"x": 1} for _ in range(9))), "and 4 more")


def test_a_line_that_is_not_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n{"text": \n' + "9" * 5000 + "\n")
    _refused(path, "line 2:", "line 3:", "one JSON object per line")


def test_json_lines_under_a_json_name_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    _refused(path, "name it .jsonl")


def test_bytes_that_are_not_utf_8_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nbad \xe9\n")
    _refused(tmp_path / "a.txt", "0xe9", "offset 9", "line 2")


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud83d"}\n')
    _refused(path, "half a character", "\\ud83d")


@pytest.mark.parametrize(
    "content",
    [b"plain", gzip.compress(b"hello hello", mtime=0)[:-9]],
    ids=["not gzip at all", "cut short"],
)
def test_a_gz_that_does_not_unpack_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt.gz").write_bytes(content)
    _refused(tmp_path / "a.txt.gz", "does not unpack")


_ROW = st.fixed_dictionaries(
    {},
    optional={
        key: st.one_of(st.text(), st.none(), st.integers())
        for key in ("text", "page", "prompt", "completion", "id")
    },
)


@given(
    st.one_of(
        st.binary(), st.lists(_ROW).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())
    ),
    st.sampled_from([".txt", ".jsonl", ".json", ".jsonl.gz"]),
)
@example(b"[" * 100_000, ".json")
@example(b"\x1f\x8b\x08\x00", ".jsonl.gz")
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        documents = read_documents(path)
    except DataError:
        return
    assert any(document.text.strip() for document in documents)
    for document in documents:
        document.measured.encode("utf-8")
