"""The journal of a detection: what is whole comes back, what is torn or foreign does not."""

from pathlib import Path

import pytest

from lamina.core.errors import OutputError
from lamina.versatune.journal import Sampled, open_journal

TEXTS = [Sampled("a\nb", 3, True), Sampled("ü \ud7ff", 2, False)]


def filled(folder: Path) -> bytes:
    with open_journal(folder, "run") as journal:
        journal.add_texts(TEXTS)
        journal.add_check((0.25, 0.75))
        journal.add_judged(None)
        journal.add_judged((1 / 3, 2 / 3))
    return (folder / "journal.jsonl").read_bytes()


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    filled(tmp_path)
    with open_journal(tmp_path, "run") as journal:
        assert journal.texts == TEXTS
        assert journal.checks == [(0.25, 0.75)]
        assert journal.judged == [None, (0.333333, 0.666667)]


def test_what_is_used_is_what_was_kept(tmp_path: Path) -> None:
    with open_journal(tmp_path, "run") as journal:
        journal.add_judged((1 / 3, 2 / 3))
        assert journal.judged == [(0.333333, 0.666667)]


@pytest.mark.parametrize("lost", [1, 5, 30, 60])
def test_a_torn_end_is_cut_off_and_written_again(tmp_path: Path, lost: int) -> None:
    whole = filled(tmp_path)
    (tmp_path / "journal.jsonl").write_bytes(whole[:-lost])
    kept = whole[:-lost].rpartition(b"\n")[0] + b"\n"
    with open_journal(tmp_path, "run"):
        pass
    assert (tmp_path / "journal.jsonl").read_bytes() == kept


def test_a_damaged_line_ends_what_is_read(tmp_path: Path) -> None:
    lines = filled(tmp_path).splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(b"".join([*lines[:2], b"{}\n", *lines[3:]]))
    with open_journal(tmp_path, "run") as journal:
        assert journal.texts == TEXTS[:1]
        assert journal.judged == []


@pytest.mark.parametrize(
    "first", [b'{"run": "other"}\n', b"[]\n", b"my diary\n", b"null\n", b"my diary, no line end"]
)
def test_a_journal_of_something_else_is_not_touched(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "journal.jsonl").write_bytes(first)
    with (
        pytest.raises(OutputError, match="with other settings"),
        open_journal(tmp_path, "run"),
    ):
        pass
    assert (tmp_path / "journal.jsonl").read_bytes() == first


def test_a_first_line_that_was_torn_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b'{"schema": "lam')
    with open_journal(tmp_path, "run") as journal:
        journal.add_judged(None)
    with open_journal(tmp_path, "run") as journal:
        assert journal.judged == [None]


def test_another_run_that_did_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    with open_journal(tmp_path, "first"):
        pass
    with open_journal(tmp_path, "second") as journal:
        journal.add_judged(None)
    with open_journal(tmp_path, "second") as journal:
        assert journal.judged == [None]
    with pytest.raises(OutputError, match="other settings"), open_journal(tmp_path, "first"):
        pass


def test_a_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="cannot write"), open_journal(tmp_path / "out", "run"):
        pass
