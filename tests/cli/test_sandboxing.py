import json

import pytest

from lamina.cli import main


@pytest.fixture
def run(capsys):
    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(["sandbox", *words])
        except SystemExit as end:
            code = end.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def program(tmp_path, text: str | bytes) -> str:
    path = tmp_path / "program.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_pass_is_exit_code_0_and_json(run, tmp_path):
    code, out, err = run(program(tmp_path, "print(6 * 7)"), "--seconds", "20", "--memory", "512")
    if code == 2 and "no program is run on this machine" in err:
        pytest.skip(err)
    told = json.loads(out)
    assert (code, told["schema"], told["passed"], told["output"]) == (
        0,
        "lamina.verdict/1",
        True,
        "42\n",
    )
    assert told["limits"]["memory_bytes"] == 512 << 20
    assert told["protection"].startswith("sandbox: limits")
    assert set(told) >= {"reason", "detail", "seconds", "suspicious", "layers", "missing"}


@pytest.mark.parametrize("text", ["assert False", "import sys; sys.exit(0)", "x =", b"\xff", ""])
def test_a_failure_is_exit_code_1_and_json(run, tmp_path, text):
    code, out, err = run(program(tmp_path, text))
    if code == 2 and "no program is run on this machine" in err:
        pytest.skip(err)
    assert code == (0 if text == "" else 1)
    assert json.loads(out)["passed"] is (text == "")


def test_no_file_a_folder_and_limits_too_low_are_exit_code_2(run, tmp_path):
    for words, told in (
        ([str(tmp_path / "none.py")], "cannot be read: No such file"),
        ([str(tmp_path)], "is a folder; `lamina sandbox` runs one Python file"),
        (
            [program(tmp_path, ""), "--memory", "1", "--seconds", "0", "--threads", "0"],
            "--seconds 0 (at least 0.1), --memory 1 (at least 64), --threads 0 (at least 1)",
        ),
    ):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert told in err
