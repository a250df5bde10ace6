import sys
from pathlib import Path

from lamina.evaluate.sandbox.inside import files


def test_the_loader_is_read_from_the_executable(tmp_path):
    loader = files.loader_of(sys.executable)
    assert loader is None or Path(loader).is_file()
    (tmp_path / "script").write_text("#!/bin/sh\n" + " " * 100)
    assert files.loader_of(str(tmp_path / "script")) is None


def test_other_peoples_packages_and_ways_below_python_are_hidden():
    assert files._is_hidden_module("_ctypes.cpython-311-x86_64-linux-gnu.so")
    assert files._is_hidden_module("_testcapi.cpython-313-aarch64-linux-gnu.so")
    assert not files._is_hidden_module("_struct.cpython-311-x86_64-linux-gnu.so")
    assert "site-packages" in files.HIDDEN_FOLDERS


def test_files_travel_as_json():
    told = files.Files("/p", "/l", "/r", ("/a",), ("/b", "/c"), ("/d",), ())
    assert files.Files.of_json(told.as_json()) == told
