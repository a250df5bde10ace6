"""`lamina detect` through the command line: a folder, a kill, an endpoint, and what is refused."""

import gzip
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "versatune"))
Lamina = Callable[..., Any]
SMALL = ("-s", "detect.max_new_tokens=8", "-s", "detect.tolerance=0", "--texts", 150)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted model in `base`, rows of its domains, and a file that names them."""
    from planted_model import plant

    home = tmp_path_factory.mktemp("place")
    planted = plant(home / "base")
    (home / "data").mkdir()
    for domain, rows in planted.labelled.items():
        lines = (json.dumps({"text": row}) for row in rows)
        (home / "data" / f"{domain}.jsonl").write_text("\n".join(lines) + "\n")
    domains = "".join(f"  {d}: data/{d}.jsonl\n" for d in planted.labelled)
    (home / "domains.yaml").write_text(f"domains:\n{domains}detect: {{repeats: 2}}\n")
    return home


def results(out: Path) -> dict[str, bytes]:
    """What a rerun must write again, byte by byte."""
    names = ("shares.json", "texts.jsonl.gz")
    return {name: (out / name).read_bytes() for name in names}


def test_a_model_is_detected_into_a_folder(place: Path, lamina: Lamina, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = lamina(
        "detect", place / "base", "--domains", place / "domains.yaml", "--out", out, *SMALL
    )
    assert told.code == 0, told.err
    assert "law" in told.out
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.json",
        "recipe.yaml",
        "report.html",
        "shares.json",
        "texts.jsonl.gz",
    ]
    shares = json.loads((out / "shares.json").read_text())
    assert shares["texts"] == 300
    for domain, planted in (("law", 0.6), ("medicine", 0.3), ("code", 0.1)):
        assert abs(shares["shares"][domain] - planted) <= 2 * shares["se"][domain]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "detect"
    assert set(manifest["outputs"]) == {"recipe.yaml", "shares.json", "texts.jsonl.gz"}
    again = lamina(
        "detect", place / "base", "--domains", out / "recipe.yaml", "--out", tmp_path / "again"
    )
    assert again.code == 0, again.err
    assert results(tmp_path / "again")["texts.jsonl.gz"] == results(out)["texts.jsonl.gz"]
    assert json.loads((tmp_path / "again" / "shares.json").read_text()) == shares


def test_a_finished_folder_is_only_replaced_when_asked(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    asked = (
        "detect", place / "base", "--domains", place / "domains.yaml", "--out", tmp_path / "out",
        "--judge", "losses",
    )  # fmt: skip
    assert lamina(*asked).code == 0
    again = lamina(*asked)
    assert again.code == 2
    assert "holds a finished detection" in again.err or "not empty" in again.err
    assert lamina(*asked, "--overwrite").code == 0


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_and_started_again_it_writes_the_same_bytes(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    asked = ("detect", place / "base", "--domains", place / "domains.yaml", *SMALL)
    out = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-m", "lamina", *map(str, asked), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while run.poll() is None and not _reached(out / "journal.jsonl", 70):
        time.sleep(0.0005)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "the kill came too late"
    assert {p.name for p in out.iterdir()} == {"journal.jsonl", "recipe.yaml"}
    ended = lamina(*asked, "--out", out)
    assert ended.code == 0, ended.err
    assert "going on with an earlier run" in ended.err
    assert lamina(*asked, "--out", tmp_path / "whole").code == 0
    assert results(out) == results(tmp_path / "whole")


def _reached(journal: Path, lines: int) -> bool:
    try:
        return journal.read_bytes().count(b"\n") >= lines
    except OSError:
        return False


class Chat:
    """An endpoint that answers `left` questions and then is out of order."""

    def __init__(self, left: int) -> None:
        self.left, self.asked = left, 0
        chat, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    chat.asked += 1
                    chat.left -= 1
                    down = chat.left < 0
                content = body["messages"][0]["content"].partition("Text:")[2]
                answer = {"law": float("court" in content), "medicine": 0.5, "code": 0.1}
                told = {"choices": [{"message": {"content": json.dumps(answer)}}]}
                raw = b"down" if down else json.dumps(told).encode()
                self.send_response(500 if down else 200)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def chat() -> Iterator[Chat]:
    server = Chat(100)
    yield server
    server.close()


def test_an_endpoint_that_goes_away_loses_nothing(
    place: Path, lamina: Lamina, tmp_path: Path, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_KEY", "sk-very-secret")
    endpoint = {
        "url": chat.url, "model": "m", "retries": 0, "workers": 1, "api_key_env": "CHAT_KEY",
    }  # fmt: skip
    asked = (
        "detect", place / "base", "--domains", place / "domains.yaml", "--out", tmp_path / "out",
        "--judge", "endpoint", "-s", f"detect.endpoint={json.dumps(endpoint)}", *SMALL,
    )  # fmt: skip
    stopped = lamina(*asked)
    assert stopped.code == 2
    assert "answers 500" in stopped.err
    assert "76 of 150 texts are judged and kept" in stopped.err
    chat.left = 10**6
    ended = lamina(*asked)
    assert ended.code == 0, ended.err
    shares = json.loads((tmp_path / "out" / "shares.json").read_text())
    twice = chat.asked - 24 - (300 - shares["empty"])
    assert 1 <= twice <= 2, "only what failed, or was under way then, is asked again"
    assert shares["judge"]["url"] == chat.url
    for path in (tmp_path / "out").iterdir():
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        assert b"sk-very-secret" not in data, path.name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--judge", "clasifier"), "did you mean `classifier`"),
        (("--judge", "endpoint"), "nothing says where"),
        (("--dtype", "float23"), "did you mean `float32`"),
        (("-s", "texts=5"), "keys that are unknown beside `domains`: `texts`"),
        (("-s", "detect.texst=5"), "did you mean `texts`"),
        (("-s", "detect.floor=.5"), "3 domains cannot all have so much"),
        (("-s", "domains.law=data/none.jsonl"), "none.jsonl"),
        (("-s", "detect=5"), "`detect` is a map of settings"),
        (("-s", "detect.judge=model", "-s", "detect.model.path=./no"), "no does not exist"),
    ],
)
def test_what_cannot_be_followed_is_told_before_anything_is_written(
    place: Path, lamina: Lamina, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "out"
    told = lamina(
        "detect", place / "base", "--domains", place / "domains.yaml", "--out", out, *more
    )
    assert told.code == 2
    assert message in told.err
    assert not out.exists()


def test_a_key_that_is_not_set_is_told_before_anything_is_sampled(
    place: Path, lamina: Lamina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHAT_KEY", raising=False)
    told = lamina(
        "detect", place / "base", "--domains", place / "domains.yaml", "--out", tmp_path / "out",
        "--judge", "endpoint", "-s", "detect.endpoint.url=http://localhost:1/v1",
        "-s", "detect.endpoint.model=m", "-s", "detect.endpoint.api_key_env=CHAT_KEY",
    )  # fmt: skip
    assert told.code == 2
    assert "CHAT_KEY, which is not set" in told.err


def test_a_folder_with_other_things_is_left_alone(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for more in ((), ("--overwrite",)):
        told = lamina(
            "detect", place / "base", "--domains", place / "domains.yaml", "--out", out, *more
        )
        assert told.code == 2
        assert (out / "thesis.txt").read_text() == "mine"
        assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_a_recipe_of_the_users_own_is_not_written_over(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    own = tmp_path / "recipe.yaml"
    own.write_text(
        "# mine\n" + (place / "domains.yaml").read_text().replace("data/", f"{place}/data/")
    )
    before = own.read_bytes()
    for more in ((), ("--overwrite",)):
        told = lamina("detect", place / "base", "--domains", own, "--out", tmp_path, *more)
        assert told.code == 2
        assert "holds no detection (recipe.yaml and nothing else)" in told.err
        assert own.read_bytes() == before


def test_what_is_to_be_replaced_stays_until_the_rows_are_read(
    place: Path, lamina: Lamina, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ("detect", place / "base", "--out", out, "--judge", "losses", "--overwrite")
    assert lamina(*asked, "--domains", place / "domains.yaml").code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    told = lamina(*asked, "--domains", place / "domains.yaml", "-s", "domains.law=data/none.jsonl")
    assert told.code == 2
    assert "none.jsonl" in told.err
    (out / ".git").mkdir()
    told = lamina(*asked, "--domains", place / "domains.yaml")
    assert told.code == 2
    assert "holds no detection (.git)" in told.err
    (out / ".git").rmdir()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_run_that_never_began_leaves_nothing(place: Path, lamina: Lamina, tmp_path: Path) -> None:
    asked = ("detect", place / "base", "--domains", place / "domains.yaml")
    tokenizer = place / "base" / "tokenizer_config.json"
    was = tokenizer.read_bytes()
    tokenizer.write_text("{")
    try:
        told = lamina(*asked, "--out", tmp_path / "out")
    finally:
        tokenizer.write_bytes(was)
    assert told.code == 2, told.err
    assert not (tmp_path / "out").exists()


def test_an_output_inside_the_model_is_refused(place: Path, lamina: Lamina) -> None:
    out = place / "base" / "out"
    told = lamina("detect", place / "base", "--domains", place / "domains.yaml", "--out", out)
    assert told.code == 2
    assert "Inputs are never written into" in told.err
    assert not out.exists()
