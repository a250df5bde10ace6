"""Calls between a program and its tests: both sides here in threads, over a real socket."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lamina.evaluate.sandbox.codec import MAX_BYTES, encode
from lamina.evaluate.sandbox.remote import CALLS, Gone, Peer, Remote
from lamina.evaluate.sandbox.remote_program import serve
from lamina.evaluate.sandbox.remote_tests import ProgramFailed, examine


@contextmanager
def other_side(work: Callable[[int], None]) -> Iterator[int]:
    """A descriptor whose other end is worked at by a thread."""
    ours, theirs = socket.socketpair()

    def run() -> None:
        try:
            work(theirs.fileno())
        except BaseException as error:
            ended.append(error)
        finally:
            theirs.close()

    ended: list[BaseException] = []
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ours.fileno()
    finally:
        ours.close()
        thread.join()


def check(program: str, tests: str, *names: str) -> None:
    with other_side(lambda fd: serve(fd, program)) as fd:
        examine(fd, tests, names)


def asked_of(program: str, name: str) -> Any:
    """What one name of the program is on the other side, while nothing else is asked."""
    with other_side(lambda fd: serve(fd, program)) as fd:
        peer = Peer(fd, CALLS)
        peer.read()
        return peer.ask("look up", name)


def test_a_function_is_called_with_copies_and_gives_a_copy() -> None:
    check(
        "def add(xs, *, more=()):\n    xs.append(3)\n    return xs + list(more)",
        "mine = [1, 2]\nassert add(mine, more=(4,)) == [1, 2, 3, 4]\nassert mine == [1, 2]",
        "add",
    )


def test_a_wrong_answer_fails_the_tests() -> None:
    with pytest.raises(AssertionError, match="no"):
        check("def f(): return 1", "assert f() == 2, 'no'", "f")


def test_plain_values_of_the_program_can_be_looked_up() -> None:
    assert asked_of("table = {1: [2]}", "table") == {1: [2]}


def test_a_name_the_program_lacks_is_not_defined_in_the_tests() -> None:
    with pytest.raises(NameError, match="missing"):
        check("def f(): return 1", "assert missing() == 1", "f", "missing")


@pytest.mark.parametrize(
    ("raised", "caught"),
    [
        ("ValueError('bad', 3)", "ValueError"),
        ("KeyError('k')", "KeyError"),
        ("UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')", "UnicodeDecodeError"),
        ("type('Mine', (IndexError,), {})('i')", "IndexError"),
        ("type('Mine', (Exception,), {})('i')", "Exception"),
    ],
)
def test_an_error_comes_out_as_the_nearest_built_in_one(raised: str, caught: str) -> None:
    check(
        f"error = {raised}\ndef f(): raise error\ndef said(): return error.args",
        f"try:\n    f()\nexcept Exception as e:\n    kind, args = type(e), e.args\n"
        f"assert kind is {caught} and args == said()",
        "f",
        "said",
    )


def test_leaving_in_a_call_leaves_the_tests() -> None:
    with pytest.raises(SystemExit):
        check("import sys\ndef f(): sys.exit(0)", "f()", "f")


def test_a_program_that_fails_is_told_before_any_test() -> None:
    with pytest.raises(ProgramFailed, match="ZeroDivisionError: division by zero"):
        check("1 / 0", "raise AssertionError('a test was run')")


def test_a_generator_is_iterated_over_there() -> None:
    check(
        "def squares(n):\n    for i in range(n):\n        yield [i * i]",
        "assert list(squares(3)) == [[0], [1], [4]]\n"
        "g = squares(2)\nassert next(g) == [0]\nassert next(g, None) == [1]\n"
        "assert next(g, None) is None and iter(g) is g\nassert [4] in squares(9)",
        "squares",
    )


def test_things_that_are_not_plain_equal_only_themselves() -> None:
    check(
        "class Yes:\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "yes = Yes()\ndef f(): return yes",
        "assert f() is f() and f() == f()\nassert f() != 1 and not 1 == f() and f() != [1]\n"
        "assert [f()] != [1] and {1: f()} != {1: 2} and f() not in (1, 2)",
        "f",
    )


def test_the_failure_names_what_was_not_plain() -> None:
    with pytest.raises(AssertionError) as caught:
        check("def f(): return map(str, [1])", "assert f() == ['1']", "f")
    assert caught.value.__notes__ == ["compared as unequal, since it is no plain value: map"]


def test_instances_go_back_and_their_attributes_are_reached() -> None:
    check(
        "class Node:\n    def __init__(self, value):\n        self.value, self.left = value, None\n"
        "def depth(node):\n    assert node is None or type(node) is Node\n"
        "    return 0 if node is None else 1 + depth(node.left)",
        "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\n"
        "assert depth(root) == 3 and root.left.value == 2\ndel root.left\n"
        "try:\n    root.left\nexcept AttributeError:\n    pass\nelse:\n    assert False",
        "Node",
        "depth",
    )


def test_items_length_truth_and_words_are_asked_over_there() -> None:
    check(
        "class Box:\n    def __init__(self): self.d = {}\n"
        "    def __getitem__(self, k): return self.d[k]\n"
        "    def __setitem__(self, k, v): self.d[k] = v\n"
        "    def __delitem__(self, k): del self.d[k]\n"
        "    def __len__(self): return len(self.d)\n    def __repr__(self): return 'Box!'",
        "b = Box()\nassert not b\nb['x'] = [1]\nassert b and len(b) == 1 and b['x'] == [1]\n"
        "assert str(b) == repr(b) == f'{b}' == 'Box!'\ndel b['x']\nassert len(b) == 0",
        "Box",
    )


@pytest.mark.parametrize("use", ["len(f())", "iter(f())", "str(f())", "bool(f())", "f'{f()}'"])
def test_an_answer_of_the_wrong_type_is_an_error_of_the_tests(use: str) -> None:
    def work(fd: int) -> None:
        peer = Peer(fd, CALLS)
        peer.write(peer.value(""))
        while True:
            match peer._message():
                case ("ask", "look up" | "call", *_):
                    peer.write(peer.value(work))
                case _:
                    peer.write(peer.value([2]))

    with other_side(work) as fd, pytest.raises(TypeError):
        examine(fd, use, ("f",))


def test_a_function_of_the_tests_can_be_called_by_the_program() -> None:
    check(
        "def apply(f, xs): return [f(x) for x in xs]\ndef g(x): return -x",
        "seen = []\ndef note(x):\n    seen.append(x)\n    return g(x)\n"
        "assert apply(note, [1, 2]) == [-1, -2] and seen == [1, 2]\n"
        "assert apply(len, ['abc']) == [3]",
        "apply",
        "g",
    )


def test_an_error_in_a_function_of_the_tests_reaches_the_program() -> None:
    check(
        "def safe(f):\n    try: return f()\n    except KeyError as e: return e.args",
        "def bad(): raise KeyError('k')\nassert safe(bad) == ('k',)",
        "safe",
    )


@pytest.mark.parametrize("deed", ["f.__globals__", "f.__code__", "str(f)", "list(f)", "f[0]"])
def test_the_program_can_only_call_what_the_tests_hand_over(deed: str) -> None:
    with pytest.raises(Gone):
        check(f"def look(f):\n    return {deed}", "secret = 1\nlook(lambda: secret)", "look")


def test_the_program_cannot_look_up_names_of_the_tests() -> None:
    with pytest.raises(Gone):
        check(
            "def look(f):\n    peer = object.__getattribute__(f, '_peer')\n"
            "    return peer.ask('look up', 'secret')",
            "secret = 1\nlook(lambda: secret)",
            "look",
        )


def test_a_program_that_has_gone_fails_tests_that_swallow_everything() -> None:
    def work(fd: int) -> None:
        peer = Peer(fd, CALLS)
        peer.write(peer.value(""))
        peer._message()
        peer.write(peer.value(len))

    with other_side(work) as fd, pytest.raises(Gone, match="ended"):
        examine(fd, "try:\n    f([])\nexcept BaseException:\n    pass", ("f",))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x01",
        b"\0\0\0\0",
        b"\x01\0\0\0N",
        b"\xff\xff\xff\xff",
        (MAX_BYTES + 1).to_bytes(4, "little"),
        b"\x05\0\0\0L\xff\xff\xff\xff",
        b"\x04\0\0\0????",
    ],
    ids=repr,
)
def test_whatever_bytes_the_other_side_sends_no_test_goes_on(sent: bytes) -> None:
    def work(fd: int) -> None:
        os.write(fd, sent)

    with other_side(work) as fd, pytest.raises(Gone):
        examine(fd, "pass", ())


@pytest.mark.parametrize(
    "reply",
    [
        ("value",),
        ("value", 1, 2),
        ("error", "ValueError"),
        ("error", 1, ()),
        ("error", "ValueError", [1]),
        ("ask",),
        ("ask", 1),
        ("ask", "look up", "tests"),
        ("ask", "attr", 0, "__globals__"),
        ("ask", "exec", 0, "1"),
        "value",
    ],
    ids=repr,
)
def test_a_reply_of_another_form_ends_the_tests(reply: Any) -> None:
    def work(fd: int) -> None:
        data = encode(reply, lambda thing: (b"H", 0))
        os.write(fd, len(data).to_bytes(4, "little") + data)

    with other_side(work) as fd, pytest.raises(Gone):
        examine(fd, "pass", ())


@pytest.mark.parametrize(
    "asked", [("call", 0, (), {}), ("call", -1, (), {}), ("call", "0"), ("call",)]
)
def test_a_call_of_what_was_never_handed_over_is_an_error_there(asked: tuple[Any, ...]) -> None:
    def work(fd: int) -> None:
        peer = Peer(fd, CALLS)
        with pytest.raises((IndexError, TypeError, ValueError)):
            peer.ask(*asked)
        told.append("refused")
        peer.write(peer.value(""))

    told: list[str] = []
    with other_side(work) as fd:
        examine(fd, "pass", ())
    assert told == ["refused"]


def test_an_unknown_error_is_some_exception() -> None:
    def work(fd: int) -> None:
        peer = Peer(fd, CALLS)
        peer.write(peer.value(""))
        peer._message()
        data = encode(("error", "open", ("x",)), peer._keep)
        peer.write(data)

    with other_side(work) as fd, pytest.raises(Exception, match="x") as caught:
        examine(fd, "pass", ("f",))
    assert type(caught.value) is Exception


def test_too_large_an_answer_is_an_error_and_the_program_lives_on() -> None:
    check(
        f"def f(n): return bytes(n)\nbig = {MAX_BYTES}",
        "try:\n    f(big)\nexcept Exception as e:\n    told = str(e)\n"
        "assert 'at most' in told and f(2) == bytes(2)",
        "f",
        "big",
    )


def test_remote_things_have_no_attributes_of_ours() -> None:
    assert Remote.__slots__ == ("_kind", "_number", "_peer")


def test_after_a_broken_answer_nothing_more_is_asked() -> None:
    def work(fd: int) -> None:
        peer = Peer(fd, CALLS)
        peer.write(peer.value(""))
        peer._message()
        peer.write(peer.value(len))
        peer._message()
        os.write(fd, b"\x01\0\0\0?")
        rest.append(os.read(fd, 100))

    rest: list[bytes] = []
    swallowing = "for _ in range(3):\n    try: f([])\n    except BaseException: pass"
    with other_side(work) as fd, pytest.raises(Gone, match="no value begins"):
        examine(fd, swallowing, ("f",))
    assert rest == [b""]


def test_a_message_that_is_too_long_is_not_waited_for() -> None:
    def work(fd: int) -> None:
        os.write(fd, (MAX_BYTES + 1).to_bytes(4, "little"))
        os.read(fd, 1)

    with other_side(work) as fd, pytest.raises(Gone, match=f"a message of {MAX_BYTES + 1} bytes"):
        examine(fd, "pass", ())
