import pytest

from lamina.evaluate.sandbox.inside.suspicious import LONGEST, found


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys\nsys._getframe()", "._getframe"),
        ("import gc", "import gc"),
        ("from ctypes import c_int", "import ctypes"),
        ("from os import _exit", "os._exit"),
        ("from sys import settrace", "sys.settrace"),
        ("import importlib.util", "import importlib.util"),
        ("import _thread", "import _thread"),
        ("getattr(os, '_exit')", "'_exit' in a text"),
        ("open('/proc/self/mem')", "'/proc/self/mem'"),
        ("class A:\n def __eq__(self, other): return True", "__eq__ that compares nothing"),
        ("class A:\n __eq__ = lambda self, other: True", "__eq__ that is assigned"),
        ("int.__eq__ = f", ".__eq__"),
        ("AssertionError = ValueError", "redefines AssertionError"),
        ("class AssertionError(Exception): pass", "redefines AssertionError"),
        ("from m import f as all", "redefines all"),
        ("def all(x): return True", "redefines all"),
        ("exec('x = 1')", "exec"),
        ("().__class__.__base__.__subclasses__()", ".__subclasses__"),
    ],
)
def test_a_construct_no_solution_needs_is_told(source, told):
    assert told in found(source)


@pytest.mark.parametrize(
    "source",
    [
        "import math, re, collections, itertools, functools, dataclasses, typing, sys, os, random",
        "from __future__ import annotations\nfrom collections import Counter",
        "def f(x):\n  sum = 0\n  for one in x: sum += eval(str(one))\n  return sum",
        "class P:\n def __eq__(self, other): return self.x == other.x",
        "try:\n  assert f(1)\nexcept AssertionError: print('code')",
        "if __name__ == '__main__': print(sorted(set([1])))",
    ],
)
def test_a_normal_solution_has_an_empty_list(source):
    assert found(source) == []


@pytest.mark.parametrize("source", ["x =", "\0", "x='\ud800'", "(" * 10_000])
def test_what_is_no_program_has_an_empty_list(source):
    assert found(source) == []


def test_a_text_too_long_to_be_read_in_the_supervisor_is_told_as_such() -> None:
    line = "gc = 1\n"
    assert found(line * (LONGEST // len(line))) == []
    assert found("import gc\n" + line * LONGEST) == [f"longer than {LONGEST} characters"]
