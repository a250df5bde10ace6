"""A chat model behind an address, played by a server that the test starts."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lamina.core.errors import RecipeError
from lamina.versatune.detect_recipe import EndpointSection
from lamina.versatune.judges.endpoint import EndpointJudge, parse
from lamina.versatune.judges.interface import JudgeStopped

DOMAINS = ("law", "medicine")
Answer = Callable[[dict[str, Any], dict[str, str]], tuple[int, str | bytes, dict[str, str]]]


class _Quiet(ThreadingHTTPServer):
    """A client that went away is no news."""

    def handle_error(self, *args: Any) -> None: ...


class Server:
    """Answers as it is told to, and keeps what it was asked."""

    def __init__(
        self, answer: Answer, reason: str | None = None, after: Callable[..., object] | None = None
    ) -> None:
        """`reason`: it refuses with that in its status line; `after` gets the writer in the end."""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                server.headers.append(dict(self.headers))
                if reason is not None:
                    self.send_response(401, reason)
                    self.end_headers()
                    return
                code, content, headers = answer(body, {"path": self.path})
                raw = content.encode() if isinstance(content, str) else content
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
                if after is not None:
                    after(self.wfile.write)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._http = _Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(answer: Answer, **more: Any) -> Server:
        servers.append(Server(answer, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def says(content: str | None) -> tuple[int, str, dict[str, str]]:
    return 200, json.dumps({"choices": [{"message": {"content": content}}]}), {}


def by_word(body: dict[str, Any], about: dict[str, str]) -> tuple[int, str, dict[str, str]]:
    law = "court" in body["messages"][0]["content"]
    return says(json.dumps({"law": 0.9 if law else 0.2, "medicine": 0.1 if law else 0.8}))


def judge(url: str, pauses: list[float] | None = None, **settings: Any) -> EndpointJudge:
    section = EndpointSection(url=url, model="m", **{"workers": 2, **settings})
    key = "sk-very-secret" if section.api_key_env else None
    return EndpointJudge(section, DOMAINS, key=key, pause=([] if pauses is None else pauses).append)


def test_answers_come_in_the_order_of_the_texts(serve: Serve) -> None:
    server = serve(by_word)
    texts = ["the court", "a fever", "a dose", "court again"] * 5
    rows = list(judge(server.url, workers=4).judge(texts))
    assert rows == [(0.9, 0.1) if "court" in text else (0.2, 0.8) for text in texts]


def test_it_asks_for_json_of_the_domains(serve: Serve) -> None:
    server = serve(by_word)
    assert list(judge(server.url).judge(["a {text} with braces {domains}"]))
    (body,) = server.asked
    assert body["model"] == "m"
    assert body["temperature"] == 0
    assert "a {text} with braces {domains}" in body["messages"][0]["content"]
    assert "law, medicine" in body["messages"][0]["content"]
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["law", "medicine"]
    for constrain, expected in (("none", None), ("json_object", {"type": "json_object"})):
        assert list(judge(server.url, constrain=constrain).judge(["x"]))
        assert server.asked[-1].get("response_format") == expected


def test_a_text_is_cut_before_it_is_sent(serve: Serve) -> None:
    server = serve(by_word)
    assert list(judge(server.url, text_chars=10).judge(["0123456789TOO LONG"]))
    assert "0123456789" in server.asked[0]["messages"][0]["content"]
    assert "TOO LONG" not in server.asked[0]["messages"][0]["content"]


def test_the_key_is_sent_and_never_told(serve: Serve) -> None:
    server = serve(lambda body, about: (401, "bad key sk-very-secret", {}))
    asked = judge(server.url, api_key_env="JUDGE_KEY")
    with pytest.raises(JudgeStopped, match="another key than that in JUDGE_KEY") as stopped:
        list(asked.judge(["x"]))
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in str(stopped.value)
    assert "sk-very-secret" not in json.dumps(asked.facts())


def test_a_missing_key_is_refused_before_anything_is_asked() -> None:
    section = EndpointSection(url="http://h/v1", model="m", api_key_env="JUDGE_KEY")
    with pytest.raises(RecipeError, match="JUDGE_KEY, which is not set or empty"):
        EndpointJudge(section, DOMAINS, key="")
    with pytest.raises(RecipeError, match="line ends") as refused:
        EndpointJudge(section, DOMAINS, key="secret\n")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again_with_growing_pauses(serve: Serve, code: int) -> None:
    left = iter([code, code, code])

    def busy(
        body: dict[str, Any], about: dict[str, str]
    ) -> tuple[int, str | bytes, dict[str, str]]:
        now = next(left, None)
        return by_word(body, about) if now is None else (now, "later", {})

    pauses: list[float] = []
    server = serve(busy)
    assert list(judge(server.url, pauses).judge(["the court"])) == [(0.9, 0.1)]
    assert pauses == [1.0, 2.0, 4.0]


def test_a_server_may_say_how_long_to_wait(serve: Serve) -> None:
    left = iter([{"Retry-After": "7"}, {"Retry-After": "9999"}, {"Retry-After": "Wed, 21 Oct"}])

    def busy(
        body: dict[str, Any], about: dict[str, str]
    ) -> tuple[int, str | bytes, dict[str, str]]:
        headers = next(left, None)
        return by_word(body, about) if headers is None else (429, "later", headers)

    pauses: list[float] = []
    assert list(judge(serve(busy).url, pauses).judge(["x"]))
    assert pauses == [7.0, 60.0, 4.0]


def test_a_server_that_stays_busy_stops_the_judge(serve: Serve) -> None:
    server = serve(lambda body, about: (503, "overloaded", {}))
    with pytest.raises(JudgeStopped, match=r"answers 503 .*overloaded.*Asked 3 times"):
        list(judge(server.url, retries=2, workers=1).judge(["x"]))
    assert len(server.asked) == 3


def test_a_server_that_is_down_stops_the_judge(serve: Serve) -> None:
    server = serve(by_word)
    server.close()
    serve_again = judge(server.url, retries=1)
    with pytest.raises(JudgeStopped, match=r"fails: .*refused.*Asked 2 times"):
        list(serve_again.judge(["x", "y"]))


def test_a_server_that_is_slow_stops_the_judge(serve: Serve) -> None:
    over = threading.Event()

    def slow(
        body: dict[str, Any], about: dict[str, str]
    ) -> tuple[int, str | bytes, dict[str, str]]:
        over.wait(30)
        return 200, "", {}

    server = serve(slow)
    try:
        with pytest.raises(JudgeStopped, match=r"no answer within 0\.2 s.*Asked 2 times"):
            list(judge(server.url, retries=1, timeout_seconds=0.2).judge(["x"]))
    finally:
        over.set()


def test_an_error_that_stalls_in_its_middle_is_a_try_like_others(serve: Serve) -> None:
    over = threading.Event()

    class Stalling(bytes):
        """Ten bytes more are announced than come."""

        def __len__(self) -> int:
            return super().__len__() + 10

    def stall(
        body: dict[str, Any], about: dict[str, str]
    ) -> tuple[int, str | bytes, dict[str, str]]:
        return 503, Stalling(b"wait"), {"Connection": "keep-alive"}

    server = serve(stall, after=lambda write: over.wait(30))
    try:
        with pytest.raises(JudgeStopped, match=r"answers 503 .*nothing\. Asked 2 times"):
            list(judge(server.url, retries=1, timeout_seconds=0.2).judge(["x"]))
    finally:
        over.set()


def test_a_server_that_answers_drop_by_drop_is_slow(serve: Serve) -> None:
    over = threading.Event()

    class Drops(bytes):
        """A beginning; more is announced, and comes a blank at a time."""

        def __len__(self) -> int:
            return 10_000

    server = serve(
        lambda body, about: (200, Drops(b" "), {}),
        after=lambda write: any(over.wait(0.02) or write(b" ") is None for _ in range(2000)),
    )
    try:
        with pytest.raises(JudgeStopped, match=r"no answer within 0\.2 s.*Asked 1 times"):
            list(judge(server.url, retries=0, timeout_seconds=0.2).judge(["x"]))
    finally:
        over.set()


def test_what_a_server_says_in_its_status_line_is_told_without_key_and_odd_letters(
    serve: Serve,
) -> None:
    server = serve(by_word, reason="no sk-very-secret \x1b[31m")
    with pytest.raises(JudgeStopped, match=r"answers 401 no \[the key\] \?\[31m: nothing") as told:
        list(judge(server.url, api_key_env="JUDGE_KEY").judge(["x"]))
    assert "sk-very-secret" not in str(told.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [(400, "constrain: none"), (404, "up to /v1"), (403, "api_key_env"), (302, "a chat model")],
)
def test_a_refusal_is_not_asked_again(serve: Serve, code: int, message: str) -> None:
    server = serve(lambda body, about: (code, "no", {"Location": "http://127.0.0.1:9/elsewhere"}))
    with pytest.raises(JudgeStopped, match=message):
        list(judge(server.url, workers=1).judge(["x"]))
    assert len(server.asked) == 1


def test_what_is_no_chat_completion_stops_the_judge(serve: Serve) -> None:
    server = serve(lambda body, about: (200, "<html>\x07hello</html>", {}))
    with pytest.raises(JudgeStopped, match=r"no chat completion: `<html>.hello</html>`"):
        list(judge(server.url, retries=1).judge(["x"]))


def test_an_answer_that_cannot_be_read_is_invalid_not_dropped(serve: Serve) -> None:
    def some(body: dict[str, Any], about: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        odd = "odd" in body["messages"][0]["content"]
        return says("I would rather not say." if odd else "law")

    rows = list(judge(serve(some).url).judge(["odd", "x", "odd", "odd"]))
    assert rows == [None, (1.0, 0.0), None, None]


def test_nothing_but_nonsense_stops_the_judge_and_is_not_kept(serve: Serve) -> None:
    def some(body: dict[str, Any], about: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        return says("law" if "good" in body["messages"][0]["content"] else "lorem ipsum")

    got: list[Any] = []
    texts = ["good", "bad", "good", *["bad"] * 9]
    with pytest.raises(JudgeStopped, match=r"4 answers in a row.*`lorem ipsum`"):
        got.extend(judge(serve(some).url, max_nonsense=4).judge(texts))
    assert got == [(1.0, 0.0), None, (1.0, 0.0)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"law": 0.25, "medicine": 0.75}', (0.25, 0.75)),
        ('Sure! ```json\n{"law": 30, "medicine": 10}\n```', (0.75, 0.25)),
        ('{"law": 1} no, {"medicine": 1}', (0.0, 1.0)),
        ('{"Law ": 1}', (1.0, 0.0)),
        ("medicine", (0.0, 1.0)),
        (" **Law**. ", (1.0, 0.0)),
        ('{"domain": "medicine"}', (0.0, 1.0)),
        ("", None),
        ("law or medicine", None),
        ('{"law": 0, "medicine": 0}', None),
        ('{"law": -1, "medicine": 2}', None),
        ('{"law": NaN}', None),
        ('{"law": true}', None),
        ('{"law": "0.5"}', None),
        ('{"law": 0.5, "politics": 0.5}', None),
        ('{"law": 1e400}', None),
        ("{law: 1}", None),
        ("{}", None),
        ('{"law": ' + "9" * 400 + "}", None),
        ('{"law": ' + "[" * 100_000 + "}", None),
    ],
    ids=lambda given: given[:20] if isinstance(given, str) else None,
)
def test_what_an_answer_means(answer: str, expected: tuple[float, ...] | None) -> None:
    assert parse(answer, DOMAINS) == expected


def test_domains_that_differ_in_case_only_are_told_apart() -> None:
    assert parse('{"Law": 0.25, "law": 0.75}', ("Law", "law")) == (0.25, 0.75)
    assert parse("Law", ("Law", "law")) == (1.0, 0.0)
    assert parse("LAW", ("Law", "law")) is None
