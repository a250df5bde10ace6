"""A killed measurement goes on: what stands in the journal is used, a torn line is not."""

from pathlib import Path

import pytest

from lamina.core.errors import OutputError
from lamina.jobs.evaluate_journal import Journal, forget_partial, partial_folder

KEY = {"model": "abc", "task": "gsm8k", "settings": {"dtype": "float32"}}
RAW = {"7": {"texts": ["a – ü"], "tokens": [3], "loss": 0.1 + 0.2}}


def test_what_was_added_is_read_again_to_the_bit(tmp_path: Path) -> None:
    Journal(tmp_path, KEY).add("0", RAW)
    assert Journal(tmp_path, KEY).done == {"0": RAW}


def test_other_settings_have_another_file(tmp_path: Path) -> None:
    Journal(tmp_path, KEY).add("0", RAW)
    assert Journal(tmp_path, {**KEY, "settings": {"dtype": "bfloat16"}}).done == {}
    assert Journal(tmp_path, KEY).done == {"0": RAW}


def test_a_line_that_was_cut_by_a_kill_is_left_out_and_the_next_one_is_whole(
    tmp_path: Path,
) -> None:
    Journal(tmp_path, KEY).add("0", RAW)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    Journal(tmp_path, KEY).add("1", RAW)
    for end in range(len(whole) + 1, file.stat().st_size):
        file.write_bytes(file.read_bytes()[:end])
        assert set(Journal(tmp_path, KEY).done) == {"0"}, end
        Journal(tmp_path, KEY).add("1", RAW)
        assert set(Journal(tmp_path, KEY).done) == {"0", "1"}, end


def test_a_file_without_its_header_is_begun_anew(tmp_path: Path) -> None:
    Journal(tmp_path, KEY).add("0", RAW)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"{}\n" + file.read_bytes().split(b"\n", 1)[1])
    assert Journal(tmp_path, KEY).done == {}


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    journal = Journal(None, KEY)
    journal.add("0", RAW)
    assert journal.done == {"0": RAW}
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out", KEY)
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    (tmp_path / "out").rmdir()
    with pytest.raises(OutputError, match="run the same command again"):
        journal.add("0", RAW)


def test_a_finished_result_leaves_no_journal(tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    Journal(partial_folder(out), KEY).add("0", RAW)
    forget_partial(out)
    forget_partial(out)
    assert not list(tmp_path.iterdir())


def test_a_line_that_a_disk_damaged_is_left_out_with_those_behind_it(tmp_path: Path) -> None:
    for portion in "012":
        Journal(tmp_path, KEY).add(portion, RAW)
    (file,) = tmp_path.iterdir()
    lines = file.read_bytes().split(b"\n")
    for damage in (b"\0" * len(lines[2]), b"[]", b'{"portion": "1"}', b"\xff"):
        file.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
        assert set(Journal(tmp_path, KEY).done) == {"0"}, damage
        Journal(tmp_path, KEY).add("2", RAW)
        assert set(Journal(tmp_path, KEY).done) == {"0", "2"}, damage
